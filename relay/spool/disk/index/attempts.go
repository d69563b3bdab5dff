// How the attempts to deliver a message are written in its record.

package index

import (
	"encoding/binary"
	"time"

	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
)

// appendAttempts writes attempts: how many, and of each the time, how long it took, the status and
// the texts.
func appendAttempts(b []byte, attempts []spool.Attempt) []byte {
	b = binary.AppendUvarint(b, uint64(len(attempts)))
	for _, a := range attempts {
		b = binary.AppendUvarint(b, uint64(max(UnixNano(a.At), 0)))
		b = binary.AppendUvarint(b, uint64(max(a.Took, 0)))
		b = binary.AppendUvarint(b, uint64(max(a.Status, 0)))
		b = appendText(b, a.Error)
		b = appendText(b, a.Upstream)
		b = appendText(b, a.Gateway)
	}
	return b
}

// attempts reads them.
func (r *textReader) attempts() []spool.Attempt {
	n := r.number()
	if n == 0 {
		return nil
	}
	if r.bad || n > spool.MaxAttempts {
		r.bad = true
		return nil
	}
	attempts := make([]spool.Attempt, n)
	for i := range attempts {
		attempts[i] = spool.Attempt{
			At: FromUnixNano(r.nanos()), Took: time.Duration(r.nanos()), Status: r.number(),
			Error: r.text(), Upstream: r.text(), Gateway: r.text(),
		}
	}
	if r.bad {
		return nil
	}
	return attempts
}

// nanos reads a number that may need 63 bits.
func (r *textReader) nanos() int64 {
	var n uint64
	for i := 0; i < len(r.rest) && i < 9; i++ {
		c := r.rest[i]
		n |= uint64(c&0x7f) << (7 * i)
		if c < 0x80 {
			r.rest = r.rest[i+1:]
			return int64(n)
		}
	}
	r.bad, r.rest = true, ""
	return 0
}

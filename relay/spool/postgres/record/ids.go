// Times in ids: a store makes ids in SQL, by the rule of [spool.IDSource].

package record

import (
	"crypto/rand"
	"encoding/binary"
	"time"

	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
)

// Tick is the time in an id: milliseconds, and 12 bits of fractions of one.
func Tick(id spool.ID) int64 {
	high := binary.BigEndian.Uint64(id[:8])
	return int64(high>>16<<12 | high&0xfff)
}

// ReceivedAt is the moment in an id, which is when it was accepted, by the clock of the database.
func ReceivedAt(id spool.ID) time.Time {
	t := Tick(id)
	return time.UnixMicro(t >> 12 * 1000).Add(time.Duration(t&0xfff) * time.Millisecond / 4096)
}

// idFrom returns the lowest id that can be of a message accepted at this moment or later.
func idFrom(at time.Time) spool.ID {
	nanos := at.UnixNano() // rounded up, to what ReceivedAt returns
	t := nanos / 1e6 << 12
	t += (nanos%1e6*4096 + 1e6 - 1) / 1e6
	var id spool.ID
	binary.BigEndian.PutUint64(id[:], uint64(t)>>12<<16|0x7000|uint64(t)&0xfff)
	return id
}

// Random returns the 62 random bits of an id with the variant before them (RFC 9562, section 4.1).
func Random() int64 {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails, see its documentation
	b[0] = b[0]&0x3f | 0x80
	return int64(binary.BigEndian.Uint64(b[:]))
}

// Times in ids: a store makes ids in SQL, by the rule of [spool.IDSource].

package postgres

import (
	"encoding/binary"
	"time"

	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
)

// tick is the time in an id: milliseconds, and 12 bits of fractions of one.
func tick(id spool.ID) int64 {
	high := binary.BigEndian.Uint64(id[:8])
	return int64(high>>16<<12 | high&0xfff)
}

// receivedAt is the moment in an id, which is when it was accepted, by the clock of the database.
func receivedAt(id spool.ID) time.Time {
	t := tick(id)
	return time.UnixMicro(t >> 12 * 1000).Add(time.Duration(t&0xfff) * time.Millisecond / 4096)
}

// idFrom returns the lowest id that can be of a message accepted at this moment or later.
func idFrom(at time.Time) spool.ID {
	nanos := at.UnixNano() // rounded up, to what receivedAt returns
	t := nanos / 1e6 << 12
	t += (nanos%1e6*4096 + 1e6 - 1) / 1e6
	var id spool.ID
	binary.BigEndian.PutUint64(id[:], uint64(t)>>12<<16|0x7000|uint64(t)&0xfff)
	return id
}

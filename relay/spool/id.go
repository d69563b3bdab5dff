// Message identifiers: UUIDs of version 7, so that the order of the bytes is
// the order of acceptance.

package spool

import (
	"crypto/rand"
	"encoding/binary"
	"time"

	"github.com/google/uuid"
)

// ID names a message. It is a UUID of version 7 (RFC 9562, section 5.7): ids
// that one inbox gives out rise with every message accepted, across restarts
// and whatever the clock does, as bytes and as text. It is also the
// message's `webhook-id` towards the service, the same over every attempt.
type ID [16]byte

// ParseID reads the text form of an ID.
func ParseID(text string) (ID, error) {
	u, err := uuid.Parse(text)
	return ID(u), err
}

// String returns the canonical text form, 36 characters.
func (id ID) String() string { return uuid.UUID(id).String() }

// MarshalText implements encoding.TextMarshaler.
func (id ID) MarshalText() ([]byte, error) { return uuid.UUID(id).MarshalText() }

// UnmarshalText implements encoding.TextUnmarshaler.
func (id *ID) UnmarshalText(text []byte) error { return (*uuid.UUID)(id).UnmarshalText(text) }

// IsZero reports whether id is unset.
func (id ID) IsZero() bool { return id == ID{} }

// Compare orders ids by time of acceptance: negative if id came before other.
func (id ID) Compare(other ID) int {
	if c := compareUint64(id.high(), other.high()); c != 0 {
		return c
	}
	return compareUint64(binary.BigEndian.Uint64(id[8:]), binary.BigEndian.Uint64(other[8:]))
}

// Time returns the moment in the id, to the millisecond. It is the time of
// acceptance unless the clock had gone backwards.
func (id ID) Time() time.Time { return time.UnixMilli(int64(id.high() >> 16)) }

func (id ID) high() uint64 { return binary.BigEndian.Uint64(id[:8]) }

func compareUint64(a, b uint64) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// IDSource makes rising ids. It is not safe for concurrent use.
type IDSource struct {
	last uint64 // of the last id: its milliseconds, and the 12 bits behind them
}

// Resume continues after an id made earlier, by this process or one before.
func (s *IDSource) Resume(last ID) {
	s.last = max(s.last, last.high()>>16<<12|last.high()&0xfff)
}

// Next returns an id greater than every one before. The 12 bits behind the milliseconds are the
// fraction of the millisecond (RFC 9562, section 6.2, method 3), so that ids of several gateways
// rise with the time; they count on where the clock does not.
func (s *IDSource) Next(now time.Time) ID {
	s.last = max(s.last+1, uint64(max(now.UnixMicro(), 0))*4096/1000)

	var id ID
	binary.BigEndian.PutUint64(id[:], s.last>>12<<16|0x7000|s.last&0xfff)
	_, _ = rand.Read(id[8:]) // never fails, see its documentation
	id[8] = id[8]&0x3f | 0x80
	return id
}

// What is known of a route and of a segment, and how it is written.

package index

import (
	"encoding/binary"

	"github.com/caddy-deepgram/deepgram-callback/relay/spool/disk/bodies"
)

// Tally is what an index holds, counted rather than believed.
type Tally struct {
	Routes   map[uint32]routeTotals // by number
	Segments map[uint32]bodies.Stats
	Prints   uint64 // the last sequence; 0 if there is none

	// unreadable is how many records cannot be read. Where their bodies are is then not known.
	Unreadable int
}

// RouteInfo is what the index knows of a route.
type RouteInfo struct {
	Name   string
	Number uint32
	Counts routeTotals
}

// routeTotals are kept up to date with every transaction.
type routeTotals struct {
	Pending, PendingBytes, Dead, DeadBytes, Parked int64
}

func (i *RouteInfo) Encode() []byte {
	b := binary.BigEndian.AppendUint32(nil, i.Number)
	c := i.Counts
	for _, n := range [...]int64{c.Pending, c.PendingBytes, c.Dead, c.DeadBytes, c.Parked} {
		b = binary.BigEndian.AppendUint64(b, uint64(n))
	}
	return b
}

func ParseRouteInfo(name string, b []byte) *RouteInfo {
	i := &RouteInfo{Name: name, Number: Uint32(b)}
	c := &i.Counts
	for k, n := range [...]*int64{&c.Pending, &c.PendingBytes, &c.Dead, &c.DeadBytes, &c.Parked} {
		if at := 4 + 8*k; at+8 <= len(b) {
			*n = int64(Uint64(b[at:]))
		}
	}
	return i
}

func EncodeSegmentStats(s bodies.Stats) []byte {
	b := binary.BigEndian.AppendUint64(nil, uint64(s.Size))
	b = binary.BigEndian.AppendUint64(b, uint64(s.Live))
	return binary.BigEndian.AppendUint64(b, uint64(s.LiveBytes))
}

func ParseSegmentStats(b []byte) bodies.Stats {
	if len(b) < 24 {
		return bodies.Stats{}
	}
	return bodies.Stats{
		Size:      int64(Uint64(b)),
		Live:      int64(Uint64(b[8:])),
		LiveBytes: int64(Uint64(b[16:])),
	}
}

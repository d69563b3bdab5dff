// What is known of a route and of a segment, and how it is written.

package index

import (
	"encoding/binary"
	"hash/maphash"

	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/disk/bodies"
)

// Tally is what an index holds, counted rather than believed.
type Tally struct {
	Routes   map[uint32]routeTotals // by number
	Segments map[uint32]bodies.Stats
	Prints   uint64 // the last sequence; 0 if there is none

	// Requests has of each message with a request id where to find it, in no order.
	Requests []Request

	// unreadable is how many records cannot be read. Where their bodies are is then not known.
	Unreadable int
}

// requestSeed makes hashes of request ids that nobody outside of the process can foresee.
var requestSeed = maphash.MakeSeed()

// HashRequest returns the hash of a request id, never zero.
func HashRequest(id string) uint32 { return uint32(maphash.String(requestSeed, id)) | 1 }

// RouteInfo is what the index knows of a route.
type RouteInfo struct {
	Name   string
	Number uint32
	Counts routeTotals
}

// Request says that a message has a request id, of which this is a hash.
type Request struct {
	ID   spool.ID
	Hash uint32
}

// routeTotals are kept up to date with every transaction.
type routeTotals struct {
	Pending, PendingBytes, Dead, DeadBytes, Parked int64
	Delivered, DeliveredBytes                      int64
}

// IsZero reports whether there is nothing.
func (t routeTotals) IsZero() bool { return t == routeTotals{} }

// The size of what is written of a route. An earlier version kept nothing that was delivered.
const (
	routeInfoSize1 = 4 + 5*8
	routeInfoSize  = 4 + 7*8
)

// fields are the totals in the order in which they are written.
func (t *routeTotals) fields() [7]*int64 {
	return [7]*int64{
		&t.Pending, &t.PendingBytes, &t.Dead, &t.DeadBytes, &t.Parked, &t.Delivered, &t.DeliveredBytes,
	}
}

// Encode writes the number and the totals.
func (i *RouteInfo) Encode() []byte {
	b := binary.BigEndian.AppendUint32(nil, i.Number)
	for _, n := range i.Counts.fields() {
		b = binary.BigEndian.AppendUint64(b, uint64(*n))
	}
	return b
}

func ParseRouteInfo(name string, b []byte) *RouteInfo {
	i := &RouteInfo{Name: name, Number: Uint32(b)}
	for k, n := range i.Counts.fields() {
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

// The keys in the buckets.

package index

import (
	"encoding/binary"

	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
)

const (
	routeKeySize = 4
	idKeySize    = routeKeySize + 16
	timeKeySize  = routeKeySize + 8 + 16
	printSize    = len(spool.Fingerprint{}) + len(spool.ID{})
)

func RouteKey(route uint32) []byte {
	return binary.BigEndian.AppendUint32(make([]byte, 0, 32), route)
}

func IDKey(route uint32, id spool.ID) []byte { return append(RouteKey(route), id[:]...) }

func KeyID(key []byte) spool.ID { return spool.ID(key[len(key)-len(spool.ID{}):]) }

func OrderPrefix(route uint32, order uint64) []byte {
	return binary.BigEndian.AppendUint64(RouteKey(route), order)
}

func orderKey(route uint32, order uint64, id spool.ID) []byte {
	return append(OrderPrefix(route, order), id[:]...)
}

// timeKey is the key of Due and Died. Times before 1970 are as good as zero.
func timeKey(route uint32, nanos int64, id spool.ID) []byte {
	return append(binary.BigEndian.AppendUint64(RouteKey(route), uint64(max(nanos, 0))), id[:]...)
}

func KeyTime(key []byte) int64 { return int64(binary.BigEndian.Uint64(key[routeKeySize:])) }

func Uint32(b []byte) uint32 {
	if len(b) < 4 {
		return 0
	}
	return binary.BigEndian.Uint32(b)
}

func Uint64(b []byte) uint64 {
	if len(b) < 8 {
		return 0
	}
	return binary.BigEndian.Uint64(b)
}

// ParsePrint reads a fingerprint. It is not ok for what is none.
func ParsePrint(value []byte) (p spool.Print, ok bool) {
	if len(value) != printSize {
		return p, false
	}
	copy(p.Fingerprint[:], value)
	p.ID = spool.ID(value[len(p.Fingerprint):])
	p.At = p.ID.Time()
	return p, true
}

// What the index has of a live stream.

package index

import (
	"encoding/binary"

	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
)

// EncodeStream returns the value of a stream: the name of its route, with its length before it, and
// its data.
func EncodeStream(s spool.OpenStream) []byte {
	value := binary.AppendUvarint(nil, uint64(len(s.Route)))
	value = append(value, s.Route...)
	return append(value, s.Data...)
}

// ParseStream returns the stream with a key and a value, which it may go on using. Of a damaged
// value all is data, which whoever reads that finds out.
func ParseStream(key, value []byte) spool.OpenStream {
	s := spool.OpenStream{ID: string(key), Data: value}
	if size, n := binary.Uvarint(value); n > 0 && size <= uint64(len(value)-n) {
		s.Route, s.Data = string(value[n:n+int(size)]), value[n+int(size):]
	}
	return s
}

// What the database need not understand of a message: one value.

package record

import (
	"encoding/binary"
	"errors"
	"net/http"
	"time"

	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
)

// A meta value is a version byte, then texts with their length before each: method, URI, request
// id, user, and the header as the number of names, and for each the name, the number of values, and
// the values.
//
// That of an imported message has another version byte, and eight bytes for the time of receipt
// before the rest: another store may have taken it at another moment than the id.
const (
	metaVersion         = 1
	metaVersionImported = 2
)

var errMeta = errors.New("unreadable record")

// EncodeMeta writes what is in no other column.
func EncodeMeta(m *spool.Message) []byte {
	b := make([]byte, 0, 256+len(m.URI))
	b = append(b, metaVersion)
	for _, text := range [...]string{m.Method, m.URI, m.RequestID, m.User} {
		b = appendText(b, text)
	}
	b = binary.AppendUvarint(b, uint64(len(m.Header)))
	for name, values := range m.Header {
		b = appendText(b, name)
		b = binary.AppendUvarint(b, uint64(len(values)))
		for _, value := range values {
			b = appendText(b, value)
		}
	}
	return b
}

func appendText(b []byte, text string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(text))), text...)
}

// EncodeImportedMeta is EncodeMeta for a message that comes from another store.
func EncodeImportedMeta(m *spool.Message) []byte {
	b := binary.BigEndian.AppendUint64(
		[]byte{metaVersionImported}, uint64(m.ReceivedAt.UnixNano()))
	return append(b, EncodeMeta(m)[1:]...)
}

func decodeMeta(b []byte, m *spool.Message) error {
	if len(b) > 8 && b[0] == metaVersionImported {
		m.ReceivedAt = time.Unix(0, int64(binary.BigEndian.Uint64(b[1:])))
		b = b[8:]
	} else if len(b) == 0 || b[0] != metaVersion {
		return errMeta
	}
	r := metaReader{rest: b[1:]}
	m.Method, m.URI, m.RequestID, m.User = r.text(), r.text(), r.text(), r.text()
	names := r.number()
	m.Header = make(http.Header, min(names, 64))
	for range names {
		name := r.text()
		values := r.number()
		list := make([]string, 0, min(values, 4))
		for range values {
			if r.failed {
				return errMeta
			}
			list = append(list, r.text())
		}
		if r.failed {
			return errMeta
		}
		m.Header[name] = list
	}
	if r.failed || len(r.rest) > 0 {
		return errMeta
	}
	return nil
}

// metaReader reads one thing after another, nothing after a failure.
type metaReader struct {
	rest   []byte
	failed bool
}

func (r *metaReader) number() uint64 {
	n, size := binary.Uvarint(r.rest)
	// Of whatever it is the number, each takes a byte at least.
	if size <= 0 || n > uint64(len(r.rest)) {
		r.failed, r.rest = true, nil
		return 0
	}
	r.rest = r.rest[size:]
	return n
}

func (r *metaReader) text() string {
	n := r.number()
	if n > uint64(len(r.rest)) {
		r.failed, r.rest = true, nil
		return ""
	}
	text := string(r.rest[:n])
	r.rest = r.rest[n:]
	return text
}

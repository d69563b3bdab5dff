// How a message is written in a row: what the database need not understand is one value.

package postgres

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"net/http"
	"strings"
	"time"
	"unicode/utf8"

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

// errHistory stands for attempts that cannot be read: a message is delivered without them.
const errHistory = "the record of earlier attempts cannot be read"

func encodeMeta(m *spool.Message) []byte {
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

func encodeImportedMeta(m *spool.Message) []byte {
	b := binary.BigEndian.AppendUint64(
		[]byte{metaVersionImported}, uint64(m.ReceivedAt.UnixNano()))
	return append(b, encodeMeta(m)[1:]...)
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
	if size <= 0 ||
		n > uint64(len(r.rest)) { // of whatever it is the number, each takes a byte at least
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

const maxColumnText = 200

// clean returns a text as it is in a column to be searched: equal texts are equal there and others
// differ. The database takes no zero bytes, nothing that is not UTF-8, and indexes nothing that is
// long.
func clean(text string) string {
	if len(text) <= maxColumnText && utf8.ValidString(text) && !strings.ContainsRune(text, 0) {
		return text
	}
	sum := sha256.Sum256([]byte(text))
	text = strings.ReplaceAll(strings.ToValidUTF8(text, "\uFFFD"), "\x00", "\uFFFD")
	if len(text) > maxColumnText {
		text = strings.ToValidUTF8(text[:maxColumnText], "")
	}
	return text + "#" + hex.EncodeToString(sum[:16])
}

// requestKey is what a request id is found by; 0 for none.
func requestKey(id string) int64 {
	if id == "" {
		return 0
	}
	sum := sha256.Sum256([]byte(id))
	return int64(binary.BigEndian.Uint64(sum[:8]) | 1)
}

// encodeAttempts writes attempts as JSON that the database takes.
func encodeAttempts(attempts []spool.Attempt) (*string, error) {
	if len(attempts) == 0 {
		return nil, nil
	}
	plain := make([]spool.Attempt, len(attempts))
	for i, a := range attempts {
		a.Error, a.Upstream = spool.ClipError(a.Error), spool.ClipError(a.Upstream)
		a.Gateway = spool.ClipError(a.Gateway)
		plain[i] = a
	}
	b, err := json.Marshal(plain)
	text := string(b)
	return &text, err
}

// decodeAttempts reads attempts. Of those that cannot be read it says so, as of one at that time.
func decodeAttempts(text string, at time.Time) []spool.Attempt {
	var attempts []spool.Attempt
	if err := json.Unmarshal([]byte(text), &attempts); err != nil {
		return []spool.Attempt{{At: at, Error: errHistory}}
	}
	return attempts[max(0, len(attempts)-spool.MaxAttempts):]
}

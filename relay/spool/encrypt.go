// Encryption of what a store keeps: bodies and header fields. It is above the store, so that every
// store has it, and what has the store sees nothing. The package seal does it; this says what of a
// message is encrypted, and what of it cannot be taken apart.

package spool

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"

	"github.com/caddy-deepgram/deepgram-callback/relay/spool/identity"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/seal"
)

// ErrUndecryptable: the message was encrypted with a key that is not configured, or is not what was
// encrypted.
var ErrUndecryptable = errors.New("undecryptable")

// sealedField is the one field of a header that is sealed: the id of the key, how the body begins as
// it is stored, and the fields as they came. No real field can have this name.
const sealedField = ":sealed"

// findKey returns the key with an id.
func findKey(keys *seal.Keys, id string) (*seal.Key, error) {
	key := keys.Find(id)
	if key == nil {
		return nil, fmt.Errorf("%w: its key (id %.16q) is not among those of encrypt", ErrUndecryptable, id)
	}
	return key, nil
}

// openText returns a text that was sealed.
func openText(key *seal.Key, sealed, with []byte) ([]byte, error) {
	text, err := key.Open(sealed, with)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUndecryptable, err)
	}
	return text, nil
}

// sealer encrypts the body of a message on its way into a store, and then its header.
type sealer struct {
	*seal.Writer
	key *seal.Key
}

func newSealer(keys *seal.Keys, w BodyWriter) (*sealer, error) {
	key := keys.First()
	body, err := key.NewWriter(w)
	return &sealer{body, key}, err
}

// finish ends the body, and seals the header of its message.
func (s *sealer) finish(msg *Message) error {
	if err := s.Close(); err != nil {
		return err
	}
	fields, err := marshalHeader(msg.Header)
	if err != nil {
		return err
	}
	sealed := s.key.Seal(fields, bindings(msg, s.Head()))
	msg.Header = http.Header{sealedField: {s.key.ID() + string(s.Head()) + string(sealed)}}
	return nil
}

// marshalHeader returns the JSON form of header fields: with their values in base64, since they may
// be no text, which JSON would change.
func marshalHeader(header http.Header) ([]byte, error) {
	fields := make(map[string][][]byte, len(header))
	for name, values := range header {
		fields[name] = [][]byte{}
		for _, value := range values {
			fields[name] = append(fields[name], []byte(value))
		}
	}
	return json.Marshal(fields)
}

// unmarshalHeader reads what marshalHeader returned.
func unmarshalHeader(text []byte) (http.Header, error) {
	var fields map[string][][]byte
	if err := json.Unmarshal(text, &fields); err != nil {
		return nil, err
	}
	header := make(http.Header, len(fields))
	for name, values := range fields {
		header[name] = []string{}
		for _, value := range values {
			header[name] = append(header[name], string(value))
		}
	}
	return header, nil
}

// bindings is what the header fields of a message cannot be taken apart from: the method, the URI,
// and how the body begins as it is stored.
func bindings(msg *Message, head []byte) []byte {
	digest := sha256.New()
	identity.WriteParts(digest, msg.Method, msg.URI, string(head))
	return digest.Sum(nil)
}

// isSealed reports whether a message was encrypted.
func (m *Message) isSealed() bool { return len(m.Header[sealedField]) == 1 }

// lock is what opens the body of a message. Nil: it is not encrypted.
type lock struct {
	key  *seal.Key
	head []byte // how the body begins as it is stored
}

// unseal decrypts the header fields of a message, if they are encrypted, and gives it the size of
// its plain body.
func unseal(keys *seal.Keys, msg *Message) (*lock, error) {
	if !msg.isSealed() {
		return nil, nil
	}
	value := msg.Header[sealedField][0]
	msg.Header, msg.Size = nil, seal.PlainSize(msg.Size)
	if len(value) < seal.IDSize+seal.HeadSize {
		return nil, ErrUndecryptable
	}
	id, rest := value[:seal.IDSize], value[seal.IDSize:]
	head, sealed := []byte(rest[:seal.HeadSize]), []byte(rest[seal.HeadSize:])
	key, err := findKey(keys, id)
	if err != nil {
		return nil, err
	}
	fields, err := openText(key, sealed, bindings(msg, head))
	if err != nil {
		return nil, err
	}
	if msg.Header, err = unmarshalHeader(fields); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUndecryptable, err)
	}
	return &lock{key, head}, nil
}

// open returns the plain form of a body, and takes it over.
func (l *lock) open(stored Body) (Body, error) {
	if l == nil {
		return stored, nil
	}
	body := &openedBody{lock: l, stored: stored, size: seal.PlainSize(stored.Size())}
	if err := body.begin(); err != nil {
		return nil, errors.Join(fmt.Errorf("%w: %w", ErrUndecryptable, err), stored.Close())
	}
	return body, nil
}

// openedBody is the plain form of a body that is stored encrypted.
type openedBody struct {
	lock   *lock
	stored Body
	size   int64
	plain  io.Reader
	at     int64 // how far it was read
}

// begin reads from the beginning on.
func (b *openedBody) begin() error {
	plain, err := b.lock.key.NewReader(b.stored, b.lock.head)
	if err != nil {
		return err
	}
	b.plain, b.at = plain, 0
	return nil
}

// Size returns the size of the plain body.
func (b *openedBody) Size() int64 { return b.size }

// Read fails with [ErrDamaged] where the bytes are not those that were accepted.
func (b *openedBody) Read(p []byte) (int, error) {
	n, err := b.plain.Read(p)
	b.at += int64(n)
	if err != nil && err != io.EOF && !errors.Is(err, ErrDamaged) {
		err = fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return n, err
}

// Seek goes to a place of the plain body; back from where it is by reading it from the beginning.
func (b *openedBody) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += b.at
	case io.SeekEnd:
		offset += b.size
	}
	if offset < 0 {
		return b.at, errors.New("seek before the beginning of a body")
	}
	if offset < b.at {
		if err := b.begin(); err != nil {
			return b.at, err
		}
	}
	_, err := io.CopyN(io.Discard, b, min(offset, b.size)-b.at)
	return b.at, err
}

// Close closes what is stored.
func (b *openedBody) Close() error { return b.stored.Close() }

var _ Body = (*openedBody)(nil)

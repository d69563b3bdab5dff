// Encryption of what a store keeps: bodies and header fields. It is above the store, so that every
// store has it, and what has the store sees nothing.

package spool

import (
	"bytes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"

	"filippo.io/age"
	"golang.org/x/crypto/chacha20poly1305"
)

// ErrUndecryptable: the message was encrypted with a key that is not configured, or is not what was
// encrypted.
var ErrUndecryptable = errors.New("undecryptable")

// Keys encrypt what is stored, and decrypt it. Nil encrypts nothing.
//
// A body is a file of the age format (https://age-encryption.org/v1) whose key is wrapped by one of
// the keys; so it is authenticated piece by piece while it streams, and can be read from any place.
// The header fields are sealed with XChaCha20-Poly1305, together with what must not be exchanged:
// the method, the URI and the beginning of the body, which has the body's own key in it.
type Keys struct {
	all []*key // the first encrypts
}

// key is one of them.
type key struct {
	id    string // by which it is found; tells nothing of the key
	aead  cipher.AEAD
	blind [sha256.Size]byte // the key of fingerprints
}

const (
	// KeySize is the size of a key in bytes.
	KeySize = chacha20poly1305.KeySize

	// sealedField is the one field of a header that is sealed. No real field can have this name.
	sealedField = ":sealed"

	stanzaType = "deepgram-callback"

	// pieceSize and pieceOverhead are those of age's payload.
	pieceSize     = 64 << 10
	pieceOverhead = chacha20poly1305.Overhead
)

// NewKeys makes keys of their text form, base64 of 32 bytes. The first one encrypts, all decrypt. Its
// errors say which one is wrong and nothing of what it is.
func NewKeys(texts ...string) (*Keys, error) {
	if len(texts) == 0 {
		return nil, nil
	}
	keys := &Keys{}
	for i, text := range texts {
		k, err := newKey(strings.TrimSpace(text))
		if err != nil {
			return nil, fmt.Errorf("key %d of %d: %w", i+1, len(texts), err)
		}
		if keys.find(k.id) != nil {
			return nil, fmt.Errorf("key %d of %d: it stands there twice", i+1, len(texts))
		}
		keys.all = append(keys.all, k)
	}
	return keys, nil
}

func newKey(text string) (*key, error) {
	raw, err := base64.StdEncoding.DecodeString(text)
	switch {
	case text == "":
		return nil, errors.New("it is empty")
	case err != nil:
		return nil, errors.New("it is not base64 (make one with `openssl rand -base64 32`)")
	case len(raw) != KeySize:
		return nil, fmt.Errorf("it has %d bytes, not %d (make one with `openssl rand -base64 32`)", len(raw), KeySize)
	case bytes.Count(raw, raw[:1]) == len(raw):
		return nil, errors.New("all its bytes are the same (make one with `openssl rand -base64 32`)")
	}
	aead, err := chacha20poly1305.NewX(raw)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(append([]byte("deepgram_callback key id\x00"), raw...))
	return &key{
		id:    hex.EncodeToString(sum[:keyIDSize/2]),
		aead:  aead,
		blind: sha256.Sum256(append([]byte("deepgram_callback fingerprints\x00"), raw...)),
	}, nil
}

// blind hides a fingerprint, which would confirm to the store what somebody guesses of a body. It
// takes the last key, which stays when others are prepended.
func (k *Keys) blind(f Fingerprint) Fingerprint {
	if k == nil {
		return f
	}
	mac := hmac.New(sha256.New, k.all[len(k.all)-1].blind[:])
	mac.Write(f[:])
	return Fingerprint(mac.Sum(nil))
}

func (k *Keys) find(id string) *key {
	if k != nil {
		for _, key := range k.all {
			if key.id == id {
				return key
			}
		}
	}
	return nil
}

// seal encrypts a short text, and authenticates what goes with it.
func (k *key) seal(text, with []byte) []byte {
	nonce := make([]byte, chacha20poly1305.NonceSizeX, chacha20poly1305.NonceSizeX+len(text)+pieceOverhead)
	_, _ = rand.Read(nonce) // never fails, see its documentation
	return k.aead.Seal(nonce, nonce, text, with)
}

func (k *key) open(sealed, with []byte) ([]byte, error) {
	if len(sealed) < chacha20poly1305.NonceSizeX {
		return nil, ErrUndecryptable
	}
	nonce, sealed := sealed[:chacha20poly1305.NonceSizeX], sealed[chacha20poly1305.NonceSizeX:]
	text, err := k.aead.Open(nil, nonce, sealed, with)
	if err != nil {
		return nil, fmt.Errorf("%w: it was changed since", ErrUndecryptable)
	}
	return text, nil
}

// Wrap implements [age.Recipient].
func (k *key) Wrap(fileKey []byte) ([]*age.Stanza, error) {
	return []*age.Stanza{{Type: stanzaType, Args: []string{k.id}, Body: k.seal(fileKey, []byte(stanzaType))}}, nil
}

// Unwrap implements [age.Identity].
func (k *Keys) Unwrap(stanzas []*age.Stanza) ([]byte, error) {
	for _, s := range stanzas {
		if s.Type != stanzaType || len(s.Args) != 1 {
			continue
		}
		if key := k.find(s.Args[0]); key != nil {
			return key.open(s.Body, []byte(stanzaType))
		}
		return nil, missingKey(s.Args[0])
	}
	return nil, age.ErrIncorrectIdentity
}

func missingKey(id string) error {
	return fmt.Errorf("%w: its key (id %.16q) is not among those of encrypt", ErrUndecryptable, id)
}

// headSize is how many bytes are before the payload of an encrypted body: always the same.
var headSize = sync.OnceValue(func() int64 {
	k, err := newKey(base64.StdEncoding.EncodeToString([]byte("only to see how long a head is..")))
	if err != nil {
		panic(err)
	}
	var head bytes.Buffer
	if _, err := age.Encrypt(&head, k); err != nil {
		panic(err)
	}
	return int64(head.Len())
})

// plainSize is the size of a body of which that of its encrypted form is known.
func plainSize(encrypted int64) int64 {
	payload := encrypted - headSize()
	pieces := max((payload+pieceSize+pieceOverhead-1)/(pieceSize+pieceOverhead), 1)
	return max(payload-pieces*pieceOverhead, 0)
}

// sealer encrypts a body on its way into a store.
type sealer struct {
	BodyWriter
	key     *key
	head    []byte // the beginning of what is stored
	payload io.WriteCloser
}

func (k *Keys) sealBody(w BodyWriter) (*sealer, error) {
	s := &sealer{BodyWriter: w, key: k.all[0], head: make([]byte, 0, headSize())}
	var err error
	s.payload, err = age.Encrypt(sealedPart{s}, s.key)
	return s, err
}

// Write encrypts a part of the body.
func (s *sealer) Write(b []byte) (int, error) { return s.payload.Write(b) }

// sealedPart takes what is to be stored.
type sealedPart struct{ *sealer }

func (s sealedPart) Write(b []byte) (int, error) {
	if missing := cap(s.head) - len(s.head); missing > 0 {
		s.head = append(s.head, b[:min(missing, len(b))]...)
	}
	return s.BodyWriter.Write(b)
}

// finish ends the body, and seals the header of its message.
func (s *sealer) finish(msg *Message) error {
	if err := s.payload.Close(); err != nil {
		return err
	}
	fields, err := json.Marshal(msg.Header)
	if err != nil {
		return err
	}
	sealed := s.key.seal(fields, bindings(msg, s.head))
	msg.Header = http.Header{sealedField: {s.key.id + string(s.head) + string(sealed)}}
	return nil
}

// bindings is what the header fields of a message cannot be taken apart from.
func bindings(msg *Message, head []byte) []byte {
	digest := sha256.New()
	writeParts(digest, msg.Method, msg.URI, string(head))
	return digest.Sum(nil)
}

const keyIDSize = 16

// isSealed reports whether a message was encrypted.
func (m *Message) isSealed() bool { return len(m.Header[sealedField]) == 1 }

// unseal decrypts the header fields of a message, if they are encrypted, and gives it the size of its
// plain body. head is the beginning of the body as it is stored.
func (k *Keys) unseal(msg *Message) (head []byte, err error) {
	if !msg.isSealed() {
		return nil, nil
	}
	value := msg.Header[sealedField][0]
	msg.Header, msg.Size = nil, plainSize(msg.Size)
	if len(value) < keyIDSize+int(headSize()) {
		return nil, ErrUndecryptable
	}
	id, head, sealed := value[:keyIDSize], []byte(value[keyIDSize:keyIDSize+headSize()]), []byte(value[keyIDSize+headSize():])
	key := k.find(id)
	if key == nil {
		return nil, missingKey(id)
	}
	fields, err := key.open(sealed, bindings(msg, head))
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(fields, &msg.Header); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUndecryptable, err)
	}
	return head, nil
}

// openBody returns the plain form of a body, and takes it over. Without a head it is plain already.
func (k *Keys) openBody(head []byte, stored Body) (Body, error) {
	if head == nil {
		return stored, nil
	}
	at := &bodyAt{body: stored}
	begin := make([]byte, len(head))
	if _, err := at.ReadAt(begin, 0); err != nil || !bytes.Equal(begin, head) {
		return nil, errors.Join(fmt.Errorf("%w: its body is another one", ErrUndecryptable), stored.Close())
	}
	plain, size, err := age.DecryptReaderAt(at, stored.Size(), k)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%w: %w", ErrUndecryptable, err), stored.Close())
	}
	return &openedBody{SectionReader: io.NewSectionReader(plain, 0, size), stored: stored}, nil
}

// openedBody is the plain form of a body that is stored encrypted.
type openedBody struct {
	*io.SectionReader
	stored Body
}

// Read fails with [ErrDamaged] where the bytes are not those that were accepted.
func (b *openedBody) Read(p []byte) (int, error) {
	n, err := b.SectionReader.Read(p)
	if err != nil && err != io.EOF && !errors.Is(err, ErrDamaged) {
		err = fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return n, err
}

// Close closes what is stored.
func (b *openedBody) Close() error { return b.stored.Close() }

// bodyAt reads a body at any place. Its one user does not read at two at once.
type bodyAt struct {
	body Body
	at   int64
}

func (b *bodyAt) ReadAt(p []byte, at int64) (n int, err error) {
	if at != b.at {
		if _, err := b.body.Seek(at, io.SeekStart); err != nil {
			return 0, err
		}
	}
	n, err = io.ReadFull(b.body, p)
	b.at = at + int64(n)
	if err == io.ErrUnexpectedEOF {
		err = io.EOF
	}
	return n, err
}

var _ Body = (*openedBody)(nil)

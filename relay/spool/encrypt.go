// Encryption of what a store keeps: bodies and header fields. It is above the store, so that every
// store has it, and what has the store sees nothing.

package spool

import (
	"bytes"
	"crypto/cipher"
	"crypto/hkdf"
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

	"github.com/tink-crypto/tink-go/v2/streamingaead/subtle"
	"golang.org/x/crypto/chacha20poly1305"
)

// ErrUndecryptable: the message was encrypted with a key that is not configured, or is not what was
// encrypted.
var ErrUndecryptable = errors.New("undecryptable")

// Keys encrypt what is stored, and decrypt it. Nil encrypts nothing.
//
// A body is encrypted with AES-256-GCM in the streaming form of Tink (AES-GCM-HKDF): by a key of
// its own, and authenticated segment by segment while it streams. The header fields are sealed with
// XChaCha20-Poly1305, together with what must not be exchanged: the method, the URI, and the
// beginning of the body, from which the body's own key is derived.
type Keys struct {
	all []*key // the first encrypts
}

// key is one of them.
type key struct {
	id    string // by which it is found; tells nothing of the key
	aead  cipher.AEAD
	body  *subtle.AESGCMHKDF
	blind []byte // the key of fingerprints
}

const (
	// KeySize is the size of a key in bytes.
	KeySize = chacha20poly1305.KeySize

	// sealedField is the one field of a header that is sealed. No real field can have this name.
	sealedField = ":sealed"

	// keyIDSize is the size of the id of a key, headSize of what is before a body's first segment: its
	// length, a salt and the beginning of nonces.
	keyIDSize = 16
	headSize  = 1 + KeySize + subtle.AESGCMHKDFNoncePrefixSizeInBytes

	// segmentSize is that of an encrypted segment, the first one with the head.
	segmentSize = 4 << 10
	tagSize     = subtle.AESGCMHKDFTagSizeInBytes
)

// NewKeys makes keys of their text form, base64 of 32 bytes. The first one encrypts, all decrypt.
// Its errors say which one is wrong and nothing of what it is.
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
		return nil, fmt.Errorf(
			"it has %d bytes, not %d (make one with `openssl rand -base64 32`)",
			len(raw),
			KeySize,
		)
	case bytes.Count(raw, raw[:1]) == len(raw):
		return nil, errors.New("all its bytes are the same (make one with `openssl rand -base64 32`)")
	}
	subkey := func(use string) []byte {
		k, err := hkdf.Key(sha256.New, raw, nil, "deepgram_callback "+use, KeySize)
		if err != nil {
			panic(err) // for what is too long alone, see its documentation
		}
		return k
	}
	k := &key{id: hex.EncodeToString(subkey("id")[:keyIDSize/2]), blind: subkey("fingerprint")}
	if k.aead, err = chacha20poly1305.NewX(subkey("header")); err != nil {
		return nil, err
	}
	k.body, err = subtle.NewAESGCMHKDF(subkey("body"), "SHA256", KeySize, segmentSize, 0)
	return k, err
}

// blind hides a fingerprint, which would confirm to the store what somebody guesses of a body. It
// takes the last key, which stays when others are prepended.
func (k *Keys) blind(f Fingerprint) Fingerprint {
	if k == nil {
		return f
	}
	mac := hmac.New(sha256.New, k.all[len(k.all)-1].blind)
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
	nonce := make(
		[]byte,
		chacha20poly1305.NonceSizeX,
		chacha20poly1305.NonceSizeX+len(text)+chacha20poly1305.Overhead,
	)
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

func missingKey(id string) error {
	return fmt.Errorf("%w: its key (id %.16q) is not among those of encrypt", ErrUndecryptable, id)
}

// plainSize is the size of a body of which that of its encrypted form is known.
func plainSize(encrypted int64) int64 {
	segments := max((encrypted+segmentSize-1)/segmentSize, 1)
	return max(encrypted-headSize-segments*tagSize, 0)
}

// sealer encrypts a body on its way into a store.
type sealer struct {
	BodyWriter
	key     *key
	head    []byte // the beginning of what is stored
	payload io.WriteCloser
}

func (k *Keys) sealBody(w BodyWriter) (*sealer, error) {
	s := &sealer{BodyWriter: w, key: k.all[0], head: make([]byte, 0, headSize)}
	var err error
	s.payload, err = s.key.body.NewEncryptingWriter(sealedPart{s}, nil)
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
	fields, err := marshalHeader(msg.Header)
	if err != nil {
		return err
	}
	sealed := s.key.seal(fields, bindings(msg, s.head))
	msg.Header = http.Header{sealedField: {s.key.id + string(s.head) + string(sealed)}}
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

// bindings is what the header fields of a message cannot be taken apart from.
func bindings(msg *Message, head []byte) []byte {
	digest := sha256.New()
	writeParts(digest, msg.Method, msg.URI, string(head))
	return digest.Sum(nil)
}

// isSealed reports whether a message was encrypted.
func (m *Message) isSealed() bool { return len(m.Header[sealedField]) == 1 }

// lock is what opens the body of a message. Nil: it is not encrypted.
type lock struct {
	key  *key
	head []byte // how the body begins as it is stored
}

// unseal decrypts the header fields of a message, if they are encrypted, and gives it the size of
// its plain body.
func (k *Keys) unseal(msg *Message) (*lock, error) {
	if !msg.isSealed() {
		return nil, nil
	}
	value := msg.Header[sealedField][0]
	msg.Header, msg.Size = nil, plainSize(msg.Size)
	if len(value) < keyIDSize+headSize {
		return nil, ErrUndecryptable
	}
	id, head, sealed := value[:keyIDSize], []byte(
		value[keyIDSize:keyIDSize+headSize],
	), value[keyIDSize+headSize:]
	key := k.find(id)
	if key == nil {
		return nil, missingKey(id)
	}
	fields, err := key.open([]byte(sealed), bindings(msg, head))
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
	body := &openedBody{lock: l, stored: stored, size: plainSize(stored.Size())}
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

// errOtherBody: the body is not the one that the header was sealed with.
var errOtherBody = errors.New("its body is another one")

// begin reads from the beginning on.
func (b *openedBody) begin() error {
	if _, err := b.stored.Seek(0, io.SeekStart); err != nil {
		return err
	}
	head := make([]byte, headSize)
	if _, err := io.ReadFull(b.stored, head); err != nil || !bytes.Equal(head, b.lock.head) {
		return errOtherBody
	}
	var err error
	b.plain, err = b.lock.key.body.NewDecryptingReader(
		io.MultiReader(bytes.NewReader(head), b.stored),
		nil,
	)
	b.at = 0
	return err
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

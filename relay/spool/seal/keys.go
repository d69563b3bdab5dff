// Package seal has the cryptography by which an inbox hides from its store what it keeps. It knows keys,
// short texts and bodies; which texts they are, and what belongs to them, its user says.
//
//	keys.go  keys, texts that they seal, and fingerprints that they blind
//	body.go  bodies, which are encrypted while they stream
//
// A body is encrypted with AES-256-GCM in the streaming form of Tink (AES-GCM-HKDF): by a key of its
// own, and authenticated segment by segment. A short text is sealed with XChaCha20-Poly1305, together
// with what must not be exchanged. No error shows a key, or what is hidden.
package seal

import (
	"bytes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"

	"github.com/tink-crypto/tink-go/v2/streamingaead/subtle"
	"golang.org/x/crypto/chacha20poly1305"
)

const (
	// IDSize is the size of the id of a key.
	IDSize = 16

	keySize = chacha20poly1305.KeySize
)

// Keys encrypt what is stored, and decrypt it. Nil encrypts nothing.
type Keys struct {
	all []*Key // the first encrypts
}

// Key is one of them.
type Key struct {
	id    string
	aead  cipher.AEAD
	body  *subtle.AESGCMHKDF
	blind []byte // the key of fingerprints
}

// NewKeys makes keys of their text form, base64 of 32 bytes, and nil of none. The first one encrypts,
// all decrypt. Its errors say which one is wrong and nothing of what it is.
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
		if keys.Find(k.id) != nil {
			return nil, fmt.Errorf("key %d of %d: it stands there twice", i+1, len(texts))
		}
		keys.all = append(keys.all, k)
	}
	return keys, nil
}

func newKey(text string) (*Key, error) {
	raw, err := base64.StdEncoding.DecodeString(text)
	switch {
	case text == "":
		return nil, errors.New("it is empty")
	case err != nil:
		return nil, errors.New("it is not base64 (make one with `openssl rand -base64 32`)")
	case len(raw) != keySize:
		return nil, fmt.Errorf(
			"it has %d bytes, not %d (make one with `openssl rand -base64 32`)",
			len(raw),
			keySize,
		)
	case bytes.Count(raw, raw[:1]) == len(raw):
		return nil, errors.New("all its bytes are the same (make one with `openssl rand -base64 32`)")
	}
	subkey := func(use string) []byte {
		k, err := hkdf.Key(sha256.New, raw, nil, "deepgram_callback "+use, keySize)
		if err != nil {
			panic(err) // for what is too long alone, see its documentation
		}
		return k
	}
	k := &Key{id: hex.EncodeToString(subkey("id")[:IDSize/2]), blind: subkey("fingerprint")}
	if k.aead, err = chacha20poly1305.NewX(subkey("header")); err != nil {
		return nil, err
	}
	k.body, err = subtle.NewAESGCMHKDF(subkey("body"), "SHA256", keySize, segmentSize, 0)
	return k, err
}

// First is the key that encrypts.
func (k *Keys) First() *Key { return k.all[0] }

// Find returns the key with an id, or nil.
func (k *Keys) Find(id string) *Key {
	if k != nil {
		for _, key := range k.all {
			if key.id == id {
				return key
			}
		}
	}
	return nil
}

// Blind hides a fingerprint, which would confirm to the store what somebody guesses of a body. It
// takes the last key, which stays when others are prepended. Without keys nothing is hidden.
func (k *Keys) Blind(fingerprint [sha256.Size]byte) [sha256.Size]byte {
	if k == nil {
		return fingerprint
	}
	mac := hmac.New(sha256.New, k.all[len(k.all)-1].blind)
	mac.Write(fingerprint[:])
	return [sha256.Size]byte(mac.Sum(nil))
}

// ID is what a key is found by. It tells nothing of the key.
func (k *Key) ID() string { return k.id }

// Seal encrypts a short text, and authenticates what goes with it.
func (k *Key) Seal(text, with []byte) []byte {
	nonce := make(
		[]byte,
		chacha20poly1305.NonceSizeX,
		chacha20poly1305.NonceSizeX+len(text)+chacha20poly1305.Overhead,
	)
	_, _ = rand.Read(nonce) // never fails, see its documentation
	return k.aead.Seal(nonce, nonce, text, with)
}

// Open returns a text that was sealed. It fails where that, or what goes with it, is another one.
func (k *Key) Open(sealed, with []byte) ([]byte, error) {
	if len(sealed) < chacha20poly1305.NonceSizeX {
		return nil, errChanged
	}
	nonce, sealed := sealed[:chacha20poly1305.NonceSizeX], sealed[chacha20poly1305.NonceSizeX:]
	text, err := k.aead.Open(nil, nonce, sealed, with)
	if err != nil {
		return nil, errChanged
	}
	return text, nil
}

var errChanged = errors.New("it was changed since")

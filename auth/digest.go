// Digests: how credentials are compared and recognised without being kept.

package auth

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/binary"
	"hash"
	"slices"
	"sync"
)

// maxCredential is more bytes than any credential needs. Longer ones cannot be
// configured, so those in a request are known to be wrong by their length.
const maxCredential = 4096

// digest stands for a credential: it is its HMAC-SHA-256, under a random key that only this process
// has. So digests can be kept, and compared in a time that tells nothing of the credential, not
// even its length.
type digest [sha256.Size]byte

// The first field of what is digested is a purpose, so that a credential of one
// kind is never taken for another.
const (
	purposePlain    = "basic_auth_plain"
	purposeHashed   = "basic_auth"
	purposeUnknown  = "basic_auth unknown username"
	purposeUsername = "basic_auth username"
	purposeToken    = "dg_token"
	purposeQuery    = "query_secret"
	purposeBody     = "callback_secret"
)

type digester struct {
	mac    hash.Hash
	buffer []byte
}

var digesters = func() *sync.Pool {
	key := make([]byte, sha256.Size)
	_, _ = rand.Read(key) // it never fails: see its documentation
	return &sync.Pool{New: func() any {
		return &digester{mac: hmac.New(sha256.New, key), buffer: make([]byte, 0, 512)}
	}}
}()

// digestOf is the digest of a list of fields. Each is digested with its length, so
// that no two different lists have the same digest.
func digestOf(fields ...string) digest {
	d := digesters.Get().(*digester)
	defer digesters.Put(d)
	return d.digest(fields)
}

// digest leaves nothing of the fields in the digester, which is used again.
func (d *digester) digest(fields []string) digest {
	size := 0
	for _, field := range fields {
		size += binary.MaxVarintLen64 + len(field)
	}
	message := slices.Grow(d.buffer[:0], size)
	for _, field := range fields {
		message = binary.AppendUvarint(message, uint64(len(field)))
		message = append(message, field...)
	}
	d.mac.Reset()
	d.mac.Write(message)
	clear(message)
	d.buffer = d.mac.Sum(message[:0])
	return digest(d.buffer)
}

// digestSet holds the digests of all values that are right.
type digestSet []digest

// contains compares d with every digest, so that the time does not tell which of
// them it equals.
func (s digestSet) contains(d digest) bool {
	found := 0
	for i := range s {
		found |= subtle.ConstantTimeCompare(s[i][:], d[:])
	}
	return found == 1
}

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

// maxCredential, in bytes, is more than any credential needs. Longer ones cannot
// be configured, so that longer ones in a request are wrong unread.
const maxCredential = 4096

// digest stands for a credential: HMAC-SHA-256 under a key that this process
// drew at random and nobody else has, so that digests can be kept, and compared
// in a time that tells nothing of the credential, not even its length.
type digest [sha256.Size]byte

// The purpose is a digest's first field: what was digested as one kind of
// credential can never be taken for another.
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

// digestOf digests fields, each with its length, so that no two different lists
// of fields read the same.
func digestOf(fields ...string) digest {
	d := digesters.Get().(*digester)
	defer digesters.Put(d)
	return d.digest(fields)
}

// digest leaves nothing of the fields behind in the digester.
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

// digestSet holds the digests of every value that is right.
type digestSet []digest

// contains compares with every value, whatever the outcome of the others.
func (s digestSet) contains(d digest) bool {
	found := 0
	for i := range s {
		found |= subtle.ConstantTimeCompare(s[i][:], d[:])
	}
	return found == 1
}

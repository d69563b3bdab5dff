// Package identity finds out who a callback is: which other ones it is the same as, and which it has
// to wait for.
//
//	identity.go  digests of what is known of a callback, and the order of delivery
//	scanner.go   what a body says of itself
package identity

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash"
	"io"
)

// Callback is what is known of a callback beside its body.
type Callback struct {
	Route  string
	Method string

	// Host is the one that the sender called, User who it is.
	Host, User string

	// URI is path and query.
	URI string

	ContentType string

	// Stream is the id of the live stream that the callback is a part of, if it is.
	Stream string
}

// Fingerprint begins the digest by which a callback is the same as another one, with all that is not
// the body.
func (c Callback) Fingerprint() hash.Hash {
	digest := sha256.New()
	WriteParts(digest, c.Route, c.Host, c.User, c.Method, c.URI, c.ContentType)
	return digest
}

// EndOfStream is the digest of the end of a stream, of which there is only one.
func EndOfStream(stream string) [sha256.Size]byte {
	digest := sha256.New()
	WriteParts(digest, "end of stream", stream)
	return [sha256.Size]byte(digest.Sum(nil))
}

// WriteParts writes texts so that none can pass for the end of the one before.
func WriteParts(digest hash.Hash, parts ...string) {
	for _, part := range parts {
		var length [8]byte
		binary.BigEndian.PutUint64(length[:], uint64(len(part)))
		digest.Write(length[:])
		_, _ = io.WriteString(digest, part)
	}
}

// ShortHash is eight bytes of a digest of texts, and never zero.
func ShortHash(parts ...string) uint64 {
	digest := sha256.New()
	WriteParts(digest, parts...)
	return max(binary.BigEndian.Uint64(digest.Sum(nil)), 1)
}

// OrderBy says which messages of a route are delivered in the order in which they came.
type OrderBy string

const (
	// OrderByRequestID: those with one request id, for each host and user. JSON of a live stream
	// without an id (an object that has a string "type" at its top, such as an UtteranceEnd) is
	// one sequence for each host, user and URI. Everything else waits for nobody. The default.
	OrderByRequestID OrderBy = "request_id"

	// OrderByURI: all of one host, user and URI.
	OrderByURI OrderBy = "uri"

	// OrderByNone: no message waits for another one.
	OrderByNone OrderBy = "none"
)

// Check says what is wrong with o, if anything is. Empty means the default.
func (o OrderBy) Check() error {
	switch o {
	case "", OrderByRequestID, OrderByURI, OrderByNone:
		return nil
	}
	return fmt.Errorf(
		"%q is none of %s, %s and %s",
		string(o),
		OrderByRequestID,
		OrderByURI,
		OrderByNone,
	)
}

// Key derives the order key of a message: equal for those that must be delivered in order, zero
// for one that waits for nobody. Two sequences that share a key by accident wait for each
// other, nothing worse. Host and user are part of it, so that nobody can stand in the queue of
// somebody else's request id.
func (o OrderBy) Key(c Callback, found *Scanner) uint64 {
	switch {
	case c.Stream != "":
		return ShortHash("stream", c.Stream)
	case o == OrderByURI:
		return ShortHash("uri", c.Host, c.User, c.URI)
	case o == OrderByNone:
	case found.RequestID() != "":
		return ShortHash("request", c.Host, c.User, found.RequestID())
	case found.HasType():
		return ShortHash("uri", c.Host, c.User, c.URI)
	}
	return 0
}

// What a message is compared by: which other ones it is the same as, which it has to wait for,
// and where it goes.

package spool

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash"
	"io"
	"strings"
)

// Fingerprint tells whether two callbacks are the same: SHA-256 over route, host, user, method,
// URI, content type and body. The zero fingerprint is that of a message which is the same as no
// other one.
type Fingerprint [sha256.Size]byte

// newFingerprint begins a fingerprint with all that is not the body.
func newFingerprint(e Envelope) hash.Hash {
	digest := sha256.New()
	writeParts(
		digest,
		e.Route,
		e.Host,
		e.User,
		e.Method,
		e.URI,
		strings.Join(e.Header["Content-Type"], "\n"),
	)
	return digest
}

// endFingerprint is that of the end of a stream.
func endFingerprint(stream string) (f Fingerprint) {
	digest := sha256.New()
	writeParts(digest, "end of stream", stream)
	return Fingerprint(digest.Sum(nil))
}

// writeParts writes texts so that none can pass for the end of the one before.
func writeParts(digest hash.Hash, parts ...string) {
	for _, part := range parts {
		var length [8]byte
		binary.BigEndian.PutUint64(length[:], uint64(len(part)))
		digest.Write(length[:])
		_, _ = io.WriteString(digest, part)
	}
}

// shortHash is eight bytes of a digest of texts.
func shortHash(parts ...string) uint64 {
	digest := sha256.New()
	writeParts(digest, parts...)
	return max(binary.BigEndian.Uint64(digest.Sum(nil)), 1) // zero is the key of nobody
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

// key derives the order key of a message: equal for those that must be delivered in order, zero
// for one that waits for nobody. Two sequences that share a key by accident wait for each
// other, nothing worse. Host and user are part of it, so that nobody can stand in the queue of
// somebody else's request id.
func (o OrderBy) key(e Envelope, found *requestIDScanner) uint64 {
	switch {
	case e.Stream != "":
		return shortHash("stream", e.Stream)
	case o == OrderByURI:
		return shortHash("uri", e.Host, e.User, e.URI)
	case o == OrderByNone:
	case found.RequestID() != "":
		return shortHash("request", e.Host, e.User, found.RequestID())
	case found.HasType():
		return shortHash("uri", e.Host, e.User, e.URI)
	}
	return 0
}

// Destination says where a message goes, as far as one place may be out of order while another
// is not: the upper half stands for the host, the whole for the host and the path. The query is
// left out, in which senders put what differs from callback to callback.
type Destination uint64

// destinationOf derives the destination.
func destinationOf(host, uri string) Destination {
	host = strings.ToLower(host)
	path, _, _ := strings.Cut(uri, "?")
	return Destination(shortHash("host", host)&^0xffffffff | shortHash("path", host, path)>>32)
}

// Host is the destination of everything that goes to the host.
func (d Destination) Host() Destination { return d &^ 0xffffffff }

// Destinations is a set of destinations and hosts. Nil is the empty one.
type Destinations map[Destination]struct{}

// Has reports whether d or its host is in the set.
func (s Destinations) Has(d Destination) bool {
	if len(s) == 0 {
		return false
	}
	if _, ok := s[d]; ok {
		return true
	}
	_, ok := s[d.Host()]
	return ok
}

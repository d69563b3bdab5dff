// Where messages go.

package spool

import (
	"strings"

	"github.com/caddy-deepgram/deepgram-callback/relay/spool/identity"
)

// Destination says where a message goes, as far as one place may be out of order while another
// is not: the upper half stands for the host, the whole for the host and the path. The query is
// left out, in which senders put what differs from callback to callback.
type Destination uint64

// destinationOf derives the destination.
func destinationOf(host, uri string) Destination {
	host = strings.ToLower(host)
	path, _, _ := strings.Cut(uri, "?")
	return Destination(identity.ShortHash("host", host)&^0xffffffff | identity.ShortHash("path", host, path)>>32)
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

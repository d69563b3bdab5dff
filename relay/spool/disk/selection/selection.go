// Package selection decides which messages of an index are meant: by a filter, or because of their
// age. It reads one transaction and changes nothing. Anybody who has a transaction may call it, and
// under any lock that the functions do not take which it is given. Of a route it reads the name and
// the number, which never change.
//
//	selection.go  what a filter selects
//	matches.go    what can be said of a message, or an id, by itself
//	age.go        what is overdue, or gives way
package selection

import (
	"encoding/binary"
	"slices"
	"time"

	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/disk/index"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/disk/requests"
)

// Selection is a filter on its way through the index.
type Selection struct {
	spool.Filter // always with a limit

	// Buckets are where to look: at first, where messages of the filter's state are.
	Buckets []index.Bucket

	t        *index.Tx
	routes   []*index.RouteInfo
	requests *requests.Table
	now      time.Time
}

// New begins to select messages of some routes in a transaction.
func New(
	t *index.Tx,
	routes []*index.RouteInfo,
	known *requests.Table,
	filter spool.Filter,
) *Selection {
	if filter.Limit <= 0 {
		filter.Limit = spool.DefaultListLimit
	}
	if filter.Route != "" {
		routes = slices.DeleteFunc(slices.Clone(routes), func(r *index.RouteInfo) bool {
			return r.Name != filter.Route
		})
	}
	return &Selection{
		Filter: filter, Buckets: index.Buckets(filter.State),
		t: t, routes: routes, requests: known, now: time.Now(),
	}
}

// Places returns where the messages are that are selected, by rising id, or falling, and no more
// than the limit.
func (s *Selection) Places() []index.Place {
	return s.places(func(index.Place) bool { return true })
}

// Count returns how many messages are selected, whatever the limit.
func (s *Selection) Count() (n int64) {
	s.places(func(index.Place) bool {
		n++
		return false // they are not wanted, only counted
	})
	return n
}

// Droppable returns copies of what is selected and not leased.
func (s *Selection) Droppable(isLeased func(spool.ID) bool) []index.Place {
	if s.EndedFor > 0 && s.State == spool.Dead {
		return s.longDead()
	}
	if s.EndedFor > 0 && (s.Until.IsZero() || s.Until.After(s.now.Add(-s.EndedFor))) {
		s.Until = s.now.Add(-s.EndedFor) // nothing ends before it comes
	}
	found := s.places(func(p index.Place) bool { return !isLeased(p.ID) })
	for i := range found {
		found[i] = found[i].Clone()
	}
	return found
}

// longDead returns copies of dead letters by the time of their death.
func (s *Selection) longDead() (found []index.Place) {
	for _, info := range s.routes {
		s.t.Scan(index.Died, index.RouteKey(info.Number), nil, func(key, _ []byte) bool {
			if len(found) == s.Limit ||
				index.FromUnixNano(index.KeyTime(key)).After(s.now.Add(-s.EndedFor)) {
				return false
			}
			if p, ok := s.t.At(info, index.KeyID(key), index.Dead); ok &&
				(!p.Record.Intact() || s.matches(p)) {
				found = append(found, p.Clone())
			}
			return true
		})
	}
	return found
}

// places is Places of those that suit.
func (s *Selection) places(suits func(index.Place) bool) []index.Place {
	if s.RequestID != "" {
		return s.ofRequest(suits)
	}
	var found []index.Place // the first ones of every list; more than the limit cannot be needed
	for _, info := range s.routes {
		for _, bucket := range s.Buckets {
			n := 0
			s.each(bucket, info, func(p index.Place) bool {
				if suits(p) {
					found = append(found, p)
					n++
				}
				return n < s.Limit
			})
		}
	}
	s.sort(found)
	return found[:min(len(found), s.Limit)]
}

// sort puts places in the order in which they are to be listed.
func (s *Selection) sort(places []index.Place) {
	slices.SortFunc(places, func(a, b index.Place) int {
		if s.Newest {
			a, b = b, a
		}
		return a.ID.Compare(b.ID)
	})
}

// each calls fn for the messages of a route in a bucket that are selected, until fn returns false.
func (s *Selection) each(bucket index.Bucket, info *index.RouteInfo, fn func(index.Place) bool) {
	visit := func(key, record []byte) bool {
		p := index.Place{Bucket: bucket, Route: info, ID: index.KeyID(key), Record: record}
		if s.isBeyond(p.ID) {
			return false
		}
		return !s.matches(p) || fn(p)
	}
	prefix := index.RouteKey(info.Number)
	if s.Newest {
		s.t.ScanDown(bucket, prefix, s.top(), visit)
	} else {
		s.t.Scan(bucket, prefix, s.bottom(), visit)
	}
}

// ofRequest is places for a request id.
func (s *Selection) ofRequest(suits func(index.Place) bool) (found []index.Place) {
	for _, half := range s.requests.Find(s.RequestID, s.Newest) {
		for _, p := range s.at(half) {
			order := p.ID.Compare(s.After)
			switch {
			case len(found) == s.Limit:
				return found
			case !s.matches(p), !suits(p):
			case s.After.IsZero(), order != 0 && (order > 0) != s.Newest:
				found = append(found, p)
			}
		}
	}
	return found
}

// at finds messages by the upper half of their ids.
func (s *Selection) at(half uint64) (found []index.Place) {
	for _, info := range s.routes {
		prefix := binary.BigEndian.AppendUint64(index.RouteKey(info.Number), half)
		for _, bucket := range s.Buckets {
			s.t.Scan(bucket, prefix, nil, func(key, record []byte) bool {
				p := index.Place{Bucket: bucket, Route: info, ID: index.KeyID(key), Record: record}
				found = append(found, p)
				return true
			})
		}
	}
	if len(found) > 1 {
		s.sort(found)
	}
	return found
}

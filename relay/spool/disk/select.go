// Which messages a filter selects, and where they are.

package disk

import (
	"context"
	"encoding/binary"
	"slices"
	"time"

	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/disk/index"
)

// receiptSlack is how much later than its receipt the time in the id of a message may be, by
// versions that took the time before they read the body.
const receiptSlack = time.Minute

// selection is a filter on its way through the index.
type selection struct {
	spool.Filter
	d   *Store
	t   *index.Tx
	now time.Time
}

func (d *Store) selecting(t *index.Tx, filter spool.Filter) *selection {
	if filter.Limit <= 0 {
		filter.Limit = spool.DefaultListLimit
	}
	return &selection{Filter: filter, d: d, t: t, now: time.Now()}
}

// places returns where the messages are that are selected, by rising id, or falling, and no more
// than the limit. Only those count that suit, if it is not nil.
func (s *selection) places(in []index.Bucket, suits func(index.Place) bool) []index.Place {
	if s.RequestID != "" {
		return s.ofRequest(in, suits)
	}
	var found []index.Place // the first ones of every list; more than the limit cannot be needed
	for _, info := range s.d.routeInfos() {
		if s.Route != "" && s.Route != info.Name {
			continue
		}
		for _, bucket := range in {
			n := 0
			s.each(bucket, info, func(p index.Place) bool {
				if suits == nil || suits(p) {
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
func (s *selection) sort(places []index.Place) {
	slices.SortFunc(places, func(a, b index.Place) int {
		if s.Newest {
			a, b = b, a
		}
		return a.ID.Compare(b.ID)
	})
}

// each calls fn for the messages of a route in a bucket that are selected, until fn returns false.
func (s *selection) each(bucket index.Bucket, info *index.RouteInfo, fn func(index.Place) bool) {
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

// bottom is an id after which those begin that may be selected.
func (s *selection) bottom() []byte {
	if s.Since.IsZero() {
		return s.After[:]
	}
	first := firstID(s.Since)
	if first.Compare(s.After) > 0 {
		return first[:]
	}
	return s.After[:]
}

// top is an id before which those are that may be selected; nil: all.
func (s *selection) top() []byte {
	var last spool.ID
	if !s.Until.IsZero() {
		last = firstID(s.Until.Add(receiptSlack))
	}
	if !s.After.IsZero() && (last.IsZero() || s.After.Compare(last) < 0) {
		last = s.After
	}
	if last.IsZero() {
		return nil
	}
	return last[:]
}

// isBeyond reports whether nothing behind an id can be selected any more.
func (s *selection) isBeyond(id spool.ID) bool {
	if s.Newest {
		return !s.Since.IsZero() && id.Time().Before(s.Since.Truncate(time.Millisecond))
	}
	return !s.Until.IsZero() && id.Time().After(s.Until.Add(receiptSlack))
}

// firstID is less than all ids of a moment and later ones, to the millisecond.
func firstID(at time.Time) (id spool.ID) {
	binary.BigEndian.PutUint64(id[:], uint64(max(at.UnixMilli(), 0))<<16)
	return id
}

// matches reports whether a message is selected, apart from its place in the order. It is asked of
// many, so nothing is decoded that need not be.
func (s *selection) matches(p index.Place) bool {
	received, intact := p.ID.Time(), p.Record.Intact()
	if intact {
		received = index.FromUnixNano(p.Record.ReceivedAt())
	}
	switch {
	case !s.Since.IsZero() && received.Before(s.Since), !s.Until.IsZero() && !received.Before(s.Until):
		return false
	case s.RequestID != "" && p.Record.RequestID() != s.RequestID:
		return false
	case s.EndedFor > 0 && (p.IsPending() || p.Record.EndedAt().After(s.now.Add(-s.EndedFor))):
		return false
	case !intact && (s.RequestID != "" || s.EndedFor > 0):
		return false
	}
	return s.User == "" || p.Record.User() == s.User
}

// ofRequest is places for a request id.
func (s *selection) ofRequest(in []index.Bucket, suits func(index.Place) bool) (found []index.Place) {
	for _, half := range s.d.requests.Find(s.RequestID, s.Newest) {
		for _, p := range s.at(half, in) {
			order := p.ID.Compare(s.After)
			switch {
			case len(found) == s.Limit:
				return found
			case !s.matches(p), suits != nil && !suits(p):
			case s.After.IsZero(), order != 0 && (order > 0) != s.Newest:
				found = append(found, p)
			}
		}
	}
	return found
}

// at finds messages by the upper half of their ids.
func (s *selection) at(half uint64, in []index.Bucket) (found []index.Place) {
	for _, info := range s.d.routeInfos() {
		if s.Route != "" && s.Route != info.Name {
			continue
		}
		prefix := binary.BigEndian.AppendUint64(index.RouteKey(info.Number), half)
		for _, bucket := range in {
			s.t.Scan(bucket, prefix, nil, func(key, record []byte) bool {
				found = append(found,
					index.Place{Bucket: bucket, Route: info, ID: index.KeyID(key), Record: record})
				return true
			})
		}
	}
	if len(found) > 1 {
		s.sort(found)
	}
	return found
}

// List implements [spool.Store].
func (d *Store) List(ctx context.Context, filter spool.Filter) ([]*spool.Message, error) {
	if err := d.enter(ctx); err != nil {
		return nil, err
	}
	messages := []*spool.Message{}
	err := d.view(func(t *index.Tx) error {
		for _, p := range d.selecting(t, filter).places(index.Buckets(filter.State), nil) {
			messages = append(messages, p.Shown())
		}
		return nil
	})
	return messages, err
}

// Count implements [spool.Store]. Where only a state and a route are asked for, nothing is looked
// at.
func (d *Store) Count(ctx context.Context, filter spool.Filter) (n int64, err error) {
	if err := d.enter(ctx); err != nil {
		return 0, err
	}
	filter.After, filter.Newest = spool.ID{}, false
	if filter == (spool.Filter{State: filter.State, Route: filter.Route, Limit: filter.Limit}) {
		return d.countOf(filter.State, filter.Route), nil
	}
	err = d.view(func(t *index.Tx) error {
		s := d.selecting(t, filter)
		s.Limit = 1 << 62
		s.places(index.Buckets(filter.State), func(index.Place) bool {
			n++
			return false // they are not wanted, only counted
		})
		return ctx.Err()
	})
	return n, err
}

func (d *Store) countOf(state spool.State, route string) (n int64) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for name, info := range d.routes {
		if route != "" && route != name {
			continue
		}
		c := info.Counts
		switch state {
		case spool.Pending:
			n += c.Pending
		case spool.Dead:
			n += c.Dead
		case spool.Delivered:
			n += c.Delivered
		default:
			n += c.Pending + c.Dead + c.Delivered
		}
	}
	return n
}

// What can be said of a message, or of an id, by itself: whether it is selected.

package selection

import (
	"encoding/binary"
	"time"

	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/disk/index"
)

// receiptSlack is how much later than its receipt the time in the id of a message may be, by
// versions that took the time before they read the body.
const receiptSlack = time.Minute

// bottom is an id after which those begin that may be selected.
func (s *Selection) bottom() []byte {
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
func (s *Selection) top() []byte {
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
func (s *Selection) isBeyond(id spool.ID) bool {
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
func (s *Selection) matches(p index.Place) bool {
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

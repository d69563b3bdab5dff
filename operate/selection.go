package operate

import (
	"fmt"

	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
)

const (
	// DefaultPage and MaxPage are how many messages a list has where nothing is said, and
	// at most.
	DefaultPage = 100
	MaxPage     = 1000
)

// A Selection selects messages. What is empty selects all.
type Selection struct {
	Path      string // of an inbox
	State     spool.State
	Route     string
	RequestID string
	User      string // whose credential brought them in
	Received  Period
}

// A Page is a part of a list.
type Page struct {
	After  spool.ID // the last one of the page before
	Limit  int
	Newest bool // first
}

// check finds what cannot be right.
func (s Selection) check() error {
	switch s.State {
	case "", spool.Pending, spool.Dead, spool.Delivered:
		return nil
	}
	return invalid(fmt.Errorf("state is %q, neither pending, dead nor delivered", s.State))
}

func (s Selection) filter() spool.Filter {
	return spool.Filter{
		State: s.State, Route: s.Route, RequestID: s.RequestID, User: s.User,
		Since: s.Received.Since, Until: s.Received.Until,
	}
}

// ended returns what of it can be replayed: what is dead, and what was delivered.
func (s Selection) ended() []Selection {
	if s.State != "" {
		return []Selection{s}
	}
	dead, delivered := s, s
	dead.State, delivered.State = spool.Dead, spool.Delivered
	return []Selection{dead, delivered}
}

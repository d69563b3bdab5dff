package operate

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
)

const (
	// DefaultPage and MaxPage are how many messages a list has where nothing is said, and
	// at most.
	DefaultPage = 100
	MaxPage     = 1000

	// bulk is how many messages are changed at once, so that callbacks which come in
	// meanwhile do not wait for all of them.
	bulk = 256
)

// A Selection selects messages. What is empty selects all.
type Selection struct {
	Path  string // of an inbox
	State spool.State
	Route string
	User  string // whose credential brought them in
}

// check finds what cannot be right.
func (s Selection) check() error {
	switch s.State {
	case "", spool.Pending, spool.Dead:
		return nil
	}
	return invalid(fmt.Errorf("state is %q, neither pending nor dead", s.State))
}

func (s Selection) filter() spool.Filter {
	return spool.Filter{State: s.State, Route: s.Route, User: s.User}
}

// List returns a page of what is selected, by rising id over all inboxes, of what comes
// after an id and at most limit of them.
func (g *Gateway) List(
	ctx context.Context, selected Selection, after spool.ID, limit int,
) ([]Message, error) {
	if err := selected.check(); err != nil {
		return nil, err
	}
	open, err := g.inboxes(selected.Path)
	if err != nil {
		return nil, err
	}
	filter := selected.filter()
	filter.After, filter.Limit = after, limit
	page := []Message{}
	for _, in := range open {
		messages, err := in.List(ctx, filter)
		if err != nil {
			return nil, fmt.Errorf("spool %s: %w", in.path, err)
		}
		for _, m := range messages {
			page = append(page, show(in, m))
		}
	}
	slices.SortFunc(page, func(a, b Message) int { return a.ID.Compare(b.ID) })
	return page[:min(len(page), limit)], nil
}

// Replayed says how many messages are delivered again.
type Replayed struct {
	Replayed int `json:"replayed"`

	// RevokedUsers are those who brought some of them in, and of whom the configuration has no
	// account any more.
	RevokedUsers []string `json:"revoked_users,omitempty"`
}

// Dropped says how many messages are forgotten.
type Dropped struct {
	Dropped int `json:"dropped"`
}

// ReplayDead replays the dead letters of a route, or of all if it is empty, in the inbox at
// a path, or in all.
func (g *Gateway) ReplayDead(ctx context.Context, path, route string) (Replayed, error) {
	var done Replayed
	users := make(map[string]bool)
	total, err := g.each(path, func(in inbox) (int, error) {
		dead := spool.Filter{State: spool.Dead, Route: route}
		if err := g.noteRevoked(ctx, in, dead, users); err != nil {
			return 0, err
		}
		return in.ReplayDead(ctx, route)
	})
	if err != nil {
		return Replayed{}, err
	}
	done.Replayed, done.RevokedUsers = total, slices.Sorted(maps.Keys(users))
	return done, nil
}

// DropDead forgets the dead letters that there are now of a route, or of all if it is
// empty, in the inbox at a path, or in all.
func (g *Gateway) DropDead(ctx context.Context, path, route string) (Dropped, error) {
	total, err := g.each(path, func(in inbox) (int, error) { return dropDead(ctx, in, route) })
	return Dropped{total}, err
}

// DropOfUser forgets everything that is selected and that the credential of a user brought
// in. What is being delivered is forgotten when that has ended.
func (g *Gateway) DropOfUser(ctx context.Context, selected Selection) (Dropped, error) {
	if selected.User == "" {
		return Dropped{}, invalid(errors.New("user is empty; leave it out to mean all"))
	}
	if err := selected.check(); err != nil {
		return Dropped{}, err
	}
	total, err := g.each(selected.Path, func(in inbox) (int, error) {
		return dropAll(ctx, in, selected.filter())
	})
	return Dropped{total}, err
}

// each makes a change in the inbox at a path, or in all, and adds up how many messages it
// concerned.
func (g *Gateway) each(path string, change func(inbox) (int, error)) (total int, err error) {
	open, err := g.inboxes(path)
	if err != nil {
		return 0, err
	}
	for _, in := range open {
		n, err := change(in)
		total += n
		if err != nil {
			return total, fmt.Errorf("spool %s, after %d messages: %w", in.path, total, err)
		}
	}
	return total, nil
}

func dropDead(ctx context.Context, in inbox, route string) (total int, err error) {
	routes := []string{route}
	if route == "" {
		stats, err := in.Stats(ctx)
		if err != nil {
			return 0, err
		}
		routes = slices.Collect(maps.Keys(stats.Routes))
	}
	began := time.Now()
	for _, route := range routes {
		for {
			dropped, err := in.Store().DropDead(ctx, route, began, bulk)
			total += len(dropped)
			if err != nil {
				return total, err
			}
			if len(dropped) < bulk {
				break
			}
		}
	}
	return total, nil
}

// dropAll forgets what a filter selects, whatever its state.
func dropAll(ctx context.Context, in inbox, filter spool.Filter) (total int, err error) {
	err = eachPage(ctx, in, filter, func(page []*spool.Message) error {
		failed := make([]error, len(page))
		var dropping sync.WaitGroup
		for i, m := range page { // at once, so that they share a group commit
			dropping.Go(func() { _, failed[i] = in.Drop(ctx, m.ID) })
		}
		dropping.Wait()
		for i, err := range failed {
			switch {
			case err == nil, errors.Is(err, spool.ErrInFlight):
				total++
				failed[i] = nil
			case errors.Is(err, spool.ErrNotFound): // delivered meanwhile
				failed[i] = nil
			}
		}
		return errors.Join(failed...)
	})
	return total, err
}

// noteRevoked adds the users of whom the configuration has no account any more, of all
// messages that a filter selects. To send again what a credential brought in that was
// removed since is right, but not without a word.
func (g *Gateway) noteRevoked(
	ctx context.Context, in inbox, filter spool.Filter, users map[string]bool,
) error {
	return eachPage(ctx, in, filter, func(page []*spool.Message) error {
		for _, m := range page {
			if g.process.Revoked(in.path, m.Route, m.User) {
				users[m.User] = true
			}
		}
		return nil
	})
}

// eachPage goes through all messages that a filter selects, page by page.
func eachPage(
	ctx context.Context, in inbox, filter spool.Filter, do func([]*spool.Message) error,
) error {
	filter.Limit = bulk
	for {
		page, err := in.List(ctx, filter)
		if err != nil || len(page) == 0 {
			return err
		}
		if err := do(page); err != nil {
			return err
		}
		filter.After = page[len(page)-1].ID
	}
}

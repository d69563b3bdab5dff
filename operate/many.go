package operate

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/caddy-deepgram/deepgram-callback/app"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
)

// bulk is how many messages are looked at at once.
const bulk = 256

// List returns a page of what is selected, over all inboxes.
func (g *Gateway) List(ctx context.Context, selected Selection, page Page) ([]Message, error) {
	if err := selected.check(); err != nil {
		return nil, err
	}
	open, err := g.inboxes(selected.Path)
	if err != nil {
		return nil, err
	}
	filter := selected.filter()
	filter.After, filter.Limit, filter.Newest = page.After, page.Limit, page.Newest
	list := []Message{}
	for _, in := range open {
		messages, err := in.List(ctx, filter)
		if err != nil {
			return nil, fmt.Errorf("spool %s: %w", in.path, err)
		}
		for _, m := range messages {
			list = append(list, show(in, m))
		}
	}
	slices.SortFunc(list, func(a, b Message) int {
		if page.Newest {
			a, b = b, a
		}
		return a.ID.Compare(b.ID)
	})
	return list[:min(len(list), page.Limit)], nil
}

// Count counts what is selected, over all inboxes.
func (g *Gateway) Count(ctx context.Context, selected Selection) (total int64, err error) {
	if err := selected.check(); err != nil {
		return 0, err
	}
	open, err := g.inboxes(selected.Path)
	if err != nil {
		return 0, err
	}
	for _, in := range open {
		n, err := in.Count(ctx, selected.filter())
		if err != nil {
			return total, fmt.Errorf("spool %s: %w", in.path, err)
		}
		total += n
	}
	return total, nil
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

// Replayable counts what [Gateway.ReplayMany] would make pending again: of what is selected, what
// is dead or was delivered. It also returns the users who brought some of it in, and of whom the
// configuration has no account any more.
func (g *Gateway) Replayable(
	ctx context.Context,
	selected Selection,
) (total int64, revoked []string, err error) {
	if selected.State == spool.Pending {
		return 0, nil, nil
	}
	users := make(map[string]bool)
	for _, one := range selected.ended() {
		n, err := g.Count(ctx, one)
		if err != nil {
			return 0, nil, err
		}
		total += n
	}
	open, err := g.inboxes(selected.Path)
	if err != nil {
		return 0, nil, err
	}
	for _, in := range open {
		for _, one := range selected.ended() {
			if err := g.noteRevoked(ctx, in, one.filter(), users); err != nil {
				return 0, nil, fmt.Errorf("spool %s: %w", in.path, err)
			}
		}
	}
	return total, slices.Sorted(maps.Keys(users)), nil
}

// ReplayMany begins to make pending again what is selected and is dead or was delivered, and
// returns the id of the replay.
func (g *Gateway) ReplayMany(selected Selection, expected int64) (id string, err error) {
	if err := selected.check(); err != nil {
		return "", err
	}
	open, err := g.inboxes(selected.Path)
	if err != nil {
		return "", err
	}
	return g.process.Replays.Start(expected, func(ctx context.Context, progress func(int)) error {
		total := 0
		for _, in := range open {
			before := total
			n, err := in.ReplayAll(ctx, selected.filter(), func(n int) { progress(before + n) })
			total += n
			if err != nil {
				return fmt.Errorf("spool %s, after %d messages: %w", in.path, total, err)
			}
		}
		return nil
	}), nil
}

// WaitForReplay waits until a replay has ended, and stops it if ctx ends before.
func (g *Gateway) WaitForReplay(ctx context.Context, id string) (app.Replay, error) {
	return g.process.Replays.Wait(ctx, id)
}

// Replays are those that run and the last ones that ended, the newest first.
func (g *Gateway) Replays() []app.Replay { return g.process.Replays.List() }

// StopReplay has a replay end where it is.
func (g *Gateway) StopReplay(id string) error {
	if !g.process.Replays.Stop(id) {
		return notFound(fmt.Errorf("no such replay: %q", id))
	}
	return nil
}

// Pause has the deliveries of a route wait, or go on, in the inbox at a path, or in all that
// have the route.
func (g *Gateway) Pause(ctx context.Context, path, route string, paused bool) error {
	open, err := g.inboxes(path)
	if err != nil {
		return err
	}
	known := false
	for _, in := range open {
		stats, err := in.Stats(ctx)
		if err != nil {
			return fmt.Errorf("spool %s: %w", in.path, err)
		}
		if _, ok := stats.Routes[route]; !ok {
			continue
		}
		known = true
		if err := in.Pause(ctx, route, paused); err != nil {
			return fmt.Errorf("spool %s: %w", in.path, err)
		}
	}
	if !known {
		return notFound(fmt.Errorf("no route is called %q", route))
	}
	return nil
}

// DropMany forgets what is selected. What is being delivered is forgotten when that has ended.
func (g *Gateway) DropMany(ctx context.Context, selected Selection) (Dropped, error) {
	if err := selected.check(); err != nil {
		return Dropped{}, err
	}
	total, err := g.each(selected.Path, func(in inbox) (int, error) {
		n, err := in.DropAll(ctx, selected.filter())
		if err != nil {
			return n, err
		}
		leased, err := dropLeased(ctx, in, selected.filter())
		return n + leased, err
	})
	return Dropped{total}, err
}

// dropLeased forgets what of a filter is being delivered at this moment.
func dropLeased(ctx context.Context, in inbox, filter spool.Filter) (n int, err error) {
	if filter.State == spool.Dead || filter.State == spool.Delivered {
		return 0, nil
	}
	filter.State = spool.Pending
	err = eachPage(ctx, in, filter, func(page []*spool.Message) error {
		for _, m := range page {
			switch _, err := in.Drop(ctx, m.ID); {
			case err == nil, errors.Is(err, spool.ErrInFlight):
				n++
			case !errors.Is(err, spool.ErrNotFound): // else it was delivered meanwhile
				return err
			}
		}
		return nil
	})
	return n, err
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

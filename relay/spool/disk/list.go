// What a filter selects: List, Count.

package disk

import (
	"context"

	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/disk/index"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/disk/selection"
)

// viewSelected begins to select messages, and reads the index with that.
func (d *Store) viewSelected(filter spool.Filter, fn func(*selection.Selection) error) error {
	routes := d.routeInfos()
	return d.view(func(t *index.Tx) error {
		return fn(selection.New(t, routes, &d.requests, filter))
	})
}

// selecting begins to select messages in a transaction of the writer.
func (c *change) selecting(filter spool.Filter) *selection.Selection {
	return selection.New(c.Tx, c.d.routeInfos(), &c.d.requests, filter)
}

// List implements [spool.Store].
func (d *Store) List(ctx context.Context, filter spool.Filter) ([]*spool.Message, error) {
	if err := d.enter(ctx); err != nil {
		return nil, err
	}
	messages := []*spool.Message{}
	err := d.viewSelected(filter, func(s *selection.Selection) error {
		for _, p := range s.Places() {
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
	err = d.viewSelected(filter, func(s *selection.Selection) error {
		n = s.Count()
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

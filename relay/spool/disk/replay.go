// Replay: how messages are sent again.

package disk

import (
	"context"
	"time"

	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/disk/index"
)

// Replay implements [spool.Store].
func (d *Store) Replay(ctx context.Context, id spool.ID) error {
	var result error
	err := d.perform(ctx, func(c *change) error {
		p, ok := c.Find(d.routeInfos(), id)
		switch {
		case !ok:
			result = spool.ErrNotFound
			return nil
		case d.isLeased(id):
			result = spool.ErrInFlight
			return nil
		}
		var err error
		result, err = c.replay(p, time.Now())
		return err
	})
	if err == nil {
		err = result
	}
	return err
}

// replay makes a message due. Failing to read it is the result; failing to write it is err.
func (c *change) replay(p index.Place, now time.Time) (result, err error) {
	if p.Bucket == index.Fresh {
		return nil, nil // it is due anyway
	}
	m, result := p.Entry()
	if result != nil {
		return result, nil
	}
	m.Replayed = m.Replayed || !p.IsPending()
	m.State, m.Tries, m.ScheduledFrom = spool.Pending, 0, now
	m.NextAttemptAt, m.DiedAt, m.DeliveredAt = time.Time{}, time.Time{}, time.Time{}
	c.after = append(c.after, func() { c.d.replayed(p.Route.Name, m.OrderKey) })
	return nil, c.ParkAgain(p, m)
}

// replayed lets the queue of a route know. d.mu is held.
func (d *Store) replayed(route string, order uint64) {
	if q := d.queue(route); q != nil {
		q.LetPass(order)
		d.notify(route)
	}
}

// ReplayAll implements [spool.Store].
func (d *Store) ReplayAll(
	ctx context.Context,
	filter spool.Filter,
) (replayed int, last spool.ID, done bool, err error) {
	if filter.State == spool.Pending {
		return 0, filter.After, true, nil
	}
	filter.Newest = false
	err = d.perform(ctx, func(c *change) error {
		replayed, last = 0, filter.After
		now := time.Now()
		s := c.selecting(filter)
		if s.State == "" {
			s.Buckets = []index.Bucket{index.Dead, index.Kept}
		}
		found := s.Places()
		done = len(found) < s.Limit
		for i := range found {
			found[i] = found[i].Clone() // a change moves what is mapped
		}
		for _, p := range found {
			last = p.ID
			if d.isLeased(p.ID) {
				continue
			}
			result, err := c.replay(p, now)
			if err != nil {
				return err
			}
			if result == nil {
				replayed++
			}
		}
		return nil
	})
	return replayed, last, done, err
}

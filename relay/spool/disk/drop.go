// Drop: how a message is forgotten.

package disk

import (
	"context"

	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/disk/index"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/disk/queue"
)

// isLeased reports whether a message is being delivered, or its outcome recorded.
func (d *Store) isLeased(id spool.ID) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.leases[id] != nil
}

// Drop implements [spool.Store].
func (d *Store) Drop(ctx context.Context, id spool.ID) (*spool.Message, error) {
	var dropped *spool.Message
	var result error
	err := d.perform(ctx, func(c *change) error {
		dropped, result = nil, nil
		p, ok := c.Find(d.routeInfos(), id)
		if !ok {
			result = spool.ErrNotFound
			return nil
		}
		dropped = p.Shown()
		if d.dropLeased(id) {
			result = spool.ErrInFlight
			return nil
		}
		order := p.Record.OrderKey() // as the queue has it, also of a record that cannot be read
		more, err := c.Remove(p)
		c.after = append(c.after, func() { d.vanished(p, order, more) })
		return err
	})
	if err == nil {
		err = result
	}
	return dropped, err
}

// dropLeased marks a leased message to be forgotten when it is settled. It
// reports whether the message is leased.
func (d *Store) dropLeased(id spool.ID) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	l := d.leases[id]
	if l == nil {
		return false
	}
	l.Dropped = true
	return true
}

// vanished lets the queue know that a message is not pending any more. d.mu is held.
func (d *Store) vanished(p index.Place, order uint64, more bool) {
	q := d.queues[p.Route.Name]
	if q == nil {
		return
	}
	defer d.notify(q.Route)
	if l := d.leases[p.ID]; l != nil { // leased after the change was made, before it was known here
		l.Dropped = true
		return
	}
	if p.Bucket != index.Parked {
		q.Forget(p.ID, order)
		return
	}
	q.ForgetParked(order, more)
}

// droppedLeases returns what is to be forgotten although its delivery has not ended.
func (d *Store) droppedLeases() []*queue.Lease {
	d.mu.Lock()
	defer d.mu.Unlock()
	var dropped []*queue.Lease
	for _, l := range d.leases {
		if l.Dropped && !l.IsSettled() {
			dropped = append(dropped, l)
		}
	}
	return dropped
}

// DropAll implements [spool.Store].
func (d *Store) DropAll(ctx context.Context, filter spool.Filter) ([]*spool.Message, error) {
	filter.Newest = false
	if filter.EndedFor > 0 {
		filter.After = spool.ID{}
	}
	var dropped []*spool.Message
	err := d.perform(ctx, func(c *change) error {
		dropped = nil
		for _, p := range c.selecting(filter).Droppable(d.isLeased) {
			dropped = append(dropped, p.Shown())
			order := p.Record.OrderKey()
			more, err := c.Remove(p)
			if err != nil {
				return err
			}
			if p.IsPending() {
				c.after = append(c.after, func() { d.vanished(p, order, more) })
			}
		}
		return nil
	})
	return dropped, err
}

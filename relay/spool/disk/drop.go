// Drop: how a message is forgotten.

package disk

import (
	"context"

	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/disk/index"
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
		p, ok := d.find(c.Tx, id)
		if !ok {
			result = spool.ErrNotFound
			return nil
		}
		dropped = p.show()
		if d.dropLeased(id) {
			result = spool.ErrInFlight
			return nil
		}
		order := index.Record(p.record).
			OrderKey()
			// as the queue has it, also of a record that cannot be read
		more, err := c.remove(p)
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
func (d *Store) vanished(p place, order uint64, more bool) {
	q := d.queues[p.info.Name]
	if q == nil {
		return
	}
	defer d.notify(q.Route)
	if l := d.leases[p.id]; l != nil { // leased after the change was made, before it was known here
		l.Dropped = true
		return
	}
	if p.bucket != index.Parked {
		q.Forget(p.id, order)
		return
	}
	q.ForgetParked(order, more)
}

// droppedLeases returns what is to be forgotten although its delivery has not ended.
func (d *Store) droppedLeases() []spool.ID {
	d.mu.Lock()
	defer d.mu.Unlock()
	var ids []spool.ID
	for id, l := range d.leases {
		if l.Dropped && !l.IsSettled() {
			ids = append(ids, id)
		}
	}
	return ids
}

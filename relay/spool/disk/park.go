// How what waits behind a failed message is parked with it.

package disk

import (
	"slices"

	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/disk/index"
)

// park has the fresh messages of an order key moved to the parked, as far as they were read: what
// is leased, ready or follows in memory, and those that found no room there. d.mu is held.
func (d *Store) park(q *queue, order uint64, rest []waiting) {
	k := q.key(order)
	var ids []spool.ID
	for id, l := range d.leases {
		if k.busy && l.queue == q && l.msg.OrderKey == order && !l.settled && !l.parked {
			l.parked, k.parked = true, true
			ids = append(ids, id)
		}
	}
	if i := slices.IndexFunc(q.ready, func(w waiting) bool { return w.key == order }); i >= 0 {
		ids = append(ids, q.ready[i].id)
		copy(q.ready[1:], q.ready[:i]) // it is mostly the first one
		q.ready[0] = waiting{}
		q.ready = q.ready[1:]
		k.busy = false
	}
	for _, w := range k.followers {
		ids = append(ids, w.id)
	}
	q.held -= len(k.followers)
	k.followers = nil
	for _, w := range rest {
		ids = append(ids, w.id)
	}
	k.transit++
	q.transit += len(ids)

	epoch, void := q.epoch, false
	d.ops.push(&operation{durable: true, apply: func(c *change) error {
		d.mu.Lock()
		void = q.epoch != epoch
		d.mu.Unlock()
		if void { // the queue is being read anew, so nothing is missing from it
			return nil
		}
		c.after = append(c.after, func() {
			k.transit--
			q.transit -= len(ids)
			k.parked = true
			if !k.busy {
				q.advance(order)
			}
			d.notify(q.route)
		})
		info := c.route(q.route)
		for _, id := range ids {
			record := c.Get(index.Fresh, index.IDKey(q.number, id))
			if record == nil {
				continue // settled or dropped meanwhile
			}
			record = append([]byte(nil), record...)
			if err := c.Delete(index.Fresh, index.IDKey(q.number, id)); err != nil {
				return err
			}
			if err := c.Tx.Park(q.number, id, record); err != nil {
				return err
			}
			info.Counts.Parked++
		}
		return nil
	}}, true)
}

// How what waits behind a failed message is parked with it.

package disk

import (
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/disk/queue"
)

// park has the fresh messages of an order key moved to the parked, as far as they were read: what
// is leased, ready or follows in memory, and those that found no room there. d.mu is held.
func (d *Store) park(q *queue.Queue, order uint64, rest []queue.Waiting) {
	p := q.Park(order, rest)
	d.ops.push(&operation{durable: true, apply: func(c *change) error {
		d.mu.Lock()
		void := q.IsVoid(p)
		d.mu.Unlock()
		if void { // nothing is missing from the queue
			return nil
		}
		c.after = append(c.after, func() {
			q.Parked(p)
			d.notify(q.Route)
		})
		return c.ParkFresh(q.Route, p.IDs)
	}}, true)
}

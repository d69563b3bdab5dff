// How what waits behind a failed message is parked with it.

package disk

import (
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/disk/index"
)

// park has the fresh messages of an order key moved to the parked, as far as they were read: what
// is leased, ready or follows in memory, and those that found no room there. d.mu is held.
func (d *Store) park(q *queue, order uint64, rest []waiting) {
	p := q.park(order, rest)
	d.ops.push(&operation{durable: true, apply: func(c *change) error {
		d.mu.Lock()
		void := q.isVoid(p)
		d.mu.Unlock()
		if void { // nothing is missing from the queue
			return nil
		}
		c.after = append(c.after, func() {
			q.parked(p)
			d.notify(q.route)
		})
		info := c.route(q.route)
		for _, id := range p.ids {
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

// How what waits behind a failed message is parked with it.

package disk

import (
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/disk/index"
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
		info := c.route(q.Route)
		for _, id := range p.IDs {
			record := c.Get(index.Fresh, index.IDKey(q.Number, id))
			if record == nil {
				continue // settled or dropped meanwhile
			}
			record = append([]byte(nil), record...)
			if err := c.Delete(index.Fresh, index.IDKey(q.Number, id)); err != nil {
				return err
			}
			if err := c.Tx.Park(q.Number, id, record); err != nil {
				return err
			}
			info.Counts.Parked++
		}
		return nil
	}}, true)
}

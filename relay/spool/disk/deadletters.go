// Records that cannot be read, which become dead letters.

package disk

import (
	"fmt"

	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/disk/index"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/disk/queue"
)

// quarantine makes a dead letter of a record that cannot be read, so that it does not stop others
// and an operator finds it. d.mu is held.
func (d *Store) quarantine(q *queue.Queue, id spool.ID) {
	d.leases[id] = q.Quarantined(id)
	d.unstored++
	if d.options.Events.Problem != nil {
		d.options.Events.Problem(
			fmt.Errorf("message %s of route %s: %w; it is a dead letter now", id, q.Route, spool.ErrDamaged),
		)
	}
	d.ops.push(&operation{durable: true, apply: func(c *change) error {
		c.after = append(c.after, func() {
			delete(d.leases, id)
			d.unstored--
			d.notify(q.Route)
		})
		p, ok := c.At(c.Route(q.Route), id, index.Fresh, index.Parked)
		if !ok { // only an index of it is left
			return c.UnparkDamaged(q.Number, id)
		}
		return c.KillDamaged(p)
	}}, true)
}

// adoptDamaged makes dead letters of the records that earlier versions put aside, where nobody
// could get at them.
func (d *Store) adoptDamaged() {
	d.ops.push(&operation{durable: true, apply: func(c *change) error {
		var places []index.Place
		c.Scan(index.Damaged, nil, nil, func(key, record []byte) bool {
			d.mu.Lock()
			info := d.numbers[index.Uint32(key)]
			d.mu.Unlock()
			if info != nil {
				p := index.Place{Bucket: index.Damaged, Route: info, ID: index.KeyID(key), Record: record}
				places = append(places, p.Clone())
			}
			return len(places) < maxGroup
		})
		for _, p := range places {
			if err := c.KillDamaged(p); err != nil {
				return err
			}
		}
		return nil
	}}, true)
}

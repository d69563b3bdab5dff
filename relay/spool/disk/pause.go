// Paused routes: of which nothing is leased.

package disk

import (
	"context"

	"github.com/caddy-deepgram/deepgram-callback/relay/spool/disk/index"
)

// Pause implements [spool.Store].
func (d *Store) Pause(ctx context.Context, route string, paused bool) error {
	return d.perform(ctx, func(c *change) error {
		c.after = append(c.after, func() {
			delete(d.paused, route)
			if paused {
				d.paused[route] = true
			}
			d.notify(route)
		})
		if paused {
			return c.Put(index.Paused, []byte(route), nil)
		}
		return c.Delete(index.Paused, []byte(route))
	})
}

// loadPaused reads which routes are paused.
func (d *Store) loadPaused(t *index.Tx) {
	d.paused = make(map[string]bool)
	t.Scan(index.Paused, nil, nil, func(name, _ []byte) bool {
		d.paused[string(name)] = true
		return true
	})
}

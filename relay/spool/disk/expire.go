// Expire: how old messages become dead letters.

package disk

import (
	"context"
	"time"

	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/disk/selection"
)

// Expire implements [spool.Store].
func (d *Store) Expire(
	ctx context.Context,
	route string,
	age time.Duration,
	lastError string,
	limit int,
) ([]*spool.Message, error) {
	var expired []*spool.Message
	err := d.perform(ctx, func(c *change) error {
		expired = nil
		d.mu.Lock()
		info, paused := d.routes[route], d.paused[route]
		d.mu.Unlock()
		if info == nil || paused {
			return nil
		}
		now := time.Now()
		scheduledBefore := now.Add(-age)
		taken := d.leasedKeys(route)
		for _, p := range selection.Overdue(c.Tx, info, scheduledBefore, now, taken, limit) {
			m, err := p.Entry()
			if err != nil {
				continue
			}
			if m.LastError == "" {
				m.LastError = spool.ClipError(lastError)
			}
			more, err := c.Kill(p, m, now)
			if err != nil {
				return err
			}
			expired = append(expired, m.Shown())
			c.after = append(c.after, func() { d.vanished(p, m.OrderKey, more) })
		}
		return nil
	})
	return expired, err
}

// leasedKeys returns the order keys of a route of which something is leased.
func (d *Store) leasedKeys(route string) map[uint64]bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	keys := make(map[uint64]bool)
	for _, l := range d.leases {
		if l.Queue.Route == route {
			keys[l.Msg.OrderKey] = true
		}
	}
	return keys
}

// Expire: how old messages become dead letters.

package disk

import (
	"context"
	"time"

	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/disk/index"
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
		for _, p := range c.expired(info, scheduledBefore, now, limit) {
			m, err := p.Entry()
			if err != nil {
				continue
			}
			if m.LastError == "" {
				m.LastError = spool.ClipError(lastError)
			}
			more, err := c.kill(p, m, now)
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

// expired returns pending messages that are due, that nothing of their order key is before,
// and whose schedule began before a time.
func (c *change) expired(info *index.RouteInfo, scheduledBefore, now time.Time, limit int) []index.Place {
	var places []index.Place
	taken := c.d.leasedKeys(info.Name)
	isOld := func(record []byte) bool {
		return index.Record(record).ScheduledFrom() <= index.UnixNano(scheduledBefore)
	}
	take := func(bucket index.Bucket, id spool.ID, record []byte) {
		p := index.Place{Bucket: bucket, Route: info, ID: id, Record: record}
		places = append(places, p.Clone())
	}
	takeDue := func(key, order []byte) bool {
		if len(places) >= limit || index.KeyTime(key) > index.UnixNano(now) {
			return false
		}
		id := index.KeyID(key)
		if record := c.Get(index.Parked, index.IDKey(info.Number, id)); index.Record(record).Intact() &&
			isOld(record) &&
			!taken[index.Uint64(order)] {
			take(index.Parked, id, record)
		}
		return true
	}
	c.Scan(index.Due, index.RouteKey(info.Number), nil, takeDue)
	c.Scan(index.Again, index.RouteKey(info.Number), nil, takeDue)
	c.Scan(index.Fresh, index.RouteKey(info.Number), nil, func(key, record []byte) bool {
		if !index.Record(record).Intact() {
			return true // it is dealt with when its turn to be delivered comes
		}
		if len(places) >= limit || !isOld(record) {
			return false // the rest came later
		}
		order := index.Record(record).OrderKey()
		if _, parked := c.FirstParked(info.Number, order); !parked && !taken[order] {
			take(index.Fresh, index.KeyID(key), record)
		}
		return true
	})
	return places
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

// Dead letters, replay, and records that cannot be read.

package disk

import (
	"context"
	"fmt"
	"time"

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
		p, ok := c.at(c.route(q.Route), id, index.Fresh, index.Parked)
		if !ok { // only an index of it is left
			return c.UnparkDamaged(q.Number, id)
		}
		p.record = append([]byte(nil), p.record...)
		if _, err := c.extract(p); err != nil {
			return err
		}
		return c.buryDamaged(p.info, id, p.record)
	}}, true)
}

// buryDamaged puts a record that cannot be read among the dead letters.
func (c *change) buryDamaged(info *index.RouteInfo, id spool.ID, record []byte) error {
	c.route(info.Name).Counts.Dead++
	return c.Bury(info.Number, id, time.Now(), record)
}

// adoptDamaged makes dead letters of the records that earlier versions put aside, where nobody
// could get at them.
func (d *Store) adoptDamaged() {
	d.ops.push(&operation{durable: true, apply: func(c *change) error {
		var places []place
		c.Scan(index.Damaged, nil, nil, func(key, record []byte) bool {
			d.mu.Lock()
			info := d.numbers[index.Uint32(key)]
			d.mu.Unlock()
			if info != nil {
				places = append(
					places,
					place{info: info, id: index.KeyID(key), record: append([]byte(nil), record...)},
				)
			}
			return len(places) < maxGroup
		})
		for _, p := range places {
			if err := c.Delete(index.Damaged, index.IDKey(p.info.Number, p.id)); err != nil {
				return err
			}
			if err := c.buryDamaged(p.info, p.id, p.record); err != nil {
				return err
			}
		}
		return nil
	}}, true)
}

// Replay implements [spool.Store].
func (d *Store) Replay(ctx context.Context, id spool.ID) error {
	var result error
	err := d.perform(ctx, func(c *change) error {
		p, ok := d.find(c.Tx, id)
		switch {
		case !ok:
			result = spool.ErrNotFound
			return nil
		case d.isLeased(id):
			result = spool.ErrInFlight
			return nil
		}
		var err error
		result, err = c.replay(p, time.Now())
		return err
	})
	if err == nil {
		err = result
	}
	return err
}

// replay makes a message due. Failing to read it is the result; failing to write it is err.
func (c *change) replay(p place, now time.Time) (result, err error) {
	if p.bucket == index.Fresh {
		return nil, nil // it is due anyway
	}
	m, result := p.message()
	if result != nil {
		return result, nil
	}
	if _, err := c.extract(p); err != nil {
		return nil, err
	}
	m.Attempts, m.ScheduledFrom, m.NextAttemptAt, m.DiedAt = 0, now, time.Time{}, time.Time{}
	c.after = append(c.after, func() { c.d.replayed(p.info.Name, m.OrderKey) })
	return nil, c.parkAgain(p.info, m)
}

// replayed lets the queue of a route know. d.mu is held.
func (d *Store) replayed(route string, order uint64) {
	if q := d.queue(route); q != nil {
		q.LetPass(order)
		d.notify(route)
	}
}

// ReplayDead implements [spool.Store].
func (d *Store) ReplayDead(
	ctx context.Context,
	route string,
	diedBefore time.Time,
	limit int,
) (int, error) {
	replayed := 0
	err := d.perform(ctx, func(c *change) error {
		replayed = 0
		now := time.Now()
		for _, info := range d.routeInfos() {
			if route != "" && route != info.Name {
				continue
			}
			for _, p := range c.dead(info, diedBefore, limit-replayed) {
				result, err := c.replay(p, now)
				if err != nil {
					return err
				}
				if result == nil {
					replayed++
				}
			}
		}
		return nil
	})
	return replayed, err
}

// dead returns the first dead letters of a route that died before a time, and can be read.
func (c *change) dead(info *index.RouteInfo, diedBefore time.Time, limit int) []place {
	var places []place
	c.Scan(index.Dead, index.RouteKey(info.Number), nil, func(key, record []byte) bool {
		if len(places) >= limit {
			return false
		}
		if index.Record(record).Intact() && index.Record(record).DiedAt() < index.UnixNano(diedBefore) {
			places = append(
				places,
				place{
					bucket: index.Dead,
					info:   info,
					id:     index.KeyID(key),
					record: append([]byte(nil), record...),
				},
			)
		}
		return true
	})
	return places
}

// DropDead implements [spool.Store].
func (d *Store) DropDead(
	ctx context.Context,
	route string,
	diedBefore time.Time,
	limit int,
) ([]*spool.Message, error) {
	var dropped []*spool.Message
	err := d.perform(ctx, func(c *change) error {
		dropped = nil
		d.mu.Lock()
		info := d.routes[route]
		d.mu.Unlock()
		if info == nil {
			return nil
		}
		var ids []spool.ID
		c.Scan(index.Died, index.RouteKey(info.Number), nil, func(key, _ []byte) bool {
			if index.KeyTime(key) >= index.UnixNano(diedBefore) || len(ids) >= limit {
				return false
			}
			ids = append(ids, index.KeyID(key))
			return true
		})
		for _, id := range ids {
			p, ok := c.at(info, id, index.Dead)
			if !ok {
				continue
			}
			dropped = append(dropped, p.show())
			if _, err := c.remove(p); err != nil {
				return err
			}
		}
		return nil
	})
	return dropped, err
}

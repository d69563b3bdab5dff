// What the writer does to messages, one function for each kind of change.

package disk

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
)

// remove takes a message out of the index with all that belongs to it.
// more says whether there are more parked ones of its order key.
func (c *change) remove(p place) (more bool, err error) {
	more, err = c.extract(p)
	if err != nil || !recordIntact(p.record) { // which then does not tell where its body is
		return more, err
	}
	return more, c.release(recordLocation(p.record))
}

// extract takes a message's record out of the bucket where it is.
func (c *change) extract(p place) (more bool, err error) {
	totals := &c.route(p.info.name).counts
	size, order := int64(0), recordOrderKey(p.record)
	intact := recordIntact(p.record)
	if intact {
		size = recordLocation(p.record).size
	}
	switch &p.bucket[0] {
	case &bucketFresh[0]:
		err = c.delete(bucketFresh, idKey(p.info.number, p.id))
	case &bucketParked[0]:
		totals.parked--
		if intact {
			more, err = c.unpark(p.info.number, p.id, order)
		} else {
			err = c.unparkDamaged(p.info.number, p.id)
			_, more = c.firstParked(p.info.number, order)
		}
	case &bucketDead[0]:
		totals.dead--
		totals.deadBytes -= size
		if !intact {
			return false, c.exhumeDamaged(p.info.number, p.id)
		}
		return false, c.exhume(p.info.number, p.id, fromUnixNano(recordDiedAt(p.record)))
	}
	totals.pending--
	totals.pendingBytes -= size
	return more, err
}

// parkAgain puts a record among the parked that was pending or dead before.
func (c *change) parkAgain(info *routeInfo, m *entry) error {
	totals := &c.route(info.name).counts
	totals.parked++
	totals.pending++
	totals.pendingBytes += m.Size
	return c.park(info.number, m.ID, appendRecord(nil, m))
}

// kill makes a dead letter of a pending message.
func (c *change) kill(p place, m *entry, at time.Time) (more bool, err error) {
	more, err = c.extract(p)
	if err != nil {
		return more, err
	}
	m.State, m.DiedAt, m.NextAttemptAt = spool.Dead, at, time.Time{}
	totals := &c.route(p.info.name).counts
	totals.dead++
	totals.deadBytes += m.Size
	return more, c.bury(p.info.number, p.id, at, appendRecord(nil, m))
}

// at looks a message up in some buckets.
func (c *change) at(info *routeInfo, id spool.ID, buckets ...[]byte) (place, bool) {
	for _, bucket := range buckets {
		if record := c.get(bucket, idKey(info.number, id)); record != nil {
			return place{bucket: bucket, info: info, id: id, record: record}, true
		}
	}
	return place{}, false
}

// settleOperation records the end of a lease. d.mu is held.
func (d *Store) settleOperation(l *lease, s spool.Settlement) *operation {
	id, order, q := l.msg.ID, l.msg.OrderKey, l.queue
	var more bool
	after := func() {
		delete(d.leases, id)
		d.unstored--
		if !l.advanced {
			q.recorded(order, more)
		}
		d.notify(q.route)
	}
	apply := func(c *change) error {
		c.after = append(c.after, after)
		err := c.settle(l, s)
		_, more = c.firstParked(q.number, order)
		return err
	}
	return &operation{apply: apply, durable: true}
}

func (c *change) settle(l *lease, s spool.Settlement) error {
	p, ok := c.at(c.route(l.queue.route), l.msg.ID, bucketFresh, bucketParked, bucketDead)
	if !ok {
		return nil // dropped meanwhile
	}
	if s.Verdict == spool.Done {
		_, err := c.remove(p)
		return err
	}
	if &p.bucket[0] == &bucketDead[0] {
		return nil // expired meanwhile
	}
	m, err := p.message()
	if err != nil { // it has turned bad since it was leased
		m = l.msg
	}
	m.Attempts++
	m.LastError = spool.ClipError(s.LastError)
	if s.Verdict == spool.Bury {
		_, err := c.kill(p, m, s.At)
		return err
	}
	m.NextAttemptAt = s.At
	if _, err := c.extract(p); err != nil {
		return err
	}
	return c.parkAgain(p.info, m)
}

// park has the fresh messages of an order key moved to the parked, as far as they were
// read: what is leased, ready or follows in memory, and those that found no room there. d.mu is held.
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
			record := c.get(bucketFresh, idKey(q.number, id))
			if record == nil {
				continue // settled or dropped meanwhile
			}
			record = append([]byte(nil), record...)
			if err := c.delete(bucketFresh, idKey(q.number, id)); err != nil {
				return err
			}
			if err := c.indexTx.park(q.number, id, record); err != nil {
				return err
			}
			info.counts.parked++
		}
		return nil
	}}, true)
}

// quarantine makes a dead letter of a record that cannot be read, so that it does not stop others and an
// operator finds it. d.mu is held.
func (d *Store) quarantine(q *queue, id spool.ID) {
	d.leases[id] = &lease{msg: &entry{Message: spool.Message{ID: id}}, queue: q, settled: true, advanced: true}
	d.unstored++
	if d.options.Events.Problem != nil {
		d.options.Events.Problem(fmt.Errorf("message %s of route %s: %w; it is a dead letter now", id, q.route, spool.ErrDamaged))
	}
	d.ops.push(&operation{durable: true, apply: func(c *change) error {
		c.after = append(c.after, func() {
			delete(d.leases, id)
			d.unstored--
			d.notify(q.route)
		})
		p, ok := c.at(c.route(q.route), id, bucketFresh, bucketParked)
		if !ok { // only an index of it is left
			return c.unparkDamaged(q.number, id)
		}
		p.record = append([]byte(nil), p.record...)
		if _, err := c.extract(p); err != nil {
			return err
		}
		return c.buryDamaged(p.info, id, p.record)
	}}, true)
}

// buryDamaged puts a record that cannot be read among the dead letters.
func (c *change) buryDamaged(info *routeInfo, id spool.ID, record []byte) error {
	c.route(info.name).counts.dead++
	return c.bury(info.number, id, time.Now(), record)
}

// adoptDamaged makes dead letters of the records that earlier versions put aside, where nobody could get at them.
func (d *Store) adoptDamaged() {
	d.ops.push(&operation{durable: true, apply: func(c *change) error {
		var places []place
		c.scan(bucketDamaged, nil, nil, func(key, record []byte) bool {
			d.mu.Lock()
			info := d.numbers[parseUint32(key)]
			d.mu.Unlock()
			if info != nil {
				places = append(places, place{info: info, id: keyID(key), record: append([]byte(nil), record...)})
			}
			return len(places) < maxGroup
		})
		for _, p := range places {
			if err := c.delete(bucketDamaged, idKey(p.info.number, p.id)); err != nil {
				return err
			}
			if err := c.buryDamaged(p.info, p.id, p.record); err != nil {
				return err
			}
		}
		return nil
	}}, true)
}

// unparkDamaged is unpark for a record that does not tell its order key or time, or is not there.
func (t *indexTx) unparkDamaged(route uint32, id spool.ID) error {
	if err := t.delete(bucketParked, idKey(route, id)); err != nil {
		return err
	}
	due, orders := t.keyOf(bucketDue, route, id)
	if due != nil {
		if err := t.delete(bucketDue, due); err != nil {
			return err
		}
	}
	place, _ := t.keyOf(bucketOrder, route, id)
	if place != nil {
		if err := t.delete(bucketOrder, place); err != nil {
			return err
		}
	}
	if due == nil {
		return nil
	}
	return t.putDue(route, parseUint64(orders))
}

// keyOf finds the entry of a message in a bucket whose keys end with the id. It looks at all of the route's.
func (t *indexTx) keyOf(bucket []byte, route uint32, id spool.ID) (key, value []byte) {
	t.scan(bucket, routeKey(route), nil, func(k, v []byte) bool {
		if keyID(k) != id {
			return true
		}
		key, value = append([]byte(nil), k...), append([]byte(nil), v...)
		return false
	})
	return key, value
}

// exhumeDamaged is exhume for a record that does not tell when it died.
func (t *indexTx) exhumeDamaged(route uint32, id spool.ID) error {
	if died, _ := t.keyOf(bucketDied, route, id); died != nil {
		if err := t.delete(bucketDied, died); err != nil {
			return err
		}
	}
	return t.delete(bucketDead, idKey(route, id))
}

// Replay implements [spool.Store].
func (d *Store) Replay(ctx context.Context, id spool.ID) error {
	var result error
	err := d.perform(ctx, func(c *change) error {
		p, ok := d.find(c.indexTx, id)
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
	if &p.bucket[0] == &bucketFresh[0] {
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
	c.after = append(c.after, func() { c.d.replayed(p.info.name, m.OrderKey) })
	return nil, c.parkAgain(p.info, m)
}

// replayed lets the queue of a route know. d.mu is held.
func (d *Store) replayed(route string, order uint64) {
	if q := d.queue(route); q != nil {
		q.letPass(order)
		d.notify(route)
	}
}

// isLeased reports whether a message is being delivered, or its outcome recorded.
func (d *Store) isLeased(id spool.ID) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.leases[id] != nil
}

// ReplayDead implements [spool.Store].
func (d *Store) ReplayDead(ctx context.Context, route string, diedBefore time.Time, limit int) (int, error) {
	replayed := 0
	err := d.perform(ctx, func(c *change) error {
		replayed = 0
		now := time.Now()
		for _, info := range d.routeInfos() {
			if route != "" && route != info.name {
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
func (c *change) dead(info *routeInfo, diedBefore time.Time, limit int) []place {
	var places []place
	c.scan(bucketDead, routeKey(info.number), nil, func(key, record []byte) bool {
		if len(places) >= limit {
			return false
		}
		if recordIntact(record) && recordDiedAt(record) < unixNano(diedBefore) {
			places = append(places, place{bucket: bucketDead, info: info, id: keyID(key), record: append([]byte(nil), record...)})
		}
		return true
	})
	return places
}

// Drop implements [spool.Store].
func (d *Store) Drop(ctx context.Context, id spool.ID) (*spool.Message, error) {
	var dropped *spool.Message
	var result error
	err := d.perform(ctx, func(c *change) error {
		dropped, result = nil, nil
		p, ok := d.find(c.indexTx, id)
		if !ok {
			result = spool.ErrNotFound
			return nil
		}
		dropped = p.show()
		if d.dropLeased(id) {
			result = spool.ErrInFlight
			return nil
		}
		order := recordOrderKey(p.record) // as the queue has it, also of a record that cannot be read
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
	l.dropped = true
	return true
}

// vanished lets the queue know that a message is not pending any more. d.mu is held.
func (d *Store) vanished(p place, order uint64, more bool) {
	q := d.queues[p.info.name]
	if q == nil {
		return
	}
	defer d.notify(q.route)
	if l := d.leases[p.id]; l != nil { // leased after the change was made, before it was known here
		l.dropped = true
		return
	}
	if &p.bucket[0] != &bucketParked[0] {
		q.forget(p.id, order)
		return
	}
	if k := q.keys[order]; k != nil && !k.busy {
		k.parked = more
		q.advance(order)
	}
}

// Expire implements [spool.Store].
func (d *Store) Expire(ctx context.Context, route string, scheduledBefore time.Time, lastError string, limit int) ([]*spool.Message, error) {
	var expired []*spool.Message
	err := d.perform(ctx, func(c *change) error {
		expired = nil
		d.mu.Lock()
		info := d.routes[route]
		d.mu.Unlock()
		if info == nil {
			return nil
		}
		now := time.Now()
		for _, p := range c.expired(info, scheduledBefore, now, limit) {
			m, err := p.message()
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
			expired = append(expired, m.shown())
			c.after = append(c.after, func() { d.vanished(p, m.OrderKey, more) })
		}
		return nil
	})
	return expired, err
}

// expired returns pending messages that are due, that nothing of their order key is before,
// and whose schedule began before a time.
func (c *change) expired(info *routeInfo, scheduledBefore, now time.Time, limit int) []place {
	var places []place
	taken := c.d.leasedKeys(info.name)
	isOld := func(record []byte) bool { return recordScheduledFrom(record) < unixNano(scheduledBefore) }
	take := func(bucket []byte, id spool.ID, record []byte) {
		places = append(places, place{bucket: bucket, info: info, id: id, record: append([]byte(nil), record...)})
	}
	c.scan(bucketDue, routeKey(info.number), nil, func(key, order []byte) bool {
		if len(places) >= limit || keyTime(key) > unixNano(now) {
			return false
		}
		id := keyID(key)
		if record := c.get(bucketParked, idKey(info.number, id)); recordIntact(record) && isOld(record) && !taken[parseUint64(order)] {
			take(bucketParked, id, record)
		}
		return true
	})
	c.scan(bucketFresh, routeKey(info.number), nil, func(key, record []byte) bool {
		if !recordIntact(record) {
			return true // it is dealt with when its turn to be delivered comes
		}
		if len(places) >= limit || !isOld(record) {
			return false // the rest came later
		}
		order := recordOrderKey(record)
		if _, parked := c.firstParked(info.number, order); !parked && !taken[order] {
			take(bucketFresh, keyID(key), record)
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
		if l.queue.route == route {
			keys[l.msg.OrderKey] = true
		}
	}
	return keys
}

// DropDead implements [spool.Store].
func (d *Store) DropDead(ctx context.Context, route string, diedBefore time.Time, limit int) ([]*spool.Message, error) {
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
		c.scan(bucketDied, routeKey(info.number), nil, func(key, _ []byte) bool {
			if keyTime(key) >= unixNano(diedBefore) || len(ids) >= limit {
				return false
			}
			ids = append(ids, keyID(key))
			return true
		})
		for _, id := range ids {
			p, ok := c.at(info, id, bucketDead)
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

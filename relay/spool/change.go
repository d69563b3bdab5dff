// What the writer does to messages, one function for each kind of change.

package spool

import (
	"context"
	"fmt"
	"time"
)

// remove takes a message out of the index with all that belongs to it.
// more says whether there are more parked ones of its order key.
func (c *change) remove(p place) (more bool, err error) {
	more, err = c.extract(p)
	if err != nil {
		return more, err
	}
	return more, c.release(recordLocation(p.record))
}

// extract takes a message's record out of the bucket where it is.
func (c *change) extract(p place) (more bool, err error) {
	totals := &c.route(p.info.name).counts
	size, order := recordLocation(p.record).size, recordOrderKey(p.record)
	switch &p.bucket[0] {
	case &bucketFresh[0]:
		err = c.delete(bucketFresh, idKey(p.info.number, p.id))
	case &bucketParked[0]:
		totals.parked--
		more, err = c.unpark(p.info.number, p.id, order)
	case &bucketDead[0]:
		totals.dead--
		totals.deadBytes -= size
		return false, c.exhume(p.info.number, p.id, fromUnixNano(recordDiedAt(p.record)))
	}
	totals.pending--
	totals.pendingBytes -= size
	return more, err
}

// parkAgain puts a record among the parked that was pending or dead before.
func (c *change) parkAgain(info *routeInfo, m *Message) error {
	totals := &c.route(info.name).counts
	totals.parked++
	totals.pending++
	totals.pendingBytes += m.Size
	return c.park(info.number, m.ID, appendRecord(nil, m))
}

// kill makes a dead letter of a pending message.
func (c *change) kill(p place, m *Message, at time.Time) (more bool, err error) {
	more, err = c.extract(p)
	if err != nil {
		return more, err
	}
	m.State, m.DiedAt, m.NextAttemptAt = Dead, at, time.Time{}
	totals := &c.route(p.info.name).counts
	totals.dead++
	totals.deadBytes += m.Size
	return more, c.bury(p.info.number, p.id, at, appendRecord(nil, m))
}

// at looks a message up in some buckets.
func (c *change) at(info *routeInfo, id ID, buckets ...[]byte) (place, bool) {
	for _, bucket := range buckets {
		if record := c.get(bucket, idKey(info.number, id)); record != nil {
			return place{bucket: bucket, info: info, id: id, record: record}, true
		}
	}
	return place{}, false
}

// settleOperation records the end of a lease. d.mu is held.
func (d *Disk) settleOperation(l *lease, s Settlement) *operation {
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

func (c *change) settle(l *lease, s Settlement) error {
	p, ok := c.at(c.route(l.queue.route), l.msg.ID, bucketFresh, bucketParked, bucketDead)
	if !ok {
		return nil // dropped meanwhile
	}
	if s.Verdict == Done {
		_, err := c.remove(p)
		return err
	}
	if &p.bucket[0] == &bucketDead[0] {
		return nil // expired meanwhile
	}
	m, err := p.message()
	if err != nil {
		m = l.msg
		m.where = recordLocation(p.record)
	}
	m.Attempts++
	m.LastError = clip(s.LastError, maxLastError)
	if s.Verdict == Bury {
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
func (d *Disk) park(q *queue, order uint64, rest []waiting) {
	k := q.key(order)
	var ids []ID
	for id, l := range d.leases {
		if k.busy && l.queue == q && l.msg.OrderKey == order && !l.settled && !l.parked {
			l.parked, k.parked = true, true
			ids = append(ids, id)
		}
	}
	for i, w := range q.ready {
		if w.key == order {
			ids = append(ids, w.id)
			q.ready = append(q.ready[:i:i], q.ready[i+1:]...)
			k.busy = false
			break
		}
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

// quarantine puts a record that cannot be read where it does not stop others. d.mu is held.
func (d *Disk) quarantine(q *queue, id ID) {
	d.leases[id] = &lease{msg: &Message{ID: id}, queue: q, settled: true, advanced: true}
	d.unstored++
	if d.options.Damaged != nil {
		d.options.Damaged(fmt.Errorf("message %s of route %s: %w", id, q.route, ErrDamaged))
	}
	d.ops.push(&operation{durable: true, apply: func(c *change) error {
		c.after = append(c.after, func() {
			delete(d.leases, id)
			d.unstored--
			d.notify(q.route)
		})
		info := c.route(q.route)
		p, ok := c.at(info, id, bucketFresh, bucketParked)
		if !ok {
			return nil
		}
		key := idKey(q.number, id)
		if err := c.put(bucketDamaged, key, append([]byte(nil), p.record...)); err != nil {
			return err
		}
		info.counts.pending--
		if size := recordLocation(p.record).size; size >= 0 && size <= info.counts.pendingBytes {
			info.counts.pendingBytes -= size
		}
		if &p.bucket[0] == &bucketFresh[0] {
			return c.delete(bucketFresh, key)
		}
		info.counts.parked--
		return c.unparkDamaged(q.number, id)
	}}, true)
}

// unparkDamaged is unpark for a record that does not tell its order key or time.
func (t *indexTx) unparkDamaged(route uint32, id ID) error {
	var due []byte
	var order uint64
	t.scan(bucketDue, routeKey(route), nil, func(key, value []byte) bool {
		if keyID(key) != id {
			return true
		}
		due, order = append([]byte(nil), key...), parseUint64(value)
		return false
	})
	if due == nil {
		return nil
	}
	err := t.delete(bucketDue, due)
	if err == nil {
		err = t.delete(bucketOrder, orderKey(route, order, id))
	}
	if err == nil {
		err = t.delete(bucketParked, idKey(route, id))
	}
	if err == nil {
		err = t.putDue(route, order)
	}
	return err
}

// Replay implements Store.
func (d *Disk) Replay(ctx context.Context, id ID) error {
	var result error
	err := d.perform(ctx, func(c *change) error {
		p, ok := d.find(c.indexTx, id)
		switch {
		case !ok:
			result = ErrNotFound
			return nil
		case d.isLeased(id):
			result = ErrInFlight
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
func (d *Disk) replayed(route string, order uint64) {
	if q := d.queue(route); q != nil {
		q.letPass(order)
		d.notify(route)
	}
}

// isLeased reports whether a message is being delivered, or its outcome recorded.
func (d *Disk) isLeased(id ID) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.leases[id] != nil
}

// ReplayDead implements Store.
func (d *Disk) ReplayDead(ctx context.Context, route string, diedBefore time.Time, limit int) (int, error) {
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

// dead returns the first dead letters of a route that died before a time.
func (c *change) dead(info *routeInfo, diedBefore time.Time, limit int) []place {
	var places []place
	c.scan(bucketDead, routeKey(info.number), nil, func(key, record []byte) bool {
		if len(places) >= limit {
			return false
		}
		if recordDiedAt(record) < unixNano(diedBefore) {
			places = append(places, place{bucket: bucketDead, info: info, id: keyID(key), record: append([]byte(nil), record...)})
		}
		return true
	})
	return places
}

// Drop implements Store.
func (d *Disk) Drop(ctx context.Context, id ID) (*Message, error) {
	var dropped *Message
	var result error
	err := d.perform(ctx, func(c *change) error {
		dropped, result = nil, nil
		p, ok := d.find(c.indexTx, id)
		if !ok {
			result = ErrNotFound
			return nil
		}
		if dropped, result = p.message(); result != nil {
			return nil
		}
		if d.dropLeased(id) {
			result = ErrInFlight
			return nil
		}
		more, err := c.remove(p)
		c.after = append(c.after, func() { d.vanished(p, dropped.OrderKey, more) })
		return err
	})
	if err == nil {
		err = result
	}
	return dropped, err
}

// dropLeased marks a leased message to be forgotten when it is settled. It
// reports whether the message is leased.
func (d *Disk) dropLeased(id ID) bool {
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
func (d *Disk) vanished(p place, order uint64, more bool) {
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

// Expire implements Store.
func (d *Disk) Expire(ctx context.Context, route string, scheduledBefore time.Time, lastError string, limit int) ([]*Message, error) {
	var expired []*Message
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
				continue // it is dealt with when its turn to be delivered comes
			}
			if m.LastError == "" {
				m.LastError = clip(lastError, maxLastError)
			}
			more, err := c.kill(p, m, now)
			if err != nil {
				return err
			}
			expired = append(expired, m)
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
	take := func(bucket []byte, id ID, record []byte) {
		places = append(places, place{bucket: bucket, info: info, id: id, record: append([]byte(nil), record...)})
	}
	c.scan(bucketDue, routeKey(info.number), nil, func(key, order []byte) bool {
		if len(places) >= limit || keyTime(key) > unixNano(now) {
			return false
		}
		id := keyID(key)
		if record := c.get(bucketParked, idKey(info.number, id)); isOld(record) && !taken[parseUint64(order)] {
			take(bucketParked, id, record)
		}
		return true
	})
	c.scan(bucketFresh, routeKey(info.number), nil, func(key, record []byte) bool {
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
func (d *Disk) leasedKeys(route string) map[uint64]bool {
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

// DropDead implements Store.
func (d *Disk) DropDead(ctx context.Context, route string, diedBefore time.Time, limit int) ([]*Message, error) {
	var dropped []*Message
	err := d.perform(ctx, func(c *change) error {
		dropped = nil
		d.mu.Lock()
		info := d.routes[route]
		d.mu.Unlock()
		if info == nil {
			return nil
		}
		var ids []ID
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
			if m, err := p.message(); err == nil {
				dropped = append(dropped, m)
			}
			if _, err := c.remove(p); err != nil {
				return err
			}
		}
		return nil
	})
	return dropped, err
}

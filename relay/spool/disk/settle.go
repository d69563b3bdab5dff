// Settle: how a lease ends.

package disk

import (
	"slices"

	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/disk/index"
)

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
		_, more = c.FirstParked(q.number, order)
		return err
	}
	return &operation{apply: apply, durable: true}
}

func (c *change) settle(l *lease, s spool.Settlement) error {
	p, ok := c.at(c.route(l.queue.route), l.msg.ID, index.Fresh, index.Parked, index.Dead)
	if !ok {
		return nil // dropped meanwhile
	}
	if s.Verdict == spool.Done {
		_, err := c.remove(p)
		return err
	}
	if p.bucket == index.Dead {
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

const (
	// maxUnrecorded bounds how many settled messages may wait to be on disk: after a crash they
	// are delivered again.
	maxUnrecorded = 4096
)

// giveBack ends a lease without a trace. d.mu is held.
func (d *Store) giveBack(l *lease) {
	delete(d.leases, l.msg.ID)
	l.queue.inFlight--
	q, order := l.queue, l.msg.OrderKey
	k := q.key(order)
	k.leased = false
	switch {
	case l.parked && k.unrecorded > 0:
		q.resumed = append(q.resumed, order)
	case l.parked:
		q.advance(order)
	case l.msg.ID.Compare(q.cursor) > 0: // it will be read again
		delete(q.keys, order)
	default:
		q.ready = slices.Insert(q.ready, 0, waiting{id: l.msg.ID, key: order, dest: l.msg.Destination})
	}
	d.notify(l.queue.route)
}

// Settle implements [spool.Store].
func (d *Store) Settle(leased *spool.Lease, s spool.Settlement) {
	d.settle(leased.Message.ID, s)
}

func (d *Store) settle(id spool.ID, s spool.Settlement) {
	d.mu.Lock()
	defer d.mu.Unlock()
	l := d.leases[id]
	if l == nil || l.settled {
		return
	}
	if l.dropped {
		s.Verdict = spool.Done
	}
	if s.Verdict == spool.Return {
		d.giveBack(l)
		return
	}
	l.settled, l.advanced = true, !l.parked && s.Verdict != spool.Retry
	l.queue.inFlight--
	d.unstored++
	q, order := l.queue, l.msg.OrderKey
	k := q.key(order)
	k.leased = false
	switch {
	case l.advanced:
		if q.advance(order) {
			d.notify(q.route)
		}
	case s.Verdict == spool.Retry:
		k.unrecorded++
	default:
		k.unrecorded++
		q.resumed = append(q.resumed, order)
		d.notify(q.route)
	}
	d.ops.push(d.settleOperation(l, s), false)
}

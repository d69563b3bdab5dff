// Settle: how a lease ends.

package disk

import (
	"time"

	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/disk/index"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/disk/queue"
)

// maxUnrecorded bounds how many settled messages may wait to be on disk: after a crash they are
// delivered again.
const maxUnrecorded = 4096

// Settle implements [spool.Store].
func (d *Store) Settle(leased *spool.Lease, s spool.Settlement) {
	if l, ok := leased.Token.(*queue.Lease); ok {
		d.settle(l, s)
	}
}

func (d *Store) settle(l *queue.Lease, s spool.Settlement) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.leases[l.Msg.ID] != l || l.IsSettled() {
		return
	}
	if l.Dropped {
		s.Verdict, s.Keep = spool.Done, false
	}
	if s.Verdict == spool.Return {
		d.giveBack(l)
		return
	}
	d.unstored++
	if l.Queue.Settle(l, s.Verdict) {
		d.notify(l.Queue.Route)
	}
	d.ops.push(d.settleOperation(l, s), false)
}

// giveBack ends a lease without a trace. d.mu is held.
func (d *Store) giveBack(l *queue.Lease) {
	delete(d.leases, l.Msg.ID)
	l.Queue.GiveBack(l)
	d.notify(l.Queue.Route)
}

// settleOperation records the end of a lease. d.mu is held.
func (d *Store) settleOperation(l *queue.Lease, s spool.Settlement) *operation {
	id, order, q, now := l.Msg.ID, l.Msg.OrderKey, l.Queue, time.Now()
	var more bool
	after := func() {
		delete(d.leases, id)
		d.unstored--
		q.Recorded(l, more)
		d.notify(q.Route)
	}
	apply := func(c *change) error {
		c.after = append(c.after, after)
		err := c.settle(l, s, now)
		_, more = c.FirstParked(q.Number, order)
		return err
	}
	return &operation{apply: apply, durable: true}
}

func (c *change) settle(l *queue.Lease, s spool.Settlement, now time.Time) error {
	p, ok := c.At(c.Route(l.Queue.Route), l.Msg.ID, index.Fresh, index.Parked, index.Dead)
	if !ok {
		return nil // dropped meanwhile
	}
	if s.Verdict == spool.Done && !s.Keep {
		_, err := c.Remove(p)
		return err
	}
	if p.Bucket == index.Dead && s.Verdict != spool.Done {
		return nil // expired meanwhile
	}
	m, err := p.Entry()
	if err != nil { // it has turned bad since it was leased
		m = l.Msg
	}
	m.AddAttempt(s.Attempt)
	switch s.Verdict {
	case spool.Done:
		m.DiedAt, m.DeliveredAt, m.NextAttemptAt = time.Time{}, now, time.Time{}
		return c.Keep(p, m)
	case spool.Bury:
		_, err := c.Kill(p, m, now)
		return err
	}
	m.NextAttemptAt = now.Add(s.Delay)
	return c.ParkAgain(p, m)
}

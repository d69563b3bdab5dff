// Settle: how a lease ends.

package disk

import (
	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/disk/index"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/disk/queue"
)

// maxUnrecorded bounds how many settled messages may wait to be on disk: after a crash they are
// delivered again.
const maxUnrecorded = 4096

// Settle implements [spool.Store].
func (d *Store) Settle(leased *spool.Lease, s spool.Settlement) {
	d.settle(leased.Message.ID, s)
}

func (d *Store) settle(id spool.ID, s spool.Settlement) {
	d.mu.Lock()
	defer d.mu.Unlock()
	l := d.leases[id]
	if l == nil || l.IsSettled() {
		return
	}
	if l.Dropped {
		s.Verdict = spool.Done
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
	id, order, q := l.Msg.ID, l.Msg.OrderKey, l.Queue
	var more bool
	after := func() {
		delete(d.leases, id)
		d.unstored--
		q.Recorded(l, more)
		d.notify(q.Route)
	}
	apply := func(c *change) error {
		c.after = append(c.after, after)
		err := c.settle(l, s)
		_, more = c.FirstParked(q.Number, order)
		return err
	}
	return &operation{apply: apply, durable: true}
}

func (c *change) settle(l *queue.Lease, s spool.Settlement) error {
	p, ok := c.at(c.route(l.Queue.Route), l.Msg.ID, index.Fresh, index.Parked, index.Dead)
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
		m = l.Msg
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

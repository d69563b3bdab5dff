// The writer: one goroutine through which every change to the disk goes, in groups.

package disk

import (
	"time"

	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/disk/bodies"
)

const (
	// maintainDelay is how long after a change the writer looks for what can be tidied up.
	maintainDelay = time.Second
	// minCompany is how many senders there must be at a time for a group commit to wait for them.
	minCompany = 8
)

// writerState is the writer's alone.
type writerState struct {
	ids spool.IDSource

	company int // how many accepts to wait for

	retryAt time.Time     // before this, the index is left alone because it has just failed
	probeAt time.Time     // when to look whether messages can be accepted again
	backoff time.Duration // between such looks

	maintainAt time.Time // zero if there is nothing to look after
	compactAt  time.Time
	pinned     map[uint32]bool // segments that cannot be cleared
}

// run is the writer.
func (d *Store) run() {
	defer close(d.done)
	w := &d.writer
	w.pinned = make(map[uint32]bool)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		if next := d.nextWork(); next.IsZero() {
			timer.Stop()
		} else {
			timer.Reset(time.Until(next))
		}
		select {
		case <-d.ops.wake:
		case <-timer.C:
		}
		if d.ops.isClosed() {
			d.finish()
			return
		}
		d.work()
	}
}

// nextWork returns when the writer has to do something unasked, or zero.
func (d *Store) nextWork() time.Time {
	next := earlier(d.writer.retryAt, d.writer.maintainAt)
	if d.isRefusing() {
		next = earlier(next, d.writer.probeAt)
	}
	return next
}

// earlier returns the earlier of two times, of which zero means never.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// work does one group commit, and what else is to be done.
func (d *Store) work() {
	d.ops.gather(d.writer.company, d.options.CommitDelay)
	now := time.Now()
	group := d.ops.take()
	defer d.countCompany(group)
	if now.Before(d.writer.retryAt) {
		d.turnAway(group, d.refusal())
		return
	}
	d.writer.retryAt = time.Time{}
	if d.index != nil {
		if err := d.index.Damage(); err != nil {
			d.indexFailed(group, err)
			return
		}
	} else if err := d.reopen(); err != nil {
		d.stopAccepting(bodies.Refusal(err))
		d.turnAway(group, d.refusal())
		return
	}
	if len(group) > 0 {
		d.commit(group)
	}
	if d.isRefusing() && !now.Before(d.writer.probeAt) {
		d.recover()
	}
	switch maintainAt := d.writer.maintainAt; {
	case maintainAt.IsZero():
		d.writer.maintainAt = now.Add(maintainDelay)
	case !now.Before(maintainAt):
		d.writer.maintainAt = time.Time{}
		d.maintain(now)
	}
}

// countCompany estimates how many senders there are at a time: those that were just answered,
// most of which come again soon, and those that came meanwhile.
func (d *Store) countCompany(group []*operation) {
	company := d.ops.waiting()
	for _, op := range group {
		if op.accept != nil {
			company++
		}
	}
	if company < minCompany {
		company = 0
	}
	d.writer.company = company * 7 / 8
}

// finish writes what is left when the store is closed.
func (d *Store) finish() {
	works := d.index != nil
	for !d.ops.isEmpty() {
		group := d.ops.take()
		if works {
			works = d.commit(group) // if it fails, what must not be lost is in the queue again
			continue
		}
		for _, op := range group {
			if !op.durable { // what is lost here is delivered again after the restart
				d.fail(op, spool.ErrClosed)
			}
		}
	}
}

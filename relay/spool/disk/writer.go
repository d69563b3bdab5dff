// The writer: one goroutine through which every change to the disk goes, in groups.

package disk

import (
	"time"

	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/disk/bodies"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/disk/fingerprints"
)

const (
	// maintainDelay is how long after a change the writer looks for what can be tidied up.
	maintainDelay = time.Second
	// minCompany is how many senders there must be at a time for a group commit to wait for them.
	minCompany = 8
)

// writer is the goroutine that makes all changes to the store. Its fields are its own, but for the
// size of the fingerprints.
type writer struct {
	store *Store

	ids    spool.IDSource
	prints fingerprints.Set

	company int // how many accepts to wait for

	retryAt time.Time     // before this, the index is left alone because it has just failed
	probeAt time.Time     // when to look whether messages can be accepted again
	backoff time.Duration // between such looks

	maintainAt time.Time // zero if there is nothing to look after
	compactAt  time.Time
	pinned     map[uint32]bool // segments that cannot be cleared
}

// run is the goroutine. It ends when the store is closed.
func (w *writer) run() {
	defer close(w.store.done)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		if next := w.nextWork(); next.IsZero() {
			timer.Stop()
		} else {
			timer.Reset(time.Until(next))
		}
		select {
		case <-w.store.ops.wake:
		case <-timer.C:
		}
		if w.store.ops.isClosed() {
			w.finish()
			return
		}
		w.work()
	}
}

// nextWork returns when the writer has to do something unasked, or zero.
func (w *writer) nextWork() time.Time {
	next := spool.Earlier(w.retryAt, w.maintainAt)
	if w.store.isRefusing() {
		next = spool.Earlier(next, w.probeAt)
	}
	return next
}

// work does one group commit, and what else is to be done.
func (w *writer) work() {
	w.store.ops.gather(w.company, w.store.options.CommitDelay)
	now := time.Now()
	group := w.store.ops.take()
	defer w.countCompany(group)
	if now.Before(w.retryAt) {
		w.turnAway(group, w.store.refusal())
		return
	}
	w.retryAt = time.Time{}
	if w.store.index != nil {
		if err := w.store.index.Damage(); err != nil {
			w.indexFailed(group, err)
			return
		}
	} else if err := w.reopen(); err != nil {
		w.stopAccepting(bodies.Refusal(err))
		w.turnAway(group, w.store.refusal())
		return
	}
	if len(group) > 0 {
		w.commit(group)
	}
	if w.store.isRefusing() && !now.Before(w.probeAt) {
		w.recover()
	}
	switch maintainAt := w.maintainAt; {
	case maintainAt.IsZero():
		w.maintainAt = now.Add(maintainDelay)
	case !now.Before(maintainAt):
		w.maintainAt = time.Time{}
		w.maintain(now)
	}
}

// countCompany estimates how many senders there are at a time: those that were just answered,
// most of which come again soon, and those that came meanwhile.
func (w *writer) countCompany(group []*operation) {
	company := w.store.ops.waiting()
	for _, op := range group {
		if op.accept != nil {
			company++
		}
	}
	if company < minCompany {
		company = 0
	}
	w.company = company * 7 / 8
}

// finish writes what is left when the store is closed.
func (w *writer) finish() {
	works := w.store.index != nil
	for !w.store.ops.isEmpty() {
		group := w.store.ops.take()
		if works {
			works = w.commit(group) // if it fails, what must not be lost is in the queue again
			continue
		}
		for _, op := range group {
			if !op.durable { // what is lost here is delivered again after the restart
				w.fail(op, spool.ErrClosed)
			}
		}
	}
}

// Commit: how a group gets to the disk, and what is done when that fails.

package disk

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"time"

	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/disk/bodies"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/disk/index"
)

// errMistake is a panic in the engine itself.
var errMistake = errors.New("a mistake in the inbox")

// turnAway fails the operations that may fail, and keeps the others for later.
func (w *writer) turnAway(group []*operation, err error) {
	var kept []*operation
	for _, op := range group {
		if op.durable {
			kept = append(kept, op)
			continue
		}
		w.fail(op, err)
	}
	w.store.ops.pushFront(kept)
}

// fail ends an operation without success.
func (w *writer) fail(op *operation, err error) {
	if a := op.accept; a != nil {
		a.body.Discard()
		for _, again := range a.copies {
			w.fail(again, err)
		}
	}
	op.finish(err)
}

// commit makes a group durable: first the bodies, then what points to them. It reports
// whether the index took it.
func (w *writer) commit(group []*operation) (taken bool) {
	defer func() { // a mistake of ours ends the group, and not the process
		if p := recover(); p != nil {
			w.indexFailed(group, fmt.Errorf("%w: %v", errMistake, p))
			taken = false
		}
	}()
	start := time.Now()
	group = w.stage(group, start)
	if len(group) == 0 {
		return true
	}

	var c *change
	err := w.store.index.Update(func(t *index.Tx) error {
		c = w.newChange(t)
		for _, op := range group {
			apply := op.apply
			switch a := op.accept; {
			case a == nil:
			case a.imported:
				apply = a.importOnce
			case a.restored:
				apply = a.restore
			default:
				apply = a.insert
			}
			if err := apply(c); err != nil {
				return err
			}
		}
		return c.finish(start)
	})
	if err != nil {
		w.indexFailed(group, err)
		return false
	}
	w.store.synced(start)
	c.publish()
	for _, op := range group {
		if a := op.accept; a != nil && a.receipt.Duplicate { // it was imported before
			a.body.Discard()
		} else if a != nil {
			a.body.Keep()
			for _, again := range a.copies {
				again.accept.receipt = spool.Receipt{ID: a.receipt.ID, Duplicate: true, Size: a.where.Size}
				again.accept.body.Discard()
				again.finish(nil)
			}
		}
		op.finish(nil)
	}
	return true
}

// synced tells how long a commit took that began at start.
func (d *Store) synced(start time.Time) {
	if d.options.Events.Synced != nil {
		d.options.Events.Synced(time.Since(start))
	}
}

// indexFailed gives up a group that the index did not take, or of which nobody knows whether it
// did.
func (w *writer) indexFailed(group []*operation, err error) {
	refused := bodies.Refusal(err)
	w.stopAccepting(refused)
	w.retryAt = time.Now().Add(w.store.options.pause)
	if refused.Reason == spool.ReasonDisk && w.store.fsys.Remove(w.store.ballastPath()) == nil {
		w.retryAt = time.Now()
	}

	err = w.reopen()
	if err != nil {
		refused = bodies.Refusal(err)
		w.stopAccepting(refused)
	}
	reopened := err == nil
	var kept []*operation
	for _, op := range group {
		switch {
		case op.durable:
			kept = append(kept, op)
		case op.accept != nil && op.accept.body.IsLarge() &&
			(!reopened || w.store.isKnownFile(op.accept.where)):
			// Its record may have come to the disk, so its file stays until the next open.
			op.accept.body.Keep()
			w.fail(op, refused)
		default:
			w.fail(op, refused)
		}
	}
	w.store.ops.pushFront(kept)
}

func (d *Store) isKnownFile(where bodies.Location) (known bool) {
	err := d.view(func(t *index.Tx) error {
		known = t.Get(index.Files, where.File[:]) != nil
		return nil
	})
	return known || err != nil
}

// reopen replaces the index by the same through a fresh descriptor. If that fails,
// the writer tries again.
func (w *writer) reopen() error {
	w.store.mu.Lock()
	defer w.store.mu.Unlock()
	w.store.indexMu.Lock()
	defer w.store.indexMu.Unlock()

	var err error
	var found *index.Tally
	if w.store.index != nil {
		_ = w.store.index.Close(false) // what it says no longer counts
		if w.store.index.Damage() == nil {
			err = w.store.index.RewriteRoots()
		}
		w.store.index = nil
	}
	if err == nil {
		w.store.index, found, err = index.Open(w.store.fsys, w.store.path)
		if errors.Is(err, spool.ErrForeign) ||
			errors.Is(err, fs.ErrNotExist) { // which it was not when it was opened
			err = index.DamagedError(filepath.Join(w.store.path, index.FileName), err)
		}
	}
	if err == nil {
		err = w.store.load(found)
	}
	if err == nil {
		w.store.requeue()
		return nil
	}
	if w.store.index != nil {
		_ = w.store.index.Close(false)
		w.store.index = nil
	}
	pause := w.store.options.pause
	if errors.Is(err, spool.ErrDamaged) {
		pause *= 20 // it does not mend by itself, and each look is at all of it
	}
	w.retryAt = time.Now().Add(pause)
	return err
}

// requeue begins to read the queues anew, around what is leased or not yet recorded. d.mu is held.
func (d *Store) requeue() {
	for route, q := range d.queues {
		if d.routes[route] == nil { // nothing of it ever came to the disk
			delete(d.queues, route)
			continue
		}
		q.Reset()
		d.notify(route)
	}
	_ = d.index.View(func(t *index.Tx) error {
		for id, l := range d.leases {
			l.Queue.Keep(l, t.Get(index.Fresh, index.IDKey(l.Queue.Number, id)) == nil)
		}
		return nil
	})
}

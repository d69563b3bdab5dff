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
func (d *Store) turnAway(group []*operation, err error) {
	var kept []*operation
	for _, op := range group {
		if op.durable {
			kept = append(kept, op)
			continue
		}
		d.fail(op, err)
	}
	d.ops.pushFront(kept)
}

// fail ends an operation without success.
func (d *Store) fail(op *operation, err error) {
	if a := op.accept; a != nil {
		a.body.Discard()
		for _, again := range a.copies {
			d.fail(again, err)
		}
	}
	op.finish(err)
}

// commit makes a group durable: first the bodies, then what points to them. It reports
// whether the index took it.
func (d *Store) commit(group []*operation) (taken bool) {
	defer func() { // a mistake of ours ends the group, and not the process
		if p := recover(); p != nil {
			d.indexFailed(group, fmt.Errorf("%w: %v", errMistake, p))
			taken = false
		}
	}()
	start := time.Now()
	group = d.stage(group, start)
	if len(group) == 0 {
		return true
	}

	c := d.newChange()
	err := d.index.Update(func(t *index.Tx) error {
		c.Tx = t
		for _, op := range group {
			apply := op.apply
			switch a := op.accept; {
			case a == nil:
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
		d.indexFailed(group, err)
		return false
	}
	d.synced(start)
	c.publish()
	for _, op := range group {
		if a := op.accept; a != nil {
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
func (d *Store) indexFailed(group []*operation, err error) {
	refused := bodies.Refusal(err)
	d.stopAccepting(refused)
	d.writer.retryAt = time.Now().Add(d.options.pause)
	if refused.Reason == spool.ReasonDisk && d.fsys.Remove(d.ballastPath()) == nil {
		d.writer.retryAt = time.Now()
	}

	err = d.reopen()
	if err != nil {
		refused = bodies.Refusal(err)
		d.stopAccepting(refused)
	}
	reopened := err == nil
	var kept []*operation
	for _, op := range group {
		switch {
		case op.durable:
			kept = append(kept, op)
		case op.accept != nil && op.accept.body.IsLarge() && (!reopened || d.isKnownFile(op.accept.where)):
			op.accept.body.Keep() // its record may have come to the disk, so its file stays until the next open
			d.fail(op, refused)
		default:
			d.fail(op, refused)
		}
	}
	d.ops.pushFront(kept)
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
func (d *Store) reopen() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.indexMu.Lock()
	defer d.indexMu.Unlock()

	var err error
	var found *index.Tally
	if d.index != nil {
		_ = d.index.Close(false) // what it says no longer counts
		if d.index.Damage() == nil {
			err = d.index.RewriteRoots()
		}
		d.index = nil
	}
	if err == nil {
		d.index, found, err = index.Open(d.fsys, d.path)
		if errors.Is(err, spool.ErrForeign) || errors.Is(err, fs.ErrNotExist) { // which it was not when it was opened
			err = index.DamagedError(filepath.Join(d.path, index.FileName), err)
		}
	}
	if err == nil {
		err = d.load(found)
	}
	if err == nil {
		d.requeue()
		return nil
	}
	if d.index != nil {
		_ = d.index.Close(false)
		d.index = nil
	}
	pause := d.options.pause
	if errors.Is(err, spool.ErrDamaged) {
		pause *= 20 // it does not mend by itself, and each look is at all of it
	}
	d.writer.retryAt = time.Now().Add(pause)
	return err
}

// requeue begins to read the queues anew, around what is leased or not yet recorded. d.mu is held.
func (d *Store) requeue() {
	for route, q := range d.queues {
		if d.routes[route] == nil { // nothing of it ever came to the disk
			delete(d.queues, route)
			continue
		}
		q.reset()
		d.notify(route)
	}
	_ = d.index.View(func(t *index.Tx) error {
		for id, l := range d.leases {
			l.queue.keep(l, t.Get(index.Fresh, index.IDKey(l.queue.number, id)) == nil)
		}
		return nil
	})
}

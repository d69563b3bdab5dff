// Refusing: when messages are turned away because the disk fails, and how it ends.

package disk

import (
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"time"

	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/disk/bodies"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/disk/index"
)

const (
	ballastName = "ballast"
	// ballastSize is given up when the disk is full, so that deliveries can still be
	// recorded, which is what makes room.
	ballastSize = 2 << 20
	probeName   = "probe"
	probeSize   = 256 << 10
)

func (d *Store) ballastPath() string { return filepath.Join(d.path, ballastName) }

// restoreBallast makes the file that is given up when the disk is full. Without room for it
// there is none; what has its name and is not ours is an error.
func (d *Store) restoreBallast() error {
	err := d.writeFile(d.ballastPath(), ballastSize)
	if errors.Is(err, bodies.ErrNotRegular) || errors.Is(err, bodies.ErrNotOwn) ||
		errors.Is(err, bodies.ErrExchanged) {
		return err
	}
	if err != nil {
		_ = d.fsys.Remove(d.ballastPath())
	}
	return nil
}

// probe finds out whether the file system takes something new and keeps it.
func (d *Store) probe() error {
	path := filepath.Join(d.path, probeName)
	err := d.writeFile(path, probeSize)
	if removeErr := bodies.RemoveIfExists(d.fsys, path); err == nil {
		err = removeErr
	}
	if err == nil {
		err = d.fsys.SyncDir(d.path)
	}
	return err
}

// writeFile makes a file of a certain size, durably.
func (d *Store) writeFile(path string, size int64) (err error) {
	f, err := d.fsys.OpenFile(path, os.O_RDWR|os.O_CREATE)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if has, err := f.Size(); err != nil || has == size {
		return err
	}
	if err := bodies.WriteFull(f, make([]byte, size), 0); err != nil {
		return bodies.PathError("write", path, err)
	}
	return f.Sync()
}

func (d *Store) isRefusing() bool {
	refused := d.refusedBy()
	return refused != nil && refused.Reason != spool.ReasonFull
}

// refusal is the current reason for turning operations away.
func (d *Store) refusal() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.refusing == nil {
		return &spool.RefusedError{
			Reason:     spool.ReasonWrite,
			RetryAfter: bodies.RetryAfter,
			Err:        errors.New("the index has just failed"),
		}
	}
	return d.refusing
}

// stopAccepting refuses messages until something could be written again.
func (w *writer) stopAccepting(refused *spool.RefusedError) {
	w.store.mu.Lock()
	if w.store.refusing == nil {
		w.store.since = time.Now()
	}
	w.store.refusing = refused
	w.store.mu.Unlock()

	w.backoff = min(max(2*w.backoff, w.store.options.pause), 10*w.store.options.pause)
	w.probeAt = time.Now().Add(w.backoff)
	w.store.tellRefusing()
}

// tellRefusing says that messages are refused, or accepted again, where that is news. It is called
// without mu.
func (d *Store) tellRefusing() {
	d.told.Tell(d.refusedBy, func(was, is *spool.RefusedError) {
		tell := d.options.Events.Refusing
		switch {
		case tell == nil:
		case is == nil && was != nil:
			tell(was.Reason, false, nil)
		case is != nil && (was == nil || was.Reason != is.Reason):
			tell(is.Reason, true, is.Err)
		}
	})
}

// refusedBy is why messages are refused, nil if they are not.
func (d *Store) refusedBy() *spool.RefusedError {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.refusing
}

// noteFull notes whether there is no room for an ordinary message within max_size.
func (d *Store) noteFull() {
	full := d.admit(bodies.MaxSmall) != nil
	d.mu.Lock()
	changed := true
	switch {
	case full && d.refusing == nil:
		d.refusing = &spool.RefusedError{Reason: spool.ReasonFull, RetryAfter: bodies.RetryAfter}
		d.since = time.Now()
	case !full && d.refusing != nil && d.refusing.Reason == spool.ReasonFull:
		d.refusing = nil
	default:
		changed = false
	}
	d.mu.Unlock()
	if changed {
		d.tellRefusing()
	}
}

// recover finds out whether messages can be accepted again, by writing.
func (w *writer) recover() {
	err := w.store.probe()
	if err == nil {
		err = w.store.index.Update(func(t *index.Tx) error {
			return t.Put(
				index.State,
				[]byte("probe"),
				binary.BigEndian.AppendUint64(nil, uint64(time.Now().UnixNano())),
			)
		})
		if err != nil {
			w.indexFailed(nil, err)
			return
		}
	}
	if err != nil {
		w.stopAccepting(bodies.Refusal(err))
		return
	}
	_ = w.store.restoreBallast() // it is tried again with the next start

	w.store.mu.Lock()
	w.store.refusing = nil
	w.backoff = 0
	for route := range w.store.routes {
		w.store.notify(route)
	}
	w.store.mu.Unlock()
	w.store.tellRefusing()
}

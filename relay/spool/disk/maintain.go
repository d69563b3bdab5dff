// What the writer does between group commits: give room back.

package disk

import (
	"errors"
	"time"

	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/disk/bodies"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/disk/index"
)

const (
	sparseShare   = 0.25    // a segment of which less is needed is cleared
	idleSegment   = 4 << 20 // a segment that large is given up once nothing of it is needed
	compactPause  = 10 * time.Minute
	minCompaction = 32 << 20 // a smaller index is left as it is
	maxCompaction = 64 << 20 // more than this is not copied while others wait
)

// worthCompacting reports whether an index is mostly free pages.
func worthCompacting(used, size int64) bool {
	return size >= minCompaction && used < size/4 && used <= maxCompaction
}

// maintain does one piece of tidying, if there is one to be done.
func (w *writer) maintain(now time.Time) {
	if active, size := w.store.segments.Active(); size >= idleSegment &&
		w.store.segments.Stat(active).Live == 0 {
		w.store.segments.Seal()
	}
	if number := w.store.segments.Sparse(sparseShare, w.pinned); number != 0 {
		w.maintainAt = now.Add(maintainDelay)
		if err := w.clearSegment(number); err != nil {
			w.pinned[number] = true
			if w.store.options.Events.Problem != nil && errors.Is(err, spool.ErrDamaged) {
				w.store.options.Events.Problem(err)
			}
		}
		return
	}
	if used, size := w.store.index.Usage(); worthCompacting(used, size) && now.After(w.compactAt) {
		if _, err := w.store.replaceIndex(); err != nil {
			w.compactAt = now.Add(compactPause)
			if w.store.index == nil {
				w.stopAccepting(bodies.Refusal(err))
				w.retryAt = now.Add(w.store.options.pause)
			}
		}
	}
}

// replaceIndex puts a compacted copy in the place of the index. If that fails, the index is
// what it was.
func (d *Store) replaceIndex() (*index.Tally, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.indexMu.Lock()
	defer d.indexMu.Unlock()
	err := d.index.Compact()
	reopened, found, openErr := index.Open(d.fsys, d.path)
	if openErr != nil {
		d.index = nil
		return nil, errors.Join(err, openErr)
	}
	d.index = reopened
	d.usedDB, _ = reopened.Usage()
	return found, err
}

// clearSegment moves what is still needed of a segment to the active one, and removes it.
func (w *writer) clearSegment(number uint32) error {
	size := w.store.segments.Stat(number).Size
	var moved []*bodies.Small
	var places []index.Place
	var opened []*bodies.SmallBody
	defer func() {
		for _, body := range opened {
			_ = body.Close()
		}
	}()
	err := w.store.segments.Walk(
		number,
		size,
		func(_ uint32, id [16]byte, where bodies.Location) error {
			var found index.Place
			err := w.store.index.View(func(t *index.Tx) error {
				p, _ := t.Find(w.store.routeInfos(), id)
				found = p.Clone()
				return nil
			})
			if err != nil || found.Record.Location() != where {
				return err
			}
			body, err := w.store.segments.Read(where)
			if err != nil {
				return err
			}
			opened = append(opened, body)
			moved = append(
				moved,
				&bodies.Small{Route: found.Route.Number, ID: id, Body: body.Bytes(), CRC: where.CRC},
			)
			places = append(places, found)
			return nil
		},
	)
	if err != nil {
		return err
	}
	if len(moved) > 0 {
		if err := w.store.segments.Append(moved); err != nil {
			w.stopAccepting(bodies.Refusal(err))
			return nil
		}
	}

	var c *change
	start := time.Now()
	err = w.store.index.Update(func(t *index.Tx) error {
		c = w.newChange(t)
		for i, p := range places {
			if err := c.Move(p, moved[i].Where); err != nil {
				return err
			}
		}
		c.Visit(number)
		return c.finish(start)
	})
	if err != nil {
		w.indexFailed(nil, err)
		return nil
	}
	w.store.synced(start)
	c.publish()
	return nil
}

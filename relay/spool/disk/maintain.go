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
func (d *Store) maintain(now time.Time) {
	if active, size := d.segments.Active(); size >= idleSegment && d.newChange().segment(active).Live == 0 {
		d.segments.Seal()
	}
	if number := d.segments.Sparse(sparseShare, d.writer.pinned); number != 0 {
		d.writer.maintainAt = now.Add(maintainDelay)
		if err := d.clearSegment(number); err != nil {
			d.writer.pinned[number] = true
			if d.options.Events.Problem != nil && errors.Is(err, spool.ErrDamaged) {
				d.options.Events.Problem(err)
			}
		}
		return
	}
	if used, size := d.index.Usage(); worthCompacting(used, size) && now.After(d.writer.compactAt) {
		if _, err := d.replaceIndex(); err != nil {
			d.writer.compactAt = now.Add(compactPause)
			if d.index == nil {
				d.stopAccepting(bodies.Refusal(err))
				d.writer.retryAt = now.Add(d.options.pause)
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
func (d *Store) clearSegment(number uint32) error {
	size := d.newChange().segment(number).Size
	var moved []*bodies.Small
	var places []place
	var opened []*bodies.SmallBody
	defer func() {
		for _, body := range opened {
			_ = body.Close()
		}
	}()
	err := d.segments.Walk(number, size, func(_ uint32, id [16]byte, where bodies.Location) error {
		var found place
		err := d.index.View(func(t *index.Tx) error {
			found, _ = d.find(t, id)
			found.record = append([]byte(nil), found.record...)
			return nil
		})
		if err != nil || index.Record(found.record).Location() != where {
			return err
		}
		body, err := d.segments.Read(where)
		if err != nil {
			return err
		}
		opened = append(opened, body)
		moved = append(moved, &bodies.Small{Route: found.info.Number, ID: id, Body: body.Bytes(), CRC: where.CRC})
		places = append(places, found)
		return nil
	})
	if err != nil {
		return err
	}
	if len(moved) > 0 {
		if err := d.segments.Append(moved); err != nil {
			d.stopAccepting(bodies.Refusal(err))
			return nil
		}
	}

	c := d.newChange()
	start := time.Now()
	err = d.index.Update(func(t *index.Tx) error {
		c.Tx = t
		for i, p := range places {
			if err := c.move(p, moved[i].Where); err != nil {
				return err
			}
		}
		c.segments[number] = c.segment(number) // so that it is looked at
		return c.finish(start)
	})
	if err != nil {
		d.indexFailed(nil, err)
		return nil
	}
	d.synced(start)
	c.publish()
	return nil
}

// move changes where a message's body is.
func (c *change) move(p place, where bodies.Location) error {
	if err := c.release(index.Record(p.record).Location()); err != nil {
		return err
	}
	if err := c.retain(where, p.id); err != nil {
		return err
	}
	index.SetRecordLocation(p.record, where)
	return c.Put(p.bucket, index.IDKey(p.info.Number, p.id), p.record)
}

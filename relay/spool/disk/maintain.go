// What the writer does between group commits: give room back, and find out whether
// a disk that failed works again.

package disk

import (
	"errors"
	"os"
	"path/filepath"
	"time"

	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
)

const (
	probeName = "probe"
	probeSize = 256 << 10

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
	if active, size := d.segments.activeNumber(); size >= idleSegment && d.newChange().segment(active).live == 0 {
		d.segments.seal()
	}
	if number := d.segments.sparse(sparseShare, d.writer.pinned); number != 0 {
		d.writer.maintainAt = now.Add(maintainDelay)
		if err := d.clearSegment(number); err != nil {
			d.writer.pinned[number] = true
			if d.options.Events.Problem != nil && errors.Is(err, spool.ErrDamaged) {
				d.options.Events.Problem(err)
			}
		}
		return
	}
	if used, size := d.index.usage(); worthCompacting(used, size) && now.After(d.writer.compactAt) {
		if _, err := d.replaceIndex(); err != nil {
			d.writer.compactAt = now.Add(compactPause)
			if d.index == nil {
				d.stopAccepting(refuse(err))
				d.writer.retryAt = now.Add(d.options.pause)
			}
		}
	}
}

// replaceIndex puts a compacted copy in the place of the index. If that fails, the index is
// what it was.
func (d *Store) replaceIndex() (*tally, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.indexMu.Lock()
	defer d.indexMu.Unlock()
	err := d.index.compact()
	index, found, openErr := openIndex(d.fsys, d.path)
	if openErr != nil {
		d.index = nil
		return nil, errors.Join(err, openErr)
	}
	d.index = index
	d.usedDB, _ = index.usage()
	return found, err
}

// clearSegment moves what is still needed of a segment to the active one, and removes it.
func (d *Store) clearSegment(number uint32) error {
	size := d.newChange().segment(number).size
	var moved []*segmentEntry
	var places []place
	defer func() {
		for _, e := range moved {
			e.buffer.free()
		}
	}()
	err := d.segments.walk(number, size, func(_ uint32, id spool.ID, where location) error {
		var found place
		err := d.index.view(func(t *indexTx) error {
			found, _ = d.find(t, id)
			found.record = append([]byte(nil), found.record...)
			return nil
		})
		if err != nil || recordLocation(found.record) != where {
			return err
		}
		body, err := d.segments.read(where)
		if err != nil {
			return err
		}
		moved = append(moved, &segmentEntry{route: found.info.number, id: id, body: body.buffer.b[:where.size], crc: where.crc, buffer: body.buffer})
		places = append(places, found)
		return nil
	})
	if err != nil {
		return err
	}
	if len(moved) > 0 {
		if err := d.segments.append(moved); err != nil {
			d.stopAccepting(refuse(err))
			return nil
		}
	}

	c := d.newChange()
	start := time.Now()
	err = d.index.update(func(t *indexTx) error {
		c.indexTx = t
		for i, p := range places {
			if err := c.move(p, moved[i].where); err != nil {
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
func (c *change) move(p place, where location) error {
	if err := c.release(recordLocation(p.record)); err != nil {
		return err
	}
	if err := c.retain(where, p.id); err != nil {
		return err
	}
	setRecordLocation(p.record, where)
	return c.put(p.bucket, idKey(p.info.number, p.id), p.record)
}

func (d *Store) ballastPath() string { return filepath.Join(d.path, ballastName) }

// restoreBallast makes the file that is given up when the disk is full. Without room for it
// there is none; what has its name and is not ours is an error.
func (d *Store) restoreBallast() error {
	err := d.writeFile(d.ballastPath(), ballastSize)
	if errors.Is(err, errNotRegular) || errors.Is(err, errNotOwn) || errors.Is(err, errExchanged) {
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
	if removeErr := removeIfExists(d.fsys, path); err == nil {
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
	if err := writeFull(f, make([]byte, size), 0); err != nil {
		return pathError("write", path, err)
	}
	return f.Sync()
}

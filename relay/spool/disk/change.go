// Change: a transaction of the writer, and what it does to single messages.

package disk

import (
	"encoding/binary"
	"time"

	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/disk/bodies"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/disk/fingerprints"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/disk/index"
)

// remove takes a message out of the index with all that belongs to it.
// more says whether there are more parked ones of its order key.
func (c *change) remove(p index.Place) (more bool, err error) {
	more, err = c.extract(p)
	c.gone = append(c.gone, p.ID)
	if err != nil || !p.Record.Intact() { // which then does not tell where its body is
		return more, err
	}
	return more, c.release(p.Record.Location())
}

// extract takes a message's record out of the bucket where it is.
func (c *change) extract(p index.Place) (more bool, err error) {
	totals := &c.route(p.Route.Name).Counts
	size, order := int64(0), p.Record.OrderKey()
	intact := p.Record.Intact()
	if intact {
		size = p.Record.Location().Size
	}
	switch p.Bucket {
	case index.Fresh:
		err = c.Delete(index.Fresh, index.IDKey(p.Route.Number, p.ID))
	case index.Parked:
		totals.Parked--
		if intact {
			more, err = c.Unpark(p.Route.Number, p.ID, order)
		} else {
			err = c.UnparkDamaged(p.Route.Number, p.ID)
			_, more = c.FirstParked(p.Route.Number, order)
		}
	case index.Kept:
		totals.Delivered--
		totals.DeliveredBytes -= size
		return false, c.Delete(index.Kept, index.IDKey(p.Route.Number, p.ID))
	case index.Dead:
		totals.Dead--
		totals.DeadBytes -= size
		if !intact {
			return false, c.ExhumeDamaged(p.Route.Number, p.ID)
		}
		return false, c.Exhume(p.Route.Number, p.ID, p.Record.EndedAt())
	}
	totals.Pending--
	totals.PendingBytes -= size
	return more, err
}

// parkAgain puts a record among the parked that was pending or dead before.
func (c *change) parkAgain(info *index.RouteInfo, m *index.Entry) error {
	totals := &c.route(info.Name).Counts
	totals.Parked++
	totals.Pending++
	totals.PendingBytes += m.Size
	return c.Park(info.Number, m.ID, index.AppendRecord(nil, m))
}

// kill makes a dead letter of a pending message.
func (c *change) kill(p index.Place, m *index.Entry, at time.Time) (more bool, err error) {
	more, err = c.extract(p)
	if err != nil {
		return more, err
	}
	m.State, m.DiedAt, m.NextAttemptAt = spool.Dead, at, time.Time{}
	totals := &c.route(p.Route.Name).Counts
	totals.Dead++
	totals.DeadBytes += m.Size
	return more, c.Bury(p.Route.Number, p.ID, at, index.AppendRecord(nil, m))
}

// change is a transaction that is being made up.
type change struct {
	*index.Tx
	d        *Store
	prints   *fingerprints.Change
	routes   map[string]*index.RouteInfo // changed ones
	segments map[uint32]bodies.Stats     // changed ones

	removedSegments []uint32
	removedFiles    []bodies.Location
	lastID          spool.ID
	accepted        int
	acceptedBytes   int64
	gone            []spool.ID // messages that are forgotten
	imported        bool       // there are messages among others that were read already
	after           []func()   // what to do when it is on disk, with Disk.mu held
}

func (w *writer) newChange(t *index.Tx) *change {
	return &change{
		Tx:       t,
		d:        w.store,
		prints:   w.prints.Begin(t),
		routes:   make(map[string]*index.RouteInfo),
		segments: make(map[uint32]bodies.Stats),
	}
}

// route returns the totals of a route for changing.
func (c *change) route(name string) *index.RouteInfo {
	info := c.routes[name]
	if info == nil {
		number := c.d.routeNumber(name)
		c.d.mu.Lock()
		copied := *c.d.numbers[number]
		c.d.mu.Unlock()
		info = &copied
		c.routes[name] = info
	}
	return info
}

// segment returns what the index knows of a segment.
func (c *change) segment(number uint32) bodies.Stats {
	if stats, ok := c.segments[number]; ok {
		return stats
	}
	return c.d.segments.Stat(number)
}

// retain notes that a message needs a body.
func (c *change) retain(where bodies.Location, id spool.ID) error {
	if where.Segment == 0 {
		return c.Put(index.Files, where.File[:], id[:])
	}
	c.segments[where.Segment] = c.segment(where.Segment).With(where)
	return nil
}

// release notes that no message needs a body any more.
func (c *change) release(where bodies.Location) error {
	if where.Segment == 0 {
		c.removedFiles = append(c.removedFiles, where)
		return c.Delete(index.Files, where.File[:])
	}
	c.segments[where.Segment] = c.segment(where.Segment).Without(where)
	return nil
}

// noteID takes note of an id that is in use: those that are given out later are higher.
func (c *change) noteID(id spool.ID) {
	if id.Compare(c.lastID) > 0 {
		c.lastID = id
	}
}

// finish writes the totals that the transaction has changed.
func (c *change) finish(now time.Time) error {
	if c.accepted > 0 {
		if err := c.makeRoom(); err != nil {
			return err
		}
		if err := c.trimPrints(now); err != nil {
			return err
		}
		if last := c.Get(index.State, index.LastID); len(last) == len(spool.ID{}) {
			c.noteID(spool.ID(last)) // of what comes from another store, ids may be lower
		}
		if err := c.Put(index.State, index.LastID, c.lastID[:]); err != nil {
			return err
		}
	}
	for name, info := range c.routes {
		if err := c.Put(index.Routes, []byte(name), info.Encode()); err != nil {
			return err
		}
	}
	active, size := c.d.segments.Active()
	for number, stats := range c.segments {
		if number == active {
			stats.Size = size
			c.segments[number] = stats
		} else if stats.Live <= 0 {
			delete(c.segments, number)
			c.removedSegments = append(c.removedSegments, number)
			if err := c.Delete(index.Segments, binary.BigEndian.AppendUint32(nil, number)); err != nil {
				return err
			}
			continue
		}
		key := binary.BigEndian.AppendUint32(nil, number)
		if err := c.Put(index.Segments, key, index.EncodeSegmentStats(stats)); err != nil {
			return err
		}
	}
	return nil
}

// trimPrints forgets fingerprints that are out of the window, or too many.
func (c *change) trimPrints(now time.Time) error {
	c.d.mu.Lock()
	oldest := now.Add(-c.d.window)
	c.d.mu.Unlock()
	if err := c.prints.Trim(oldest, c.d.options.MaxFingerprints); err != nil {
		return err
	}
	return c.prints.WriteSequence()
}

// publish brings memory up to what is now on disk, and removes the files that nothing points to
// any more.
func (c *change) publish() {
	d := c.d
	d.writer.prints.Publish(c.prints)
	for _, id := range c.gone {
		d.requests.Remove(id)
	}
	d.segments.Publish(c.segments, c.removedSegments)
	for _, where := range c.removedFiles {
		d.files.Remove(where)
	}

	used, _ := d.index.Usage()
	c.publishCounts(used)
	d.noteFull()
}

func (c *change) publishCounts(used int64) {
	d := c.d
	d.mu.Lock()
	defer d.mu.Unlock()
	d.usedDB = used
	for name, info := range c.routes {
		d.routes[name].Counts = info.Counts
	}
	for _, f := range c.after {
		f()
	}
	if c.imported {
		d.requeue()
	}
}

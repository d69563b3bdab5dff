// Package ledger keeps the books of an index: how messages come in, go from one bucket to another
// and leave, with the totals of routes, what is needed of segments, and the body files that go with
// each step.
//
// The writer of the engine is the only one to call it, without a lock: a [Ledger] is one
// transaction. It takes the lock of [bodies.Segments], and what the function takes that tells it of
// a route. It changes nothing in memory but by [Ledger.Publish], when the transaction is on disk.
//
//	ledger.go  what a transaction keeps count of
//	moves.go   what it does to a message
package ledger

import (
	"encoding/binary"

	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/disk/bodies"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/disk/index"
)

// Ledger is a transaction that keeps count of what it changes.
type Ledger struct {
	*index.Tx

	routeOf func(name string) index.RouteInfo
	routes  map[string]*index.RouteInfo // changed ones

	segments *bodies.Segments
	stats    map[uint32]bodies.Stats // changed ones
	empty    []uint32                // segments of which nothing is needed any more
	unneeded []bodies.Location       // body files

	lastID spool.ID // the highest of those that came in
	gone   []spool.ID
}

// New begins to keep count in a transaction. routeOf says what is known of a route before it.
func New(
	t *index.Tx,
	routeOf func(name string) index.RouteInfo,
	segments *bodies.Segments,
) *Ledger {
	return &Ledger{
		Tx:       t,
		routeOf:  routeOf,
		routes:   make(map[string]*index.RouteInfo),
		segments: segments,
		stats:    make(map[uint32]bodies.Stats),
	}
}

// Route returns a route with its totals, as they are in the transaction.
func (l *Ledger) Route(name string) *index.RouteInfo {
	info := l.routes[name]
	if info == nil {
		before := l.routeOf(name)
		info = &before
		l.routes[name] = info
	}
	return info
}

// Routes returns the routes that have changed, by name.
func (l *Ledger) Routes() map[string]*index.RouteInfo { return l.routes }

// Gone returns the messages that were removed.
func (l *Ledger) Gone() []spool.ID { return l.gone }

// segment returns what is needed of a segment.
func (l *Ledger) segment(number uint32) bodies.Stats {
	if stats, ok := l.stats[number]; ok {
		return stats
	}
	return l.segments.Stat(number)
}

// Visit has a segment removed of which nothing is needed, also where the transaction does not
// change that.
func (l *Ledger) Visit(segment uint32) { l.stats[segment] = l.segment(segment) }

// retain notes that a message needs a body.
func (l *Ledger) retain(where bodies.Location, id spool.ID) error {
	if where.Segment == 0 {
		return l.Put(index.Files, where.File[:], id[:])
	}
	l.stats[where.Segment] = l.segment(where.Segment).With(where)
	return nil
}

// release notes that no message needs a body any more.
func (l *Ledger) release(where bodies.Location) error {
	if where.Segment == 0 {
		l.unneeded = append(l.unneeded, where)
		return l.Delete(index.Files, where.File[:])
	}
	l.stats[where.Segment] = l.segment(where.Segment).Without(where)
	return nil
}

// noteID takes note of an id that is in use: those that are given out later are higher.
func (l *Ledger) noteID(id spool.ID) {
	if id.Compare(l.lastID) > 0 {
		l.lastID = id
	}
}

// Finish writes what was counted. Nothing is done to a message after that.
func (l *Ledger) Finish() error {
	if !l.lastID.IsZero() {
		if last := l.Get(index.State, index.LastID); len(last) == len(spool.ID{}) {
			l.noteID(spool.ID(last)) // of what comes from another store, ids may be lower
		}
		if err := l.Put(index.State, index.LastID, l.lastID[:]); err != nil {
			return err
		}
	}
	for name, info := range l.routes {
		if err := l.Put(index.Routes, []byte(name), info.Encode()); err != nil {
			return err
		}
	}
	active, size := l.segments.Active()
	for number, stats := range l.stats {
		key := binary.BigEndian.AppendUint32(nil, number)
		if number == active {
			stats.Size = size
			l.stats[number] = stats
		} else if stats.Live <= 0 {
			delete(l.stats, number)
			l.empty = append(l.empty, number)
			if err := l.Delete(index.Segments, key); err != nil {
				return err
			}
			continue
		}
		if err := l.Put(index.Segments, key, index.EncodeSegmentStats(stats)); err != nil {
			return err
		}
	}
	return nil
}

// Publish tells the segments what is needed of them now that it is on disk, and removes the files
// that nothing points to any more.
func (l *Ledger) Publish(files *bodies.Large) {
	l.segments.Publish(l.stats, l.empty)
	for _, where := range l.unneeded {
		files.Remove(where)
	}
}

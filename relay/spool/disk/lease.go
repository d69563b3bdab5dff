// Lease: which messages are handed out, and where in the index they are found.

package disk

import (
	"bytes"
	"context"
	"encoding/binary"
	"time"

	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/disk/index"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/disk/queue"
)

// Lease implements [spool.Store].
func (d *Store) Lease(ctx context.Context, request spool.LeaseRequest) (spool.Leased, error) {
	none := spool.Leased{Next: -1}
	if err := d.enter(ctx); err != nil {
		return none, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	q := d.queue(request.Route)
	if q == nil || request.Max <= 0 || d.unstored >= maxUnrecorded || d.paused[request.Route] {
		return none, nil
	}

	batch := leasing{
		d: d, q: q, request: request, now: time.Now(),
		parked: d.routes[request.Route].Counts.Parked > 0,
	}
	if !batch.parked && !request.Tried && !request.Newest && q.InLine() >= request.Max {
		batch.takeReady(nil) // nothing to look up
	}
	if len(batch.leased) < request.Max && batch.mayFind() {
		if err := d.view(batch.fill); err != nil {
			for _, m := range batch.leased {
				d.giveBack(d.leases[m.ID])
			}
			return none, err
		}
	}
	return batch.result(), nil
}

// leasing is one call of Lease. d.mu is held throughout.
type leasing struct {
	d       *Store
	q       *queue.Queue
	request spool.LeaseRequest
	now     time.Time
	parked  bool // there are parked messages
	leased  []*index.Entry
	next    time.Time
}

func (l *leasing) result() spool.Leased {
	leased := spool.Leased{Next: -1, Leases: make([]*spool.Lease, len(l.leased))}
	for i, m := range l.leased {
		leased.Leases[i] = &spool.Lease{Message: m.Shown(), At: l.now, Token: l.d.leases[m.ID]}
	}
	if !l.next.IsZero() {
		leased.Next = l.next.Sub(l.now)
	}
	return leased
}

// maxPassedOver is how many parked messages are passed over in one call because of where they go.
const maxPassedOver = 4096

// mayFind reports whether it is worth to look at the index.
func (l *leasing) mayFind() bool {
	return l.parked || !l.request.Tried && (!l.q.IsAtEnd() || l.q.InLine() > 0)
}

func (l *leasing) missing() int { return l.request.Max - len(l.leased) }

// fill looks for messages in the index.
func (l *leasing) fill(t *index.Tx) error {
	// What was replayed comes last, so that a replay of many delays nothing else.
	l.takeResumed(t, false)
	if l.request.Tried {
		l.takeDue(t, index.Due)
		l.takeResumed(t, true)
		l.takeDue(t, index.Again)
		return nil
	}
	l.takeFresh(t)
	l.takeParked(t, index.Due)
	l.takeResumed(t, true)
	l.takeParked(t, index.Again)
	return nil
}

// wanted reports whether a parked message is one of those that are asked for.
func (l *leasing) wanted(m *index.Entry) bool {
	return m.NextAttemptAt.IsZero() != l.request.Tried && !m.NextAttemptAt.After(l.now) &&
		!l.request.Avoid.Has(m.Destination)
}

// takeResumed leases the next parked message of keys of which the one before is done, which
// the index does not know yet: of those that were replayed, or of the others.
func (l *leasing) takeResumed(t *index.Tx, replayed bool) {
	l.q.Resume(func(order uint64) bool { return l.missing() > 0 && l.takeFirst(t, order, replayed) })
}

// takeFirst leases the first parked message of an order key that is not leased, if it is wanted.
func (l *leasing) takeFirst(t *index.Tx, order uint64, replayed bool) (taken bool) {
	t.Scan(index.Order, index.OrderPrefix(l.q.Number, order), nil, func(key, _ []byte) bool {
		id := index.KeyID(key)
		if l.d.leases[id] != nil {
			return true
		}
		if m, err := index.ParseRecord(t.Get(index.Parked, index.IDKey(l.q.Number, id))); err == nil &&
			m.Replayed == replayed && l.wanted(m) {
			m.ID = id
			l.lease(m, true)
			taken = true
		}
		return false
	})
	return taken
}

// takeDue leases parked messages whose time has come, of those that have their turn in a bucket.
func (l *leasing) takeDue(t *index.Tx, turns index.Bucket) {
	if !l.parked {
		return
	}
	passed := 0
	untried := binary.BigEndian.AppendUint64(nil, 0)
	after := append(untried, bytes.Repeat([]byte{0xff}, len(spool.ID{}))...)
	t.Scan(turns, index.RouteKey(l.q.Number), after, func(key, value []byte) bool {
		due := index.FromUnixNano(index.KeyTime(key))
		switch {
		case l.isTaken(key, value):
			return true
		case due.After(l.now):
			l.next = spool.Earlier(l.next, due)
			return false
		case l.missing() == 0:
			return false
		}
		return l.takeEntry(t, key, &passed)
	})
}

// takeParked leases parked messages that were not tried, of those that have their turn in a bucket.
func (l *leasing) takeParked(t *index.Tx, turns index.Bucket) {
	if !l.parked || l.missing() == 0 {
		return
	}
	scan := func(fn func(key, value []byte) bool) {
		prefix := binary.BigEndian.AppendUint64(index.RouteKey(l.q.Number), 0)
		if l.request.Newest {
			t.ScanBack(turns, prefix, fn)
		} else {
			t.Scan(turns, prefix, nil, fn)
		}
	}
	passed := 0
	scan(func(key, value []byte) bool {
		if l.isTaken(key, value) {
			return true
		}
		return l.takeEntry(t, key, &passed) && l.missing() > 0
	})
}

// isTaken reports whether an entry of Due is leased, or another one of its order key.
func (l *leasing) isTaken(key, value []byte) bool {
	if l.d.leases[index.KeyID(key)] != nil {
		return true
	}
	return l.q.IsBusy(index.Uint64(value))
}

// takeEntry leases the message of an entry of Due, unless its destination is to be avoided.
// It reports whether to go on.
func (l *leasing) takeEntry(t *index.Tx, key []byte, passed *int) bool {
	id := index.KeyID(key)
	record := t.Get(index.Parked, index.IDKey(l.q.Number, id))
	if l.request.Avoid.Has(index.Record(record).Destination()) {
		*passed++
		return *passed < maxPassedOver
	}
	m, err := index.ParseRecord(record)
	if err != nil {
		l.d.quarantine(l.q, id)
		return true
	}
	m.ID = id
	l.lease(m, true)
	return true
}

// takeFresh leases messages that were never tried.
func (l *leasing) takeFresh(t *index.Tx) {
	for chunks := 0; ; chunks++ {
		complete := l.q.IsAtEnd() || !l.q.HasRoom()
		if !l.request.Newest || complete {
			l.takeReady(t)
		}
		switch {
		case l.missing() == 0 || l.q.IsAtEnd():
			return
		case !l.q.HasRoom(): // what is in line was passed over
			for _, order := range l.q.Clear(l.now) {
				l.d.park(l.q, order, nil)
			}
			return
		case chunks == 4: // enough for one call: have another one made
			l.takeReady(t)
			l.d.notify(l.q.Route)
			return
		}
		l.load(t)
	}
}

// takeReady leases messages that are in line. Without a transaction it takes only those
// that are in memory as a whole.
func (l *leasing) takeReady(t *index.Tx) {
	l.q.Draw(l.request.Newest, func(w queue.Waiting) queue.Drawn {
		switch {
		case l.missing() == 0 || w.Msg == nil && t == nil:
			return queue.DrawnLast
		case l.request.Avoid.Has(w.Dest):
			return queue.DrawnPassed
		case w.Msg != nil:
			l.lease(w.Msg, false)
			return queue.DrawnLeased
		}
		record := t.Get(index.Fresh, index.IDKey(l.q.Number, w.ID))
		m, err := index.ParseRecord(record)
		if err != nil {
			if record != nil {
				l.d.quarantine(l.q, w.ID)
			}
			return queue.DrawnGone
		}
		m.ID = w.ID
		l.lease(m, false)
		return queue.DrawnLeased
	})
}

func (l *leasing) lease(m *index.Entry, parked bool) {
	m.State, m.Route = spool.Pending, l.q.Route
	l.d.leases[m.ID] = l.q.Lease(m, parked)
	l.leased = append(l.leased, m)
}

// load reads the next fresh messages and finds each its place.
func (l *leasing) load(t *index.Tx) {
	q := l.q
	overflow := make(map[uint64][]queue.Waiting)
	read := 0
	after, chunk := q.ReadUpTo()
	goOn := func() bool { return read < chunk && q.HasRoom() }
	t.Scan(index.Fresh, index.RouteKey(q.Number), after[:], func(key, value []byte) bool {
		read++
		record := index.Record(value)
		w := queue.Waiting{ID: index.KeyID(key), Key: record.OrderKey(), Dest: record.Destination()}
		if l.d.leases[w.ID] != nil {
			q.Skip(w.ID)
			return read < chunk
		}
		isParked := func() bool {
			if !l.parked {
				return false
			}
			_, parked := t.FirstParked(q.Number, w.Key)
			return parked
		}
		if !q.Read(w, overflow[w.Key] == nil, isParked) {
			overflow[w.Key] = append(overflow[w.Key], w)
		}
		return goOn()
	})
	q.ReadAll(goOn())
	for order, more := range overflow {
		l.d.park(q, order, more)
	}
}

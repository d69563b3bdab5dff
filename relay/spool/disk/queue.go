// What is next: the part of the order that is kept in memory, for one route. All its states and
// transitions are here; a disk it does not know.

package disk

import (
	"slices"
	"time"

	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/disk/index"
)

// queueLimits bound what a queue keeps in memory.
type queueLimits struct {
	ready     int // messages held ready to be leased, and those passed over because of where they go
	followers int // messages held back behind another of their order key
	chunk     int // read from the index at once
	transit   int // messages on their way from fresh to parked for want of room here
}

var defaultQueueLimits = queueLimits{ready: 4096, followers: 4096, chunk: 256, transit: 1024}

// queue hands out the messages of one route in order, with little of them in memory.
//
// On disk a message is fresh until its first attempt failed, and parked from then
// on. The fresh ones are only a list in order of acceptance, because that is all that
// accepting a message has time for. The queue reads this list from the front
// and knows every message between the front and the cursor: it is leased, ready to be
// leased, or follows another of its order key. The parked ones are found through the
// index: for each order key the first one, by the time at which it is due.
//
// One rule joins the two: of an order key, the parked ones come before the
// fresh ones. So a fresh message whose key has parked ones follows them; and
// when too many follow in memory, those of a key are parked all together.
type queue struct {
	route  string
	number uint32
	limits queueLimits

	cursor   spool.ID // fresh messages up to this one were read
	atEnd    bool     // there are no fresh ones behind the cursor
	ready    []waiting
	keys     map[uint64]*keyQueue
	held     int      // followers in all keys
	resumed  []uint64 // keys of which a parked one is done and the next may go ahead of the disk
	transit  int      // messages being parked
	inFlight int
	epoch    int // counts the times when everything here was forgotten

	clearedAt time.Time // when room was made last, see clear
}

// waiting is a fresh message that was read. msg is nil where only the index has it.
type waiting struct {
	id   spool.ID
	key  uint64
	dest spool.Destination
	msg  *index.Entry
}

// keyQueue is an order key of which something is leased, ready, or held back.
type keyQueue struct {
	ready      bool   // one is in line to be leased
	leased     *lease // the one that is being delivered
	unrecorded int    // parked, or about to be, and settled, which is not on disk yet
	parked     bool   // there are parked ones, which come before the followers
	transit    int    // park operations under way: more parked ones to come
	followers  []waiting
}

// busy reports whether nothing of the key may be leased.
func (k *keyQueue) busy() bool {
	return k != nil && (k.ready || k.leased != nil || k.unrecorded > 0)
}

// occupied reports whether a message of the key has to wait.
func (k *keyQueue) occupied() bool {
	return k != nil && (k.busy() || k.parked || k.transit > 0 || len(k.followers) > 0)
}

// lease is a message that was handed out.
type lease struct {
	msg     *index.Entry
	queue   *queue
	parked  bool // it is, or is about to be, among the parked
	settled bool // and waits to be on disk
	dropped bool // to be forgotten when it is settled

	// advanced: it was settled and its key went on without waiting for the disk.
	advanced bool
}

func newQueue(route string, number uint32, limits queueLimits) *queue {
	return &queue{
		route: route, number: number, limits: limits, keys: make(map[uint64]*keyQueue),
	}
}

// key returns the state of an order key, new if there is none.
func (q *queue) key(order uint64) *keyQueue {
	k := q.keys[order]
	if k == nil {
		k = &keyQueue{}
		q.keys[order] = k
	}
	return k
}

// hasRoom reports whether the queue can take in more fresh messages.
func (q *queue) hasRoom() bool {
	return len(q.ready) < q.limits.ready && q.transit < q.limits.transit
}

// mayHold reports whether one more message may be held back.
func (q *queue) mayHold() bool { return q.held < q.limits.followers }

// isBusy reports whether nothing of an order key may be leased.
func (q *queue) isBusy(order uint64) bool { return q.keys[order].busy() }

// The following bring fresh messages into the queue.

// read takes in the next fresh message of the index. parked says whether there are parked ones of
// its key, for when the queue does not know. It reports whether the message has a place now; one
// that has none, and all of its key behind it, have to be parked.
func (q *queue) read(w waiting, mayHold bool, parked func() bool) (placed bool) {
	q.cursor = w.id
	k := q.keys[w.key]
	if !k.occupied() && parked() {
		k = q.key(w.key)
		k.parked = true
	}
	switch {
	case !k.occupied():
		q.makeReady(w)
	case mayHold && q.mayHold():
		q.hold(w)
	default:
		return false
	}
	return true
}

// skip passes a fresh message of the index that is leased.
func (q *queue) skip(id spool.ID) { q.cursor = id }

// readAll notes whether the index had no more fresh messages than were read.
func (q *queue) readAll(all bool) { q.atEnd = all }

// offer takes in a message that was just accepted, if the queue has read all before it. anyParked
// says whether there are parked messages of whatever key.
func (q *queue) offer(w waiting, anyParked bool) {
	if !q.atEnd || w.id.Compare(q.cursor) <= 0 {
		return
	}
	if len(q.ready) >= q.limits.chunk {
		w.msg = nil // it may take long
	}
	switch k := q.keys[w.key]; {
	case k.occupied() && q.mayHold():
		q.hold(w)
	case !k.occupied() && q.hasRoom() && !anyParked:
		q.makeReady(w)
	default: // read it from the index when there is room, or to see what is before it
		q.atEnd = false
		return
	}
	q.cursor = w.id
}

// makeReady puts a message of a free key in line.
func (q *queue) makeReady(w waiting) {
	q.key(w.key).ready = true
	q.ready = append(q.ready, w)
}

// hold puts a message behind others of its key.
func (q *queue) hold(w waiting) {
	w.msg = nil // it may take long
	k := q.key(w.key)
	k.followers = append(k.followers, w)
	q.held++
}

// The following lead to a lease and away from it.

// drawn says what became of a message in line.
type drawn int

const (
	drawnLeased drawn = iota // see lease
	drawnPassed              // it stays in front of the rest
	drawnGone                // it is not there any more
	drawnLast                // it stays, and so do those behind it
)

// draw goes through what is in line, from the front or from the end.
func (q *queue) draw(fromEnd bool, look func(waiting) drawn) {
	ready := q.ready
	if fromEnd {
		slices.Reverse(ready)
	}
	var passed []waiting
	var gone []uint64
	taken := 0
	for _, w := range ready {
		outcome := look(w)
		if outcome == drawnLast {
			break
		}
		taken++
		switch outcome {
		case drawnPassed:
			passed = append(passed, w)
		case drawnGone:
			gone = append(gone, w.key)
		}
	}
	away := taken - len(passed)
	copy(ready[away:], passed)
	clear(ready[:away])
	q.ready = ready[away:]
	if fromEnd {
		slices.Reverse(q.ready)
	}
	for _, order := range gone {
		q.keys[order].ready = false
		q.advance(order)
	}
}

// lease hands a message out: one that was drawn, or a parked one of a key that is not busy.
func (q *queue) lease(m *index.Entry, parked bool) *lease {
	l := &lease{msg: m, queue: q, parked: parked}
	k := q.key(m.OrderKey)
	k.ready, k.leased = false, l
	k.parked = k.parked || parked
	q.inFlight++
	return l
}

// giveBack ends a lease without a trace: the message is in line as it was.
func (q *queue) giveBack(l *lease) {
	order := l.msg.OrderKey
	k := q.key(order)
	k.leased = nil
	q.inFlight--
	switch {
	case l.parked && k.unrecorded > 0:
		q.resumed = append(q.resumed, order)
	case l.parked:
		q.advance(order)
	case l.msg.ID.Compare(q.cursor) > 0: // it will be read again
		delete(q.keys, order)
	default:
		k.ready = true
		w := waiting{id: l.msg.ID, key: order, dest: l.msg.Destination}
		q.ready = slices.Insert(q.ready, 0, w)
	}
}

// settle ends a lease with an outcome that is not on disk yet. It reports whether something else
// may be leased because of it.
func (q *queue) settle(l *lease, verdict spool.Verdict) (more bool) {
	l.settled, l.advanced = true, !l.parked && verdict != spool.Retry
	q.inFlight--
	order := l.msg.OrderKey
	k := q.key(order)
	k.leased = nil
	switch {
	case l.advanced:
		return q.advance(order)
	case verdict == spool.Retry:
		k.unrecorded++
		return false
	}
	k.unrecorded++
	q.resumed = append(q.resumed, order)
	return true
}

// recorded notes that a settlement is on disk, and whether there are parked ones of its key left.
func (q *queue) recorded(l *lease, more bool) {
	order := l.msg.OrderKey
	k := q.keys[order]
	if l.advanced || k == nil {
		return
	}
	k.unrecorded--
	k.parked = more
	if k.unrecorded == 0 && k.leased == nil {
		q.advance(order)
	}
}

// resume calls take for the order keys of which a parked message is done and the next may go before
// the disk knows. It keeps those for which take returns false.
func (q *queue) resume(take func(order uint64) (taken bool)) {
	kept := q.resumed[:0]
	for _, order := range q.resumed {
		k := q.keys[order]
		if k == nil || k.leased != nil || k.unrecorded == 0 { // the index knows by now
			continue
		}
		if !take(order) {
			kept = append(kept, order)
		}
	}
	q.resumed = kept
}

// advance lets the next message of a key go ahead, after the one before was done
// with. It reports whether there is one.
func (q *queue) advance(order uint64) bool {
	k := q.keys[order]
	if k == nil {
		return false
	}
	if k.parked || k.transit > 0 {
		if !k.parked || len(k.followers) > 0 || k.transit > 0 {
			return true
		}
		delete(q.keys, order) // the index knows that there are parked ones
		return true
	}
	if len(k.followers) == 0 {
		delete(q.keys, order)
		return false
	}
	next := k.followers[0]
	k.followers = k.followers[1:]
	q.held--
	q.makeReady(next)
	return true
}

// The following move messages between the fresh and the parked, or take them away.

// clear names the order keys of the first messages in line, to be parked for others to come in
// sight: what is in line is to be passed over, as it all goes to where nothing is taken. It
// names none when that was done a moment ago, so that a route which is down as
// a whole is not moved from one place to another as fast as the disk can.
func (q *queue) clear(now time.Time) (orders []uint64) {
	if now.Sub(q.clearedAt) < clearPause {
		return nil
	}
	q.clearedAt = now
	for _, w := range q.ready[:min(len(q.ready), q.limits.chunk)] {
		orders = append(orders, w.key)
	}
	return orders
}

// clearPause is the time between two such moves: 1,024 messages a second with the default limits.
const clearPause = 250 * time.Millisecond

// parking is a move of messages from the fresh to the parked that is under way.
type parking struct {
	order uint64
	key   *keyQueue
	ids   []spool.ID
	epoch int
}

// park begins to move the fresh messages of an order key to the parked, as far as they were read:
// what is leased, ready or follows in memory, and those that found no room there.
func (q *queue) park(order uint64, rest []waiting) parking {
	k := q.key(order)
	p := parking{order: order, key: k, epoch: q.epoch}
	if l := k.leased; l != nil && !l.parked {
		l.parked, k.parked = true, true
		p.ids = append(p.ids, l.msg.ID)
	}
	isOfKey := func(w waiting) bool { return w.key == order }
	if i := slices.IndexFunc(q.ready, isOfKey); i >= 0 {
		p.ids = append(p.ids, q.ready[i].id)
		copy(q.ready[1:], q.ready[:i]) // it is mostly the first one
		q.ready[0] = waiting{}
		q.ready = q.ready[1:]
		k.ready = false
	}
	for _, w := range k.followers {
		p.ids = append(p.ids, w.id)
	}
	q.held -= len(k.followers)
	k.followers = nil
	for _, w := range rest {
		p.ids = append(p.ids, w.id)
	}
	k.transit++
	q.transit += len(p.ids)
	return p
}

// isVoid reports whether a move is pointless, since the queue is being read anew.
func (q *queue) isVoid(p parking) bool { return q.epoch != p.epoch }

// parked notes that a move is on disk.
func (q *queue) parked(p parking) {
	p.key.transit--
	p.key.parked = true
	q.transit -= len(p.ids)
	if !p.key.busy() {
		q.advance(p.order)
	}
}

// letPass notes that there are parked messages of a key now, which come before one that is ready.
func (q *queue) letPass(order uint64) {
	k := q.keys[order]
	if k == nil {
		return // the index knows
	}
	k.parked = true
	if i := slices.IndexFunc(q.ready, func(w waiting) bool { return w.key == order }); i >= 0 {
		w := q.ready[i]
		q.ready = slices.Delete(q.ready, i, i+1)
		w.msg = nil
		k.followers = slices.Insert(k.followers, 0, w)
		q.held++
		k.ready = false
	}
}

// forget takes out a fresh message that is gone otherwise than by a lease.
func (q *queue) forget(id spool.ID, order uint64) {
	same := func(w waiting) bool { return w.id == id }
	k := q.keys[order]
	if k == nil {
		return
	}
	if i := slices.IndexFunc(q.ready, same); i >= 0 {
		q.ready = slices.Delete(q.ready, i, i+1)
		k.ready = false
		q.advance(order)
		return
	}
	if i := slices.IndexFunc(k.followers, same); i >= 0 {
		k.followers = slices.Delete(k.followers, i, i+1)
		q.held--
		if !k.busy() && k.transit == 0 && len(k.followers) == 0 {
			delete(q.keys, order)
		}
	}
}

// forgetParked notes that a parked message is gone otherwise than by a lease, and whether there are
// more of its key.
func (q *queue) forgetParked(order uint64, more bool) {
	if k := q.keys[order]; k != nil && !k.busy() {
		k.parked = more
		q.advance(order)
	}
}

// The following begin anew, after the index had to be opened again.

// reset forgets what was read. What is leased stays so, see keep.
func (q *queue) reset() {
	q.cursor, q.atEnd, q.ready, q.resumed = spool.ID{}, false, nil, nil
	q.held, q.transit = 0, 0
	q.keys = make(map[uint64]*keyQueue)
	q.epoch++
}

// keep goes on with a lease after a reset. parked says where the index has the message now.
func (q *queue) keep(l *lease, parked bool) {
	l.parked = parked
	if l.advanced {
		return
	}
	k := q.key(l.msg.OrderKey)
	k.parked = k.parked || parked
	if l.settled {
		k.unrecorded++
	} else {
		k.leased = l
	}
}

// Package queue is what is next: the part of the order of messages that is kept in memory, for one
// route. All its states and transitions are here, as methods of [Queue], and it knows no disk: who
// calls it looks up what it asks for and tells it what has come of it. Nothing in it may be called
// by two goroutines at a time, and nothing in it blocks.
package queue

import (
	"slices"
	"time"

	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/disk/index"
)

// queueLimits bound what a queue keeps in memory.
type Limits struct {
	Ready     int // messages held ready to be leased, and those passed over because of where they go
	Followers int // messages held back behind another of their order key
	Chunk     int // read from the index at once
	Transit   int // messages on their way from fresh to parked for want of room here
}

var DefaultLimits = Limits{Ready: 4096, Followers: 4096, Chunk: 256, Transit: 1024}

// Queue hands out the messages of one route in order, with little of them in memory.
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
type Queue struct {
	Route  string
	Number uint32
	limits Limits

	cursor  spool.ID // fresh messages up to this one were read
	atEnd   bool     // there are no fresh ones behind the cursor
	ready   []Waiting
	keys    map[uint64]*keyState
	held    int      // followers in all keys
	resumed []uint64 // keys of which a parked one is done and the next may go ahead of the disk
	transit int      // messages being parked
	leased  int      // messages handed out and not settled
	epoch   int      // counts the times when everything here was forgotten

	clearedAt time.Time // when room was made last, see clear
}

// Waiting is a fresh message that was read. msg is nil where only the index has it.
type Waiting struct {
	ID   spool.ID
	Key  uint64
	Dest spool.Destination
	Msg  *index.Entry
}

// keyQueue is an order key of which something is leased, ready, or held back.
type keyState struct {
	ready      bool   // one is in line to be leased
	leased     *Lease // the one that is being delivered
	unrecorded int    // parked, or about to be, and settled, which is not on disk yet
	parked     bool   // there are parked ones, which come before the followers
	transit    int    // park operations under way: more parked ones to come
	followers  []Waiting
}

// busy reports whether nothing of the key may be leased.
func (k *keyState) busy() bool {
	return k != nil && (k.ready || k.leased != nil || k.unrecorded > 0)
}

// occupied reports whether a message of the key has to wait.
func (k *keyState) occupied() bool {
	return k != nil && (k.busy() || k.parked || k.transit > 0 || len(k.followers) > 0)
}

func New(route string, number uint32, limits Limits) *Queue {
	return &Queue{
		Route: route, Number: number, limits: limits, keys: make(map[uint64]*keyState),
	}
}

// key returns the state of an order key, new if there is none.
func (q *Queue) key(order uint64) *keyState {
	k := q.keys[order]
	if k == nil {
		k = &keyState{}
		q.keys[order] = k
	}
	return k
}

// HasRoom reports whether the queue can take in more fresh messages.
func (q *Queue) HasRoom() bool {
	return len(q.ready) < q.limits.Ready && q.transit < q.limits.Transit
}

// mayHold reports whether one more message may be held back.
func (q *Queue) mayHold() bool { return q.held < q.limits.Followers }

// InFlight returns how many messages are leased.
func (q *Queue) InFlight() int { return q.leased }

// InLine returns how many messages are ready to be leased.
func (q *Queue) InLine() int { return len(q.ready) }

// IsAtEnd reports whether the queue has read all fresh messages.
func (q *Queue) IsAtEnd() bool { return q.atEnd }

// ReadUpTo returns the fresh message behind which the queue goes on to read, and how many at once.
func (q *Queue) ReadUpTo() (id spool.ID, chunk int) { return q.cursor, q.limits.Chunk }

// IsBusy reports whether nothing of an order key may be leased.
func (q *Queue) IsBusy(order uint64) bool { return q.keys[order].busy() }

// The following bring fresh messages into the queue.

// Read takes in the next fresh message of the index. parked says whether there are parked ones of
// its key, for when the queue does not know. It reports whether the message has a place now; one
// that has none, and all of its key behind it, have to be parked.
func (q *Queue) Read(w Waiting, mayHold bool, parked func() bool) (placed bool) {
	q.cursor = w.ID
	k := q.keys[w.Key]
	if !k.occupied() && parked() {
		k = q.key(w.Key)
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

// Skip passes a fresh message of the index that is leased.
func (q *Queue) Skip(id spool.ID) { q.cursor = id }

// ReadAll notes whether the index had no more fresh messages than were read.
func (q *Queue) ReadAll(all bool) { q.atEnd = all }

// Offer takes in a message that was just accepted, if the queue has read all before it. anyParked
// says whether there are parked messages of whatever key.
func (q *Queue) Offer(w Waiting, anyParked bool) {
	if !q.atEnd || w.ID.Compare(q.cursor) <= 0 {
		return
	}
	if len(q.ready) >= q.limits.Chunk {
		w.Msg = nil // it may take long
	}
	switch k := q.keys[w.Key]; {
	case k.occupied() && q.mayHold():
		q.hold(w)
	case !k.occupied() && q.HasRoom() && !anyParked:
		q.makeReady(w)
	default: // read it from the index when there is room, or to see what is before it
		q.atEnd = false
		return
	}
	q.cursor = w.ID
}

// makeReady puts a message of a free key in line.
func (q *Queue) makeReady(w Waiting) {
	q.key(w.Key).ready = true
	q.ready = append(q.ready, w)
}

// hold puts a message behind others of its key.
func (q *Queue) hold(w Waiting) {
	w.Msg = nil // it may take long
	k := q.key(w.Key)
	k.followers = append(k.followers, w)
	q.held++
}

// The following lead to a lease and away from it.

// Drawn says what became of a message in line.
type Drawn int

const (
	DrawnLeased Drawn = iota // see [Queue.Lease]
	DrawnPassed              // it stays in front of the rest
	DrawnGone                // it is not there any more
	DrawnLast                // it stays, and so do those behind it
)

// Draw goes through what is in line, from the front or from the end.
func (q *Queue) Draw(fromEnd bool, look func(Waiting) Drawn) {
	ready := q.ready
	if fromEnd {
		slices.Reverse(ready)
	}
	var passed []Waiting
	var gone []uint64
	taken := 0
	for _, w := range ready {
		outcome := look(w)
		if outcome == DrawnLast {
			break
		}
		taken++
		switch outcome {
		case DrawnPassed:
			passed = append(passed, w)
		case DrawnGone:
			gone = append(gone, w.Key)
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

// Lease hands a message out: one that was drawn, or a parked one of a key that is not busy.
func (q *Queue) Lease(m *index.Entry, parked bool) *Lease {
	l := &Lease{Msg: m, Queue: q, parked: parked}
	k := q.key(m.OrderKey)
	k.ready, k.leased = false, l
	k.parked = k.parked || parked
	q.leased++
	return l
}

// GiveBack ends a lease without a trace: the message is in line as it was.
func (q *Queue) GiveBack(l *Lease) {
	order := l.Msg.OrderKey
	k := q.key(order)
	k.leased = nil
	q.leased--
	switch {
	case l.parked && k.unrecorded > 0:
		q.resumed = append(q.resumed, order)
	case l.parked:
		q.advance(order)
	case l.Msg.ID.Compare(q.cursor) > 0: // it will be read again
		delete(q.keys, order)
	default:
		k.ready = true
		w := Waiting{ID: l.Msg.ID, Key: order, Dest: l.Msg.Destination}
		q.ready = slices.Insert(q.ready, 0, w)
	}
}

// Settle ends a lease with an outcome that is not on disk yet. It reports whether something else
// may be leased because of it.
func (q *Queue) Settle(l *Lease, verdict spool.Verdict) (more bool) {
	l.settled, l.advanced = true, !l.parked && verdict != spool.Retry
	q.leased--
	order := l.Msg.OrderKey
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

// Recorded notes that a settlement is on disk, and whether there are parked ones of its key left.
func (q *Queue) Recorded(l *Lease, more bool) {
	order := l.Msg.OrderKey
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

// Resume calls take for the order keys of which a parked message is done and the next may go before
// the disk knows. It keeps those for which take returns false.
func (q *Queue) Resume(take func(order uint64) (taken bool)) {
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
func (q *Queue) advance(order uint64) bool {
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

// Clear names the order keys of the first messages in line, to be parked for others to come in
// sight: what is in line is to be passed over, as it all goes to where nothing is taken. It
// names none when that was done a moment ago, so that a route which is down as
// a whole is not moved from one place to another as fast as the disk can.
func (q *Queue) Clear(now time.Time) (orders []uint64) {
	if len(q.ready) == 0 || now.Sub(q.clearedAt) < clearPause {
		return nil
	}
	q.clearedAt = now
	for _, w := range q.ready[:min(len(q.ready), q.limits.Chunk)] {
		orders = append(orders, w.Key)
	}
	return orders
}

// clearPause is the time between two such moves: 1,024 messages a second with the default limits.
const clearPause = 250 * time.Millisecond

// parking is a move of messages from the fresh to the parked that is under way.
type parking struct {
	order uint64
	key   *keyState
	IDs   []spool.ID
	epoch int
}

// Park begins to move the fresh messages of an order key to the parked, as far as they were read:
// what is leased, ready or follows in memory, and those that found no room there.
func (q *Queue) Park(order uint64, rest []Waiting) parking {
	k := q.key(order)
	p := parking{order: order, key: k, epoch: q.epoch}
	if l := k.leased; l != nil && !l.parked {
		l.parked, k.parked = true, true
		p.IDs = append(p.IDs, l.Msg.ID)
	}
	isOfKey := func(w Waiting) bool { return w.Key == order }
	if i := slices.IndexFunc(q.ready, isOfKey); i >= 0 {
		p.IDs = append(p.IDs, q.ready[i].ID)
		copy(q.ready[1:], q.ready[:i]) // it is mostly the first one
		q.ready[0] = Waiting{}
		q.ready = q.ready[1:]
		k.ready = false
	}
	for _, w := range k.followers {
		p.IDs = append(p.IDs, w.ID)
	}
	q.held -= len(k.followers)
	k.followers = nil
	for _, w := range rest {
		p.IDs = append(p.IDs, w.ID)
	}
	k.transit++
	q.transit += len(p.IDs)
	return p
}

// IsVoid reports whether a move is pointless, since the queue is being read anew.
func (q *Queue) IsVoid(p parking) bool { return q.epoch != p.epoch }

// Parked notes that a move is on disk.
func (q *Queue) Parked(p parking) {
	p.key.transit--
	p.key.parked = true
	q.transit -= len(p.IDs)
	if !p.key.busy() {
		q.advance(p.order)
	}
}

// LetPass notes that there are parked messages of a key now, which come before one that is ready.
func (q *Queue) LetPass(order uint64) {
	k := q.keys[order]
	if k == nil {
		return // the index knows
	}
	k.parked = true
	if i := slices.IndexFunc(q.ready, func(w Waiting) bool { return w.Key == order }); i >= 0 {
		w := q.ready[i]
		q.ready = slices.Delete(q.ready, i, i+1)
		w.Msg = nil
		k.followers = slices.Insert(k.followers, 0, w)
		q.held++
		k.ready = false
	}
}

// Forget takes out a fresh message that is gone otherwise than by a lease.
func (q *Queue) Forget(id spool.ID, order uint64) {
	same := func(w Waiting) bool { return w.ID == id }
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

// ForgetParked notes that a parked message is gone otherwise than by a lease, and whether there are
// more of its key.
func (q *Queue) ForgetParked(order uint64, more bool) {
	if k := q.keys[order]; k != nil && !k.busy() {
		k.parked = more
		q.advance(order)
	}
}

// The following begin anew, after the index had to be opened again.

// Reset forgets what was read. What is leased stays so, see keep.
func (q *Queue) Reset() {
	q.cursor, q.atEnd, q.ready, q.resumed = spool.ID{}, false, nil, nil
	q.held, q.transit = 0, 0
	q.keys = make(map[uint64]*keyState)
	q.epoch++
}

// Keep goes on with a lease after a reset. parked says where the index has the message now.
func (q *Queue) Keep(l *Lease, parked bool) {
	l.parked = parked
	if l.advanced {
		return
	}
	k := q.key(l.Msg.OrderKey)
	k.parked = k.parked || parked
	if l.settled {
		k.unrecorded++
	} else {
		k.leased = l
	}
}

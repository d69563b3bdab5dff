// What is next: the part of the order that is kept in memory, for one route.

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
	busy       bool // one is leased or ready, or unrecorded is not 0
	leased     bool
	unrecorded int  // parked, or about to be, and settled, which is not on disk yet
	parked     bool // there are parked ones, which come before the followers
	transit    int  // park operations under way: more parked ones to come
	followers  []waiting
}

func newQueue(route string, number uint32, limits queueLimits) *queue {
	return &queue{route: route, number: number, limits: limits, keys: make(map[uint64]*keyQueue)}
}

// reset forgets what was read, to begin at the front again. What is leased stays so, see
// Disk.reload.
func (q *queue) reset() {
	q.cursor, q.atEnd, q.ready, q.resumed, q.held, q.transit = spool.ID{}, false, nil, nil, 0, 0
	q.keys = make(map[uint64]*keyQueue)
	q.epoch++
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

// occupied reports whether a message of the key has to wait.
func (k *keyQueue) occupied() bool {
	return k != nil && (k.busy || k.parked || k.transit > 0 || len(k.followers) > 0)
}

// hasRoom reports whether the queue can take in more fresh messages.
func (q *queue) hasRoom() bool { return len(q.ready) < q.limits.ready && q.transit < q.limits.transit }

// mayHold reports whether one more message may be held back.
func (q *queue) mayHold() bool { return q.held < q.limits.followers }

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

// makeReady puts a message of a free key in line.
func (q *queue) makeReady(w waiting) {
	q.key(w.key).busy = true
	q.ready = append(q.ready, w)
}

// hold puts a message behind others of its key.
func (q *queue) hold(w waiting) {
	w.msg = nil // it may take long
	k := q.key(w.key)
	k.followers = append(k.followers, w)
	q.held++
}

// advance lets the next message of a key go ahead, after the one before was done
// with. It reports whether there is one.
func (q *queue) advance(order uint64) bool {
	k := q.keys[order]
	if k == nil {
		return false
	}
	k.busy = false
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

// recorded notes that a settlement is on disk, and whether there are parked ones of its key left.
func (q *queue) recorded(order uint64, more bool) {
	k := q.keys[order]
	if k == nil {
		return
	}
	k.unrecorded--
	k.parked = more
	if k.unrecorded == 0 && !k.leased {
		q.advance(order)
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
		k.busy = false
	}
}

// forget takes out a fresh message that is gone otherwise.
func (q *queue) forget(id spool.ID, order uint64) {
	same := func(w waiting) bool { return w.id == id }
	if i := slices.IndexFunc(q.ready, same); i >= 0 {
		q.ready = slices.Delete(q.ready, i, i+1)
		q.advance(order)
		return
	}
	k := q.keys[order]
	if k == nil {
		return
	}
	if i := slices.IndexFunc(k.followers, same); i >= 0 {
		k.followers = slices.Delete(k.followers, i, i+1)
		q.held--
		if !k.busy && k.transit == 0 && len(k.followers) == 0 {
			delete(q.keys, order)
		}
	}
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

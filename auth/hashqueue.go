// The queue for hashing passwords: how many are hashed at a time, and whose is next.

package auth

import (
	"net/netip"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/golang-lru/v2/simplelru"
)

const (
	// hashQueueLength is how many unknown passwords may wait for their turn.
	hashQueueLength = 64

	// hashQueueWait is how long a password may wait. Deepgram's self-hosted servers wait 10
	// seconds for an answer by default, and waiting and hashing together stay below that.
	hashQueueWait = 5 * time.Second

	// suspectFor is how long an address is suspect after a wrong guess.
	suspectFor = time.Minute

	// suspectTurn: while others wait too, suspect addresses have one turn in
	// suspectTurn. They have some, since many callers can share an address.
	suspectTurn = 4
)

// hashQueue limits how many passwords are hashed at a time, how many wait and for how long, so that
// a flood of guesses leaves processors to callers who are recognised. Turns and places in the queue
// are shared fairly between addresses, and those of one address between accounts. Addresses with
// recent wrong guesses, which are called suspect, come last.
type hashQueue struct {
	length int
	wait   time.Duration

	mu       sync.Mutex
	free     int            // how many more passwords may be hashed now
	waiting  []*hasher      // who waits, in the order in which they came
	turns    uint64         // how many turns were given to those who waited
	served   map[any]uint64 // the latest of these turns, by address and by account
	places   map[any]*int   // how many wait, by address and by account
	suspects *simplelru.LRU[netip.Prefix, time.Time]
}

// hasher is somebody who waits for a turn to hash.
type hasher struct {
	address netip.Prefix
	account account
	suspect bool
	turn    chan bool // receives once: true for a turn, false for none

	ofAddress, ofAccount *int // how many wait of the address and of the account
}

// account is one username of one policy.
type account struct {
	of       *hashedAccounts
	username string
}

// processHashes is the queue of all policies, since they share the processors. Half
// of these may be hashing.
var processHashes = newHashQueue(max(1, runtime.GOMAXPROCS(0)/2), hashQueueLength, hashQueueWait)

func newHashQueue(concurrency, length int, wait time.Duration) *hashQueue {
	suspects, err := simplelru.NewLRU[netip.Prefix, time.Time](maxGuessAddresses, nil)
	if err != nil {
		panic(err) // the size is not positive
	}
	return &hashQueue{
		length:   length,
		wait:     wait,
		free:     concurrency,
		served:   make(map[any]uint64),
		places:   make(map[any]*int),
		suspects: suspects,
	}
}

// acquire blocks until there is a turn, and returns true, after which release must be called; or
// until the time to wait is over or somebody else needs the place, and returns false.
func (q *hashQueue) acquire(address netip.Prefix, who account) bool {
	h := &hasher{address: address, account: who, turn: make(chan bool, 1)}
	if !q.join(h) {
		return true
	}
	timer := time.NewTimer(q.wait)
	defer timer.Stop()
	select {
	case turn := <-h.turn:
		return turn
	case <-timer.C:
		q.leave(h)
		return <-h.turn // true, if the turn came at the last moment
	}
}

// join gives h a turn, or puts it into the queue. It reports whether h has to wait.
func (q *hashQueue) join(h *hasher) (waits bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.free > 0 {
		q.free--
		return false
	}
	wrongAt, known := q.suspects.Peek(h.address)
	h.suspect = known && time.Since(wrongAt) < suspectFor
	h.ofAddress, h.ofAccount = q.place(h.address), q.place(h.account)
	q.waiting = append(q.waiting, h)
	if len(q.waiting) > q.length {
		q.dismiss(q.leastWelcome())
	}
	return true
}

// leave takes h out of the queue, if it still waits.
func (q *hashQueue) leave(h *hasher) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if i := slices.Index(q.waiting, h); i >= 0 {
		q.dismiss(i)
	}
}

// dismiss takes the i-th of those who wait out of the queue, without a turn.
func (q *hashQueue) dismiss(i int) { q.remove(i).turn <- false }

// place counts one more who waits, and returns the counter.
func (q *hashQueue) place(of any) *int {
	n := q.places[of]
	if n == nil {
		n = new(int)
		q.places[of] = n
	}
	*n++
	return n
}

// remove takes the i-th of those who wait out of the queue.
func (q *hashQueue) remove(i int) *hasher {
	h := q.waiting[i]
	q.waiting = slices.Delete(q.waiting, i, i+1)
	if *h.ofAddress--; *h.ofAddress == 0 {
		delete(q.places, h.address)
	}
	if *h.ofAccount--; *h.ofAccount == 0 {
		delete(q.places, h.account)
	}
	return h
}

// release ends a turn, and gives one to the next who waits.
func (q *hashQueue) release() {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.waiting) == 0 {
		q.free++
		clear(q.served)
		return
	}
	h := q.remove(q.next())
	q.turns++
	if len(q.served) > 8*q.length {
		q.forgetServed()
	}
	q.served[h.address], q.served[h.account] = q.turns, q.turns
	h.turn <- true
}

// forgetServed drops those from served who do not wait, so that it does not grow
// for as long as the queue is never empty.
func (q *hashQueue) forgetServed() {
	kept := make(map[any]uint64, 2*len(q.waiting))
	for _, h := range q.waiting {
		kept[h.address], kept[h.account] = q.served[h.address], q.served[h.account]
	}
	q.served = kept
}

// wrong notes that an address has made a wrong guess.
func (q *hashQueue) wrong(address netip.Prefix) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.suspects.Add(address, time.Now())
	for _, h := range q.waiting {
		h.suspect = h.suspect || h.address == address
	}
}

// next is the index of who has the next turn: of the address that was served the longest time ago,
// of that address's account that was, the one who came first.
func (q *hashQueue) next() int {
	suspect := q.turns%suspectTurn == suspectTurn-1
	if !slices.ContainsFunc(q.waiting, func(h *hasher) bool { return h.suspect == suspect }) {
		suspect = !suspect
	}
	best := -1
	for i, h := range q.waiting {
		if h.suspect != suspect {
			continue
		}
		if best < 0 || q.before(h, q.waiting[best]) {
			best = i
		}
	}
	return best
}

// before reports whether a's turn comes before that of b, who came earlier.
func (q *hashQueue) before(a, b *hasher) bool {
	if of, other := q.served[a.address], q.served[b.address]; of != other {
		return of < other
	}
	return q.served[a.account] < q.served[b.account]
}

// leastWelcome is the index of who loses the place when the queue is full: a suspect one if there
// is any, of those one of the address with the most places, of its account with the most places,
// the one who came last.
func (q *hashQueue) leastWelcome() int {
	worst := 0
	for i, h := range q.waiting {
		if !welcome(h, q.waiting[worst]) {
			worst = i
		}
	}
	return worst
}

// welcome reports whether a keeps its place rather than b, who came earlier.
func welcome(a, b *hasher) bool {
	switch {
	case a.suspect != b.suspect:
		return b.suspect
	case *a.ofAddress != *b.ofAddress:
		return *a.ofAddress < *b.ofAddress
	}
	return *a.ofAccount < *b.ofAccount
}

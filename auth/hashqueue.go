// Whose password is hashed next.

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

	// hashQueueWait bounds the waiting. Deepgram's self-hosted servers give up on
	// an answer after 10 seconds by default; this and the hashing stay below that.
	hashQueueWait = 5 * time.Second

	// suspectFor is how long an address is suspect after a wrong guess.
	suspectFor = time.Minute

	// suspectTurn: while others wait too, suspect addresses have one in so many
	// turns. It is not none, as an address can be shared by many callers.
	suspectTurn = 4
)

// hashQueue lets a bounded number of passwords be hashed at a time, and a bounded
// number wait for a bounded time, so that a flood of guesses leaves processors
// to those who are recognised. Turns and places are shared fairly by address, and
// those of one address by account; addresses with recent wrong guesses come last.
type hashQueue struct {
	length int
	wait   time.Duration

	mu       sync.Mutex
	free     int            // how many more may hash at once
	waiting  []*hasher      // in the order in which they came
	turns    uint64         // how many were given to those who waited
	served   map[any]uint64 // of addresses and accounts, the last of these turns
	places   map[any]*int   // of addresses and accounts, how many wait
	suspects *simplelru.LRU[netip.Prefix, time.Time]
}

// hasher is somebody who waits for a turn.
type hasher struct {
	address netip.Prefix
	account account
	suspect bool
	turn    chan bool // gives true for a turn, false for none

	ofAddress, ofAccount *int // the places that these have
}

// account is one username of one policy.
type account struct {
	of       *hashedAccounts
	username string
}

// processHashes is shared by all policies, since all share the processors: half
// of them may be hashing.
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

// acquire says whether there is a turn; release must follow it then.
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
		return <-h.turn // it may just have come
	}
}

// join has h wait, unless it has its turn already.
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

// leave is for one whose time is over.
func (q *hashQueue) leave(h *hasher) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if i := slices.Index(q.waiting, h); i >= 0 {
		q.dismiss(i)
	}
}

func (q *hashQueue) dismiss(i int) { q.remove(i).turn <- false }

// place counts a place more.
func (q *hashQueue) place(of any) *int {
	n := q.places[of]
	if n == nil {
		n = new(int)
		q.places[of] = n
	}
	*n++
	return n
}

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

// release ends a turn, and gives it to the next.
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

// forgetServed keeps what was served from growing for as long as the queue is
// never empty.
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

// next is who waits for the address that was served the longest time ago, and
// there for the account that was; the first of those.
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

func (q *hashQueue) before(a, b *hasher) bool {
	if of, other := q.served[a.address], q.served[b.address]; of != other {
		return of < other
	}
	return q.served[a.account] < q.served[b.account]
}

// leastWelcome is whose place is given up when there are too few: it is taken
// from the suspect, from the address with the most places, from its account with
// the most places, from the one who came last.
func (q *hashQueue) leastWelcome() int {
	worst := 0
	for i, h := range q.waiting {
		if !welcome(h, q.waiting[worst]) {
			worst = i
		}
	}
	return worst
}

// welcome reports whether a rather than b keeps its place, of whom a came later.
func welcome(a, b *hasher) bool {
	switch {
	case a.suspect != b.suspect:
		return b.suspect
	case *a.ofAddress != *b.ofAddress:
		return *a.ofAddress < *b.ofAddress
	}
	return *a.ofAccount < *b.ofAccount
}

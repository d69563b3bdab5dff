// The operations: what is queued for the writer.

package disk

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
)

const (
	// settleDelay is how long settled messages wait for a group commit to go along with.
	settleDelay = 20 * time.Millisecond
	// A group commit takes no more than this, so that the first in it does not wait too long.
	maxGroup      = 1024
	maxGroupBytes = 4 << 20
)

// operation is one change. Those that come together are one transaction.
type operation struct {
	accept *acceptance

	// apply makes the change. An error means that the index failed, and undoes everything of the
	// transaction.
	apply func(*change) error

	// durable operations must not fail: they are tried again until they are on disk.
	durable bool

	done chan error // gets the outcome; nil if nobody waits
}

// finish answers whoever waits. Only the first answer counts.
func (o *operation) finish(err error) {
	if o.done == nil {
		return
	}
	select {
	case o.done <- err:
	default:
	}
}

// operations collects operations for the writer, in order.
type operations struct {
	mu      sync.Mutex
	ops     []*operation
	accepts int  // among ops
	armed   bool // a wake-up is under way
	closed  bool
	wake    chan struct{}

	quorum int // so many accepts the writer waits for, if not 0
	met    chan struct{}
}

func newOperations() *operations {
	return &operations{wake: make(chan struct{}, 1), met: make(chan struct{}, 1)}
}

func (q *operations) signal() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// push adds an operation, and reports whether it will be looked at.
func (q *operations) push(op *operation, urgent bool) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return false
	}
	q.ops = append(q.ops, op)
	if op.accept != nil {
		q.accepts++
	}
	switch {
	case q.quorum > 0:
		q.checkQuorum()
	case urgent:
		q.signal()
	case !q.armed:
		q.armed = true
		time.AfterFunc(settleDelay, q.signal)
	}
	return true
}

// pushFront puts operations back that have failed and are to be tried again.
func (q *operations) pushFront(ops []*operation) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.ops = append(slices.Clip(ops), q.ops...)
}

// checkQuorum ends gather when it has what it waits for. q.mu is held.
func (q *operations) checkQuorum() {
	if q.quorum == 0 || q.accepts < q.quorum && !q.closed {
		return
	}
	q.quorum = 0
	select {
	case q.met <- struct{}{}:
	default:
	}
}

// gather waits until there are so many accepts, but not for long. It returns at once if there are
// none.
func (q *operations) gather(quorum int, patience time.Duration) {
	q.mu.Lock()
	if q.accepts == 0 || q.accepts >= quorum || q.closed {
		q.mu.Unlock()
		return
	}
	q.quorum = quorum
	select {
	case <-q.met: // of an earlier time
	default:
	}
	q.mu.Unlock()

	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-q.met:
	case <-timer.C:
	}
	q.mu.Lock()
	q.quorum = 0
	q.mu.Unlock()
}

// waiting returns how many accepts there are.
func (q *operations) waiting() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.accepts
}

// take returns the operations of the next group.
func (q *operations) take() []*operation {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.armed = false
	n, size := 0, int64(0)
	for n < len(q.ops) && n < maxGroup && size < maxGroupBytes {
		if a := q.ops[n].accept; a != nil {
			size += a.where.Size
			q.accepts--
		}
		n++
	}
	group := q.ops[:n:n]
	q.ops = q.ops[n:]
	if len(q.ops) > 0 {
		q.signal()
	} else {
		q.ops = nil
	}
	return group
}

// close lets nothing more in. It reports whether it was open.
func (q *operations) close() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	wasOpen := !q.closed
	q.closed = true
	q.checkQuorum()
	q.signal()
	return wasOpen
}

func (q *operations) isClosed() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.closed
}

func (q *operations) isEmpty() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.ops) == 0
}

// perform has the writer do something and waits until it is on disk.
func (d *Store) perform(ctx context.Context, apply func(*change) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	op := &operation{done: make(chan error, 1), apply: apply}
	if !d.ops.push(op, true) {
		return spool.ErrClosed
	}
	select {
	case err := <-op.done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

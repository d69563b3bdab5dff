// The courier takes settlements to the database and leases from there, all that there is of both in
// one transaction: what was settled comes first, so that the next message of its lane can be among
// what is leased.

package postgres

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/postgres/database"
)

const (
	maxSettled = 256 // settlements in one transaction
	maxAsked   = 16  // lease requests in one
	maxLeased  = 64  // messages for each

	// linger is how long settlements wait for others, or for somebody who wants the next one.
	linger = 2 * time.Millisecond

	// lookAgain is when to try again what did not work.
	lookAgain = 200 * time.Millisecond
)

// Where the courier counts, beside the acceptors; and all else.
const (
	courierSlot = acceptors + iota
	operatorSlot
)

// settled is a lease that ended.
type settled struct {
	*held
	spool.Settlement
}

type leaseRequest struct {
	spool.LeaseRequest
	route  int32
	claim  [16]byte
	answer chan leaseAnswer
}

type leaseAnswer struct {
	leased spool.Leased
	err    error
}

// courier has what waits to be taken.
type courier struct {
	s     *Store
	ready chan struct{}

	mu       sync.Mutex
	settled  []settled
	asked    []*leaseRequest
	recorded int           // settlements since the beginning
	queued   int           // those recorded and those that wait
	moved    chan struct{} // closed when recorded or the database's state changes
	suspects [][16]byte    // claims of which nobody knows whether the database has them
	closed   bool
}

func newCourier(s *Store) *courier {
	return &courier{s: s, ready: make(chan struct{}, 1), moved: make(chan struct{})}
}

// wake has the courier look whether there is something to take.
func (c *courier) wake() {
	select {
	case c.ready <- struct{}{}:
	default:
	}
}

func (c *courier) settle(h *held, settlement spool.Settlement) {
	c.mu.Lock()
	c.settled = append(c.settled, settled{h, settlement})
	c.queued++
	c.mu.Unlock()
	c.wake()
}

func (c *courier) ask(r *leaseRequest) {
	c.mu.Lock()
	if c.closed {
		r.answer <- leaseAnswer{spool.Leased{Next: -1}, spool.ErrClosed}
	} else {
		c.asked = append(c.asked, r)
	}
	c.mu.Unlock()
	c.wake()
}

// flush waits until everything that was settled is recorded.
func (c *courier) flush(ctx context.Context) error {
	c.mu.Lock()
	target := c.queued
	for c.recorded < target {
		moved := c.moved
		c.mu.Unlock()
		if err := c.s.db.Ready(); err != nil && c.s.closed.Load() {
			return err // what is left is as if this gateway had died
		}
		c.wake()
		select {
		case <-moved:
		case <-ctx.Done():
			return ctx.Err()
		}
		c.mu.Lock()
	}
	c.mu.Unlock()
	return nil
}

// run makes one round after the other.
func (c *courier) run(ctx context.Context) {
	defer c.refuseAll()
	for {
		select {
		case <-ctx.Done():
			return
		case <-c.ready:
		}
		if c.mayLinger() {
			select {
			case <-ctx.Done():
			case <-time.After(linger):
			}
		}
		for c.round(ctx) {
		}
	}
}

// mayLinger reports whether nobody waits for what is to be taken.
func (c *courier) mayLinger() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.asked) == 0 && len(c.settled) < maxLeased
}

// refuseAll answers those who wait at the end.
func (c *courier) refuseAll() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	for _, r := range c.asked {
		r.answer <- leaseAnswer{spool.Leased{Next: -1}, spool.ErrClosed}
	}
	c.asked = nil
}

// round takes what there is, and reports whether it is worth another one at once.
func (c *courier) round(ctx context.Context) bool {
	c.mu.Lock()
	done := slices.Clone(c.settled[:min(len(c.settled), maxSettled)])
	asked := slices.Clone(c.asked[:min(len(c.asked), maxAsked)])
	if len(done) < len(c.settled) {
		asked = nil // of what is settled nothing may be leased as if it were not
	}
	c.asked = slices.Delete(c.asked, 0, len(asked))
	suspects := c.suspects
	c.mu.Unlock()
	if len(done) == 0 && len(asked) == 0 {
		return false
	}

	began := time.Now()
	taken := &load{s: c.s, done: done, asked: asked, suspects: suspects, began: began}
	err := taken.send(ctx)
	switch {
	case err == nil:
		c.finish(taken, len(done), len(suspects))
		taken.deliver()
		return true
	case len(done) > 0 && database.IsDislike(err):
		c.finishAlone(ctx, done)
	case database.IsUncertain(err):
		c.suspect(asked)
	}
	taken.fail(err)
	c.stir()
	time.AfterFunc(lookAgain, c.wake)
	return false
}

// finish takes note of what is recorded.
func (c *courier) finish(taken *load, settlements, suspects int) {
	c.mu.Lock()
	clear(c.settled[:settlements])
	c.settled = c.settled[settlements:]
	c.recorded += settlements
	c.suspects = c.suspects[suspects:]
	c.mu.Unlock()
	c.stir()
}

// stir has those look again who wait for something to be recorded.
func (c *courier) stir() {
	c.mu.Lock()
	close(c.moved)
	c.moved = make(chan struct{})
	c.mu.Unlock()
}

// suspect remembers claims that may be in the database all the same, to be given back.
func (c *courier) suspect(asked []*leaseRequest) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, r := range asked {
		c.suspects = append(c.suspects, r.claim)
	}
}

// finishAlone records settlements one by one, of which one is not to the database's liking: that
// lease ends by itself.
func (c *courier) finishAlone(ctx context.Context, done []settled) {
	for _, one := range done {
		alone := &load{s: c.s, done: []settled{one}, began: time.Now()}
		err := alone.send(ctx)
		if err != nil && !database.IsDislike(err) {
			break
		}
		if err != nil {
			what := "message " + one.id.String() + ": the end of its delivery cannot be recorded"
			c.s.problem(errors.Join(errors.New(what), err))
		}
		c.finish(alone, 1, 0)
	}
	c.wake()
}

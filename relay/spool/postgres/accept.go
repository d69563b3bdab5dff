// Accepting: senders that wait share one statement and one commit.

package postgres

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/postgres/bodies"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/postgres/database"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/postgres/record"
)

const (
	// acceptors is how many statements are under way at once: while one is being
	// committed, the next one can be sent.
	acceptors = 2

	maxGroup      = 128
	maxGroupBytes = 2 << 20
)

// acceptor gathers what is to be accepted.
type acceptor struct {
	s *Store

	mu      sync.Mutex
	waiting []*entry
	busy    map[spool.Fingerprint]bool // of which one is on its way at present
	filling map[sequence]bool          // to which some are on their way
	closed  bool
	ready   chan struct{} // has an element when there may be something to do
	floor   int64         // the highest time in an id that was given out to this process
}

// sequence is what waits in one lane.
type sequence struct {
	route string
	key   uint64
}

// entry is a message to be accepted.
type entry struct {
	ctx         context.Context
	msg         *spool.Message
	fingerprint spool.Fingerprint
	window      time.Duration
	body        *bodies.Writer
	meta        []byte
	random      int64
	route       int32 // its number, known when it is inserted
	done        chan struct{}

	receipt spool.Receipt
	err     error
}

func newAcceptor(s *Store) *acceptor {
	return &acceptor{
		s:       s,
		busy:    make(map[spool.Fingerprint]bool),
		filling: make(map[sequence]bool),
		ready:   make(chan struct{}, acceptors),
	}
}

// wake has one more group looked for.
func (a *acceptor) wake() {
	select {
	case a.ready <- struct{}{}:
	default:
	}
}

// NewBody implements spool.Store.
func (s *Store) NewBody(ctx context.Context, sizeHint int64) (spool.BodyWriter, error) {
	if err := s.enter(ctx); err != nil {
		return nil, err
	}
	w, err := s.bodies.New(ctx, sizeHint)
	if err != nil {
		return nil, err
	}
	return w, nil
}

// Accept implements spool.Store.
func (s *Store) Accept(
	ctx context.Context, msg *spool.Message, fingerprint spool.Fingerprint, window time.Duration,
	body spool.BodyWriter,
) (spool.Receipt, error) {
	w := body.(*bodies.Writer)
	e := &entry{
		ctx: ctx, msg: msg, fingerprint: fingerprint, window: window, body: w,
		meta: record.EncodeMeta(msg), random: record.Random(), done: make(chan struct{}),
	}
	if err := errors.Join(s.enter(ctx), w.Finish()); err != nil {
		w.Discard()
		return spool.Receipt{}, err
	}
	msg.Size = w.Size()
	if err := s.acceptor.add(e); err != nil {
		w.Discard()
		return spool.Receipt{}, err
	}
	select {
	case <-e.done:
		return e.receipt, e.err
	case <-ctx.Done():
		return spool.Receipt{}, ctx.Err()
	}
}

func (a *acceptor) add(e *entry) error {
	if err := a.s.db.Ready(); err != nil {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed {
		return spool.ErrClosed
	}
	a.waiting = append(a.waiting, e)
	a.wake()
	return nil
}

func (a *acceptor) close() {
	a.mu.Lock()
	a.closed = true
	rest := a.waiting
	a.waiting = nil
	a.mu.Unlock()
	for _, e := range rest {
		e.finish(spool.Receipt{}, spool.ErrClosed)
	}
}

// finish answers a sender.
func (e *entry) finish(receipt spool.Receipt, err error) {
	e.receipt, e.err = receipt, err
	if err == nil && !receipt.Duplicate {
		e.body.Keep()
	} else {
		e.body.Discard()
	}
	close(e.done)
}

// run makes groups and has them accepted.
func (a *acceptor) run(ctx context.Context, slot int) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-a.ready:
		}
		for group := a.take(); len(group) > 0; group = a.take() {
			a.accept(ctx, slot, group)
			a.release(group)
		}
	}
}

// take takes the next group out of those that wait. Of each fingerprint there is only one on its
// way, so that the next one finds out what became of it; and of each sequence there are some in one
// group only, so that they are accepted in the order in which they came.
func (a *acceptor) take() (group []*entry) {
	a.mu.Lock()
	defer a.mu.Unlock()
	rest := a.waiting[:0]
	bytes := 0
	for i, e := range a.waiting {
		if len(group) == maxGroup || bytes > maxGroupBytes {
			rest = append(rest, a.waiting[i:]...)
			break
		}
		switch {
		case e.ctx.Err() != nil:
			e.finish(spool.Receipt{}, e.ctx.Err())
		case a.busy[e.fingerprint] || a.filling[e.sequence()]:
			rest = append(rest, e)
		default:
			if e.fingerprint != (spool.Fingerprint{}) {
				a.busy[e.fingerprint] = true
			}
			group = append(group, e)
			bytes += len(e.body.Inline())
		}
	}
	for _, e := range group {
		if e.msg.OrderKey != 0 {
			a.filling[e.sequence()] = true
		}
	}
	clear(a.waiting[len(rest):])
	a.waiting = rest
	return group
}

func (e *entry) sequence() sequence { return sequence{e.msg.Route, e.msg.OrderKey} }

func (a *acceptor) release(group []*entry) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, e := range group {
		delete(a.busy, e.fingerprint)
		delete(a.filling, e.sequence())
	}
	if len(a.waiting) > 0 {
		a.wake()
	}
}

// accept has a group accepted. One that the database does not like as a whole goes in halves, so
// that whoever the trouble is with is refused alone.
func (a *acceptor) accept(ctx context.Context, slot int, group []*entry) {
	if group = a.admit(ctx, group); len(group) == 0 {
		return
	}
	began := time.Now()
	accepted, err := a.insert(ctx, slot, group)
	switch {
	case err == nil:
		if a.s.options.Events.Synced != nil {
			a.s.options.Events.Synced(time.Since(began))
		}
	case len(group) > 1 && database.IsDislike(err):
		a.accept(ctx, slot, group[:len(group)/2])
		a.accept(ctx, slot, group[len(group)/2:])
		return
	default:
		for _, e := range group {
			e.finish(spool.Receipt{}, database.Refuse(err))
		}
		return
	}
	a.answer(ctx, group, accepted)
}

// admit returns those of a group for which there is room, and refuses the others.
func (a *acceptor) admit(ctx context.Context, group []*entry) []*entry {
	costs := make([]int64, len(group))
	for i, e := range group {
		costs[i] = e.cost()
	}
	refusals := a.s.room.Admit(ctx, costs)
	if refusals == nil {
		return group
	}
	admitted := make([]*entry, 0, len(group)) // the group is to be released as a whole
	for i, e := range group {
		if refusals[i] != nil {
			e.finish(spool.Receipt{}, refusals[i])
		} else {
			admitted = append(admitted, e)
		}
	}
	return admitted
}

// answer tells the senders of a group what became of it.
func (a *acceptor) answer(ctx context.Context, group []*entry, accepted map[int64]spool.ID) {
	var others []*entry
	touched := make(map[string]int32)

	for _, e := range group {
		id, ok := accepted[e.random]
		if !ok {
			others = append(others, e)
			continue
		}
		a.note(id)

		touched[e.msg.Route] = e.route
		at := record.ReceivedAt(id)
		e.msg.ID, e.msg.State, e.msg.ReceivedAt, e.msg.ScheduledFrom = id, spool.Pending, at, at
		e.finish(spool.Receipt{ID: id, Size: e.body.Size()}, nil)
	}

	for name, route := range touched {
		a.s.changed(name)
		a.s.hints.Give(route)
	}
	if len(others) > 0 {
		a.answerOthers(ctx, others)
	}
}

func (a *acceptor) note(id spool.ID) {
	a.mu.Lock()
	a.floor = max(a.floor, record.Tick(id))
	a.mu.Unlock()
}

const originalsSQL = `SELECT fingerprint, id FROM @schema@.fingerprints
	WHERE fingerprint = ANY($1::uuid[])`

// answerOthers finds the originals of duplicates. A lane that was made for one of them has nothing
// in it, or something else than what it says: it is told what its next message is, or goes.
func (a *acceptor) answerOthers(ctx context.Context, others []*entry) {
	var lanes lockedLanes
	var prints [][16]byte
	for _, e := range others {
		lanes.add(lane{e.route, e.lane()}, nil) // what is leased is seen to when its lease ends
		prints = append(prints, [16]byte(e.fingerprint[:16]))
	}
	originals := make(map[[16]byte]spool.Receipt)
	err := a.s.db.TransactAnew(ctx, database.Quick, func() { clear(originals) },
		database.SQL(lockClaimsSQL, lanes.routes, lanes.keys, lanes.claims),
		database.SQL(refreshSQL, lanes.routes, lanes.keys, lanes.claims),
		database.SQL(originalsSQL, prints).Each(func(rows pgx.Rows) error {
			var print, id [16]byte
			err := rows.Scan(&print, &id)
			originals[print] = spool.Receipt{Duplicate: true, ID: id}
			return err
		}))
	for _, e := range others {
		receipt, ok := originals[[16]byte(e.fingerprint[:16])]
		switch {
		case err != nil:
			e.finish(spool.Receipt{}, database.Refuse(err))
		case !ok || e.fingerprint == spool.Fingerprint{}:
			e.finish(spool.Receipt{}, &spool.RefusedError{
				Reason: spool.ReasonWrite, RetryAfter: database.RetryAfter, Err: bodies.ErrSwept,
			})
		default:
			receipt.Size = e.body.Size() // which is the same
			e.finish(receipt, nil)
		}
	}
}

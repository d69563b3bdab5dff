// Accepting: senders that wait share one statement and one commit.

package postgres

import (
	"context"
	"encoding/binary"
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

// insertSQL accepts a group. Lanes are locked in their order, then fingerprints in theirs, so that
// two groups never wait for each other. A lane may be made for a message that turns out to be a
// duplicate: see answerOthers.
//
// What is large stays in its array until it is inserted, so that it is not copied from one step to
// the next.
//
// An id is made of the time, of which a lane never gives out the same again, nor an earlier one;
// see tick. A lane that is made anew does not know what it gave out before it went, so it asks the
// clock when it is made, and not when the statement begins, which may have waited for other lanes.
const insertSQL = `
WITH input AS MATERIALIZED (
	SELECT * FROM unnest($1::integer[], $2::bigint[], $3::bigint[], $4::bigint[], $5::uuid[],
		$6::interval[], $7::bigint[], $8::bigint[],
		$9::bigint[], $10::uuid[], $11::bigint[], $12::text[], $13::text[], $16::bigint[])
	WITH ORDINALITY AS i (route, lane, order_key, destination, fingerprint, span, size, cost,
		crc, pieces, request_key, request_id, account, random, place)
), clock AS MATERIALIZED (
	SELECT clock_timestamp() AS at
), held AS MATERIALIZED (
	SELECT body FROM @schema@.uploads WHERE body = ANY($18::uuid[]) ORDER BY body FOR UPDATE
), offered AS MATERIALIZED (
	SELECT route, lane, destination, place, random, fingerprint, size, span,
		row_number() OVER (PARTITION BY route, lane ORDER BY place) AS nth
	FROM input WHERE pieces IS NULL OR pieces IN (SELECT body FROM held)
), line AS (
	INSERT INTO @schema@.lanes AS l (route, key, last, added, class, due, scheduled, destination)
	SELECT o.route, o.lane,
		greatest(floor(extract(epoch FROM clock_timestamp()) * 4096000)::bigint, $17::bigint)
			+ count(*), count(*), 0, c.at, c.at, (array_agg(o.destination ORDER BY o.place))[1]
	FROM offered o CROSS JOIN clock c GROUP BY o.route, o.lane, c.at ORDER BY o.route, o.lane
	ON CONFLICT (route, key) DO UPDATE SET last = greatest(l.last
		+ excluded.added, excluded.last), added = excluded.added
	RETURNING route, key, last - added AS base
), numbered AS MATERIALIZED (
	SELECT o.place, o.fingerprint, o.size, o.span,
		(lpad(to_hex((line.base + o.nth) >> 12), 12, '0') || '7' || lpad(to_hex((line.base
			+ o.nth) & 4095), 3, '0') || to_hex(o.random))::uuid AS id
	FROM offered o JOIN line ON line.route = o.route AND line.key = o.lane
), fresh AS (
	INSERT INTO @schema@.fingerprints AS f (fingerprint, id, at, size)
	SELECT n.fingerprint, n.id, c.at, n.size FROM numbered n CROSS JOIN clock c
		WHERE n.fingerprint IS NOT NULL ORDER BY n.fingerprint
	ON CONFLICT (fingerprint) DO UPDATE SET id = excluded.id, at = excluded.at,
		size = excluded.size, renewed = f.renewed + 1
	WHERE f.at <= excluded.at - (SELECT i.span FROM input i
		WHERE i.fingerprint = excluded.fingerprint)
	RETURNING fingerprint, renewed
), kept AS (
	INSERT INTO @schema@.messages (id, route, lane, order_key, destination, size, cost, crc, pieces,
		request_key, request_id, account,
		meta, body, scheduled_from)
	SELECT n.id, i.route, i.lane, i.order_key, i.destination, i.size, i.cost, i.crc, i.pieces,
		i.request_key, i.request_id, i.account,
		($14::bytea[])[i.place], ($15::bytea[])[i.place], c.at
	FROM numbered n JOIN input i ON i.place = n.place CROSS JOIN clock c
	WHERE n.fingerprint IS NULL OR n.fingerprint IN (SELECT fingerprint FROM fresh)
	RETURNING id, route, size, cost, pieces
), arrived AS (
	DELETE FROM @schema@.uploads WHERE body IN (SELECT pieces FROM kept WHERE pieces IS NOT NULL)
), tally AS (
	INSERT INTO @schema@.counts AS t (gateway, slot, route, pending, pending_bytes, cost,
		fingerprints)
	SELECT $19::uuid, $20::integer, k.route, count(*), sum(k.size), sum(k.cost), 0 FROM kept k
		GROUP BY k.route
	UNION ALL
	SELECT $19::uuid, $20::integer, 0, 0, 0, 0, count(*) FROM fresh WHERE renewed = 0
	ORDER BY 3
	ON CONFLICT (gateway, slot, route) DO UPDATE SET pending = t.pending + excluded.pending,
		pending_bytes = t.pending_bytes + excluded.pending_bytes, cost = t.cost + excluded.cost,
		fingerprints = t.fingerprints + excluded.fingerprints
)
SELECT id FROM kept`

// insert returns the ids of what was accepted by the random part that was asked for.
func (a *acceptor) insert(
	ctx context.Context, slot int, group []*entry,
) (map[int64]spool.ID, error) {
	args, err := a.arguments(ctx, slot, group)
	if err != nil {
		return nil, err
	}
	accepted := make(map[int64]spool.ID, len(group))
	err = a.s.db.InsertOnly(ctx, database.Quick, func() { clear(accepted) },
		database.SQL(insertSQL, args...).Each(func(rows pgx.Rows) error {
			var id [16]byte
			if err := rows.Scan(&id); err != nil {
				return err
			}
			accepted[int64(binary.BigEndian.Uint64(id[8:]))] = id
			return nil
		}))
	return accepted, err
}

func (a *acceptor) arguments(
	ctx context.Context, slot int, group []*entry,
) (list []any, err error) {
	n := len(group)
	var (
		routes       = make([]int32, n)
		lanes        = make([]int64, n)
		orderKeys    = make([]int64, n)
		destinations = make([]int64, n)
		fingerprints = make([]*[16]byte, n)
		spans        = make([]time.Duration, n)
		sizes        = make([]int64, n)
		costs        = make([]int64, n)
		crcs         = make([]int64, n)
		pieces       = make([]*[16]byte, n)
		requestKeys  = make([]int64, n)
		requestIDs   = make([]string, n)
		accounts     = make([]string, n)
		metas        = make([][]byte, n)
		contents     = make([][]byte, n)
		randoms      = make([]int64, n)
		uploads      = [][16]byte{}
	)
	for i, e := range group {
		if e.route, err = a.s.routes.number(ctx, e.msg.Route); err != nil {
			return nil, err
		}
		routes[i], destinations[i] = e.route, int64(e.msg.Destination)
		lanes[i], orderKeys[i] = e.lane(), int64(e.msg.OrderKey)
		if e.fingerprint != (spool.Fingerprint{}) {
			fingerprints[i] = (*[16]byte)(e.fingerprint[:])
		}
		spans[i], sizes[i], costs[i] = e.window, e.body.Size(), e.cost()
		crcs[i], pieces[i] = int64(e.body.CRC()), e.body.Name()
		if pieces[i] != nil {
			uploads = append(uploads, *pieces[i])
		}
		requestKeys[i] = record.RequestKey(e.msg.RequestID)
		requestIDs[i], accounts[i] = record.Clean(e.msg.RequestID), record.Clean(e.msg.User)
		metas[i], contents[i], randoms[i] = e.meta, e.body.Inline(), e.random
	}
	a.mu.Lock()
	floor := a.floor + 1
	a.mu.Unlock()
	return []any{
		routes, lanes, orderKeys, destinations, fingerprints, spans, sizes, costs, crcs,
		pieces, requestKeys, requestIDs, accounts,
		metas, contents, randoms, floor, uploads, a.s.id, slot,
	}, nil
}

// lane is where the message waits: one that waits for nobody has a lane of its own.
func (e *entry) lane() int64 {
	if e.msg.OrderKey == 0 {
		return e.random
	}
	return int64(e.msg.OrderKey)
}

func (e *entry) cost() int64 { return e.body.Size() + int64(len(e.meta)) + record.Overhead }

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
	var (
		routes []int32
		lanes  []int64
		prints [][16]byte
	)
	for _, e := range others {
		routes, lanes = append(routes, e.route), append(lanes, e.lane())
		prints = append(prints, [16]byte(e.fingerprint[:16]))
	}
	free := make([]*[16]byte, len(lanes)) // what is leased is seen to when its lease ends
	originals := make(map[[16]byte]spool.Receipt)
	err := a.s.db.TransactAnew(ctx, database.Quick, func() { clear(originals) },
		database.SQL(lockClaimsSQL, routes, lanes, free),
		database.SQL(refreshSQL, routes, lanes, free),
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

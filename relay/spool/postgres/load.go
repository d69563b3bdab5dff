// What the courier takes at once: the statements for what was settled and for what is leased.

package postgres

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/postgres/counts"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/postgres/database"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/postgres/record"
)

type load struct {
	s        *Store
	done     []settled
	asked    []*leaseRequest
	suspects [][16]byte
	began    time.Time

	leased [][]*held
	broken []broken
	next   []time.Duration
	at     time.Time
}

// broken is what was leased and has a record that cannot be read.
type broken struct {
	*held
	cause error
}

// send sends it all in one transaction.
func (l *load) send(ctx context.Context) error {
	var statements []database.Statement
	if len(l.suspects) > 0 {
		statements = append(statements, database.SQL(dismissSQL, l.suspects))
	}
	if len(l.done) > 0 {
		more, err := l.settle()
		if err != nil {
			return err
		}
		statements = append(statements, more...)
	}
	for i := range l.asked {
		statements = append(statements, l.lease(i)...)
	}
	return l.s.db.TransactAnew(ctx, database.Quick, l.begin, statements...)
}

// begin forgets what was leased in a transaction that was rolled back.
func (l *load) begin() {
	l.leased, l.next = make([][]*held, len(l.asked)), make([]time.Duration, len(l.asked))
	l.broken = nil
	for i := range l.next {
		l.next[i] = -1
	}
}

// dismissSQL ends leases that nobody knows to have.
const dismissSQL = `UPDATE @schema@.lanes SET claim = NULL, holder = NULL, head = NULL, due = now()
	WHERE claim = ANY($1::uuid[])`

// What becomes of a message, as a number for the database.
const (
	verdictNone = iota
	verdictForget
	verdictRetry
	verdictBury
	verdictKeep
)

// settleSQL has the messages be what the settlements say, where the lease still is what it was. A
// message that is to be forgotten is, whatever the settlement says.
const settleSQL = `
WITH s AS MATERIALIZED (
	SELECT s.* FROM unnest($1::integer[], $2::bigint[], $3::uuid[], $4::uuid[], $5::smallint[],
		$6::integer[], $7::interval[], $8::text[], $9::text[])
		AS s (route, key, claim, id, verdict, tries, delay, attempts, last_error)
	JOIN @schema@.lanes l ON l.route = s.route AND l.key = s.key AND l.claim = s.claim
), gone AS (
	DELETE FROM @schema@.messages m USING s WHERE m.id = s.id AND (m.state = 3 OR m.state = 0
		AND s.verdict = 1)
	RETURNING m.route, m.size, m.cost, m.pieces
), cut AS (
	DELETE FROM @schema@.pieces p USING gone WHERE p.body = gone.pieces
), moved AS (
	UPDATE @schema@.messages m SET tries = s.tries, attempts = s.attempts::jsonb,
		last_error = s.last_error,
		state = CASE s.verdict WHEN 3 THEN 1 WHEN 4 THEN 2 ELSE 0 END,
		next_at = CASE WHEN s.verdict = 2 THEN now() + s.delay END,
		ended_at = CASE WHEN s.verdict > 2 THEN now() END
	FROM s WHERE m.id = s.id AND m.state = 0 AND s.verdict > 1
	RETURNING m.route, m.size, m.state
), changes (route, pending, pending_bytes, dead, dead_bytes, delivered, delivered_bytes, cost) AS (
	SELECT route, -1, -size, 0, 0::bigint, 0, 0::bigint, -cost FROM gone
	UNION ALL SELECT route, -1, -size, 1, size, 0, 0, 0 FROM moved WHERE state = 1
	UNION ALL SELECT route, -1, -size, 0, 0, 1, size, 0 FROM moved WHERE state = 2
)` + counts.TallySQL + ` SELECT $10::uuid, $11::integer, route, sum(pending), sum(pending_bytes),
	sum(dead), sum(dead_bytes), sum(delivered), sum(delivered_bytes), sum(cost)
FROM changes GROUP BY route ORDER BY route` + counts.TallyConflictSQL

// settle returns the statements that record what was settled.
func (l *load) settle() ([]database.Statement, error) {
	n := len(l.done)
	var (
		routes   = make([]int32, n)
		keys     = make([]int64, n)
		claims   = make([][16]byte, n)
		ids      = make([][16]byte, n)
		verdicts = make([]int16, n)
		tries    = make([]int32, n)
		delays   = make([]time.Duration, n)
		attempts = make([]*string, n)
		errors   = make([]string, n)
	)
	for i, d := range l.done {
		routes[i], keys[i], claims[i], ids[i] = d.route, d.key, d.claim, d.id
		delays[i], verdicts[i] = max(d.Delay, 0), verdictOf(d.Settlement)
		if verdicts[i] <= verdictForget {
			continue
		}
		after := *d.message
		after.AddAttempt(d.Attempt)
		text, err := record.EncodeAttempts(after.Attempts)
		if err != nil {
			return nil, err
		}
		tries[i], attempts[i], errors[i] = int32(after.Tries), text, after.LastError
	}
	return []database.Statement{
		database.SQL(lockClaimsSQL, routes, keys, claims),
		database.SQL(settleSQL, routes, keys, claims, ids, verdicts, tries, delays, attempts, errors,
			l.s.id, courierSlot),
		database.SQL(refreshSQL, routes, keys, claims),
	}, nil
}

func verdictOf(s spool.Settlement) int16 {
	switch {
	case s.Verdict == spool.Done && s.Keep:
		return verdictKeep
	case s.Verdict == spool.Done:
		return verdictForget
	case s.Verdict == spool.Retry:
		return verdictRetry
	case s.Verdict == spool.Bury:
		return verdictBury
	}
	return verdictNone
}

// choice writes how a lane is chosen: of which class, how many, and in which direction of the order
// in which they are due.
type choice func(class, room, direction string) string

// chooseDue chooses lanes of a class in the order in which they are due. What another one is about
// to claim is left to it.
func chooseDue(class, room, direction string) string {
	return `SELECT x.route, x.key FROM @schema@.lanes x
	WHERE EXISTS (SELECT FROM @schema@.routes r WHERE r.id = $1 AND NOT r.paused)
		AND x.route = $1::integer AND x.class = ` + class + `::smallint AND x.due <= now()
	ORDER BY x.due ` + direction + ` LIMIT ` + room + ` FOR UPDATE OF x SKIP LOCKED`
}

// chooseElsewhere does so for the destinations within ranges, of which each is looked at for
// itself, so that a million for a destination that is to be avoided take no time.
func chooseElsewhere(class, room, direction string) string {
	return `SELECT x.route, x.key FROM (
		SELECT e.key, e.due FROM unnest($8::bigint[], $9::bigint[]) AS g (low, high) CROSS
			JOIN LATERAL (
			SELECT x.key, x.due FROM @schema@.lanes x
			WHERE x.route = $1::integer AND x.class = ` + class + `::smallint
				AND x.destination BETWEEN g.low AND g.high AND x.due <= now()
			ORDER BY x.destination ` + direction + `, x.due ` + direction + `
			LIMIT $4::integer
		) e ORDER BY e.due ` + direction + ` LIMIT $4::integer
	) c JOIN @schema@.lanes x ON x.route = $1 AND x.key = c.key
	WHERE x.due <= now() AND EXISTS (SELECT FROM @schema@.routes r WHERE r.id = $1 AND NOT r.paused)
	ORDER BY c.due ` + direction + ` LIMIT ` + room + ` FOR UPDATE OF x SKIP LOCKED`
}

// claimSQL claims lanes of two classes, one after the other: those of what was never replayed, then
// those of what was. What is left of the room is never less than nothing: where a lane has changed
// since the statement began, PostgreSQL evaluates parts of it again, and counts differently.
func claimSQL(choose choice, direction string) string {
	return `
WITH a AS MATERIALIZED (` + choose("$2", "$4::integer", direction) + `),
b AS MATERIALIZED (` + choose(
		"$3", "greatest($4::integer - (SELECT count(*) FROM a), 0)", direction,
	) + `)
UPDATE @schema@.lanes l SET claim = $5::uuid, holder = $6::uuid, head = NULL, due = now()
	+ $7::interval
FROM (SELECT * FROM a UNION ALL SELECT * FROM b) p WHERE l.route = p.route AND l.key = p.key`
}

// claims are the statements by whether destinations are avoided and the newest come first.
var claims = map[[2]bool]string{
	{false, false}: claimSQL(chooseDue, "ASC"),
	{false, true}:  claimSQL(chooseDue, "DESC"),
	{true, false}:  claimSQL(chooseElsewhere, "ASC"),
	{true, true}:   claimSQL(chooseElsewhere, "DESC"),
}

func leaseMax(limit int) int { return min(max(limit, 0), maxLeased) }

// headsSQL leases the first message of each lane that was claimed. A lane in which there is none is
// left without.
const headsSQL = `
WITH h AS MATERIALIZED (
	SELECT l.route, l.key, m.* FROM @schema@.lanes l CROSS JOIN LATERAL (
		SELECT ` + record.Columns + `, m.crc, m.body, m.pieces` + headSQL + `
	) m WHERE l.claim = $1
), u AS (
	UPDATE @schema@.lanes l SET head = h.id FROM h WHERE l.route = h.route AND l.key = h.key
)
SELECT h.*, now() FROM h`

// leaveEmptySQL forgets claimed lanes in which nothing waits.
const leaveEmptySQL = `DELETE FROM @schema@.lanes WHERE claim = $1 AND head IS NULL`

// nextSQL says how long it takes until a lane is due, or somebody else's lease is over.
const nextSQL = `
SELECT extract(epoch FROM min(d.due) - now())::float8 FROM unnest('{0,1,2,3}'::smallint[])
	AS c (class) CROSS JOIN LATERAL (
	SELECT x.due FROM @schema@.lanes x
	WHERE x.route = $1::integer AND x.class = c.class AND x.due > now() AND x.due < 'infinity'
		AND (x.claim IS NULL OR x.holder <> $2)
	ORDER BY x.due LIMIT 1
) d WHERE EXISTS (SELECT FROM @schema@.routes r WHERE r.id = $1 AND NOT r.paused)`

// lease returns the statements for a request.
func (l *load) lease(i int) []database.Statement {
	r := l.asked[i]
	class := int16(0)
	if r.Tried {
		class = 1
	}
	avoids := len(r.Avoid) > 0
	args := []any{r.route, class, class + 2, leaseMax(r.Max), r.claim, l.s.id, l.s.options.Lease}
	if avoids {
		low, high := gaps(r.Avoid)
		args = append(args, low, high)
	}
	return []database.Statement{
		database.SQL(claims[[2]bool{avoids, r.Newest && !r.Tried}], args...),
		database.SQL(headsSQL, r.claim).Each(func(rows pgx.Rows) error { return l.read(i, rows) }),
		database.SQL(leaveEmptySQL, r.claim),
		database.SQL(nextSQL, r.route, l.s.id).Each(func(rows pgx.Rows) error {
			var seconds *float64
			if err := rows.Scan(&seconds); err != nil || seconds == nil {
				return err
			}
			l.next[i] = time.Duration(min(*seconds, 1e6) * float64(time.Second))
			return nil
		}),
	}
}

// gaps returns the ranges between the destinations and hosts that are to be avoided, with their
// ends. One of them is in two at some place, so that it is not always the same destination which
// comes first.
func gaps(avoid spool.Destinations) (low, high []int64) {
	starts := make([]spool.Destination, 0, len(avoid))
	for d := range avoid {
		starts = append(starts, d)
	}
	slices.SortFunc(starts, func(a, b spool.Destination) int {
		return cmp.Compare(int64(a), int64(b))
	})
	from, split := int64(math.MinInt64), int64(rand.Uint64())
	add := func(from, to int64) {
		if from <= split && split < to {
			low, high = append(low, split+1), append(high, to)
			to = split
		}
		low, high = append(low, from), append(high, to)
	}
	for _, d := range starts {
		first, last := int64(d), int64(d)
		if d == d.Host() {
			last = int64(d | 0xffffffff) // all destinations of the host
		}
		if from < first {
			add(from, first-1)
		}
		if last == math.MaxInt64 {
			return low, high
		}
		from = max(from, last+1)
	}
	add(from, math.MaxInt64)
	return low, high
}

// read reads a leased message.
func (l *load) read(i int, rows pgx.Rows) error {
	h := &held{
		claim: l.asked[i].claim, route: l.asked[i].route, lost: make(chan struct{}),
		renewed: l.began,
	}
	m := &record.Row{}
	var crc int64
	var content []byte
	var pieces *[16]byte
	targets := append([]any{nil, &h.key}, m.Targets()...)
	targets = append(targets, &crc, &content, &pieces, &l.at)
	if err := rows.Scan(targets...); err != nil {
		return err
	}
	msg, err := m.Message(l.asked[i].Route)
	h.id, h.message, h.crc = msg.ID, msg, uint32(crc)
	if err != nil {
		l.broken = append(l.broken, broken{h, err})
		return nil
	}
	if pieces == nil && int64(len(content)) == msg.Size {
		h.body = content
		if content == nil {
			h.body = []byte{}
		}
	}
	l.leased[i] = append(l.leased[i], h)
	return nil
}

// deliver hands out what was leased, and says what can be leased after what was settled.
func (l *load) deliver() {
	for i, r := range l.asked {
		answer := leaseAnswer{leased: spool.Leased{Next: l.next[i]}}
		for _, h := range l.leased[i] {
			l.s.leases.add(h)
			lease := &spool.Lease{Message: h.copy(), At: l.at, Lost: h.lost, Token: h}
			answer.leased.Leases = append(answer.leased.Leases, lease)
		}
		r.answer <- answer
		if len(l.leased[i]) == maxLeased && r.Max > maxLeased {
			l.s.changed(r.Route)
		}
	}
	for _, b := range l.broken {
		l.bury(b)
	}
	touched := make(map[string]int32)
	for _, d := range l.done {
		touched[d.message.Route] = d.route
	}
	for name, route := range touched {
		l.s.changed(name)
		if l.s.closed.Load() {
			l.s.hints.GiveNow(l.s.ctx, route)
		}
	}
}

// bury makes a dead letter of what cannot be read, so that it does not stop others and an operator
// finds it.
func (l *load) bury(b broken) {
	l.s.problem(fmt.Errorf("%w; it is a dead letter now", b.cause))
	l.s.courier.settle(b.held, spool.Settlement{
		Verdict: spool.Bury,
		Attempt: spool.Attempt{At: l.at, Error: b.cause.Error()},
	})
}

// fail tells those who wait.
func (l *load) fail(err error) {
	for _, r := range l.asked {
		r.answer <- leaseAnswer{spool.Leased{Next: -1}, database.Refuse(err)}
	}
}

func (h *held) copy() *spool.Message {
	copied := *h.message
	copied.Attempts = slices.Clone(h.message.Attempts)
	return &copied
}

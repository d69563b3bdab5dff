// Upkeep: being seen by the other gateways, and removing what nobody needs, a little at a time.

package postgres

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/postgres/counts"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/postgres/database"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/postgres/record"
)

const (
	// maxBeatPause is the most time from being seen to being seen again.
	maxBeatPause = 5 * time.Second

	tidyPause = 30 * time.Second

	// leaveTime is how long closing waits for the other gateways to be told.
	leaveTime = 2 * time.Second

	// bulk is how much is removed in one transaction.
	bulk = 1000

	// forEver is how far back fingerprints are kept as long as nobody has said how far.
	forEver = 100 * 365 * 24 * time.Hour
)

// upkeep runs until ctx ends.
func (s *Store) upkeep(ctx context.Context) {
	// A gateway that was not seen for as long as leases last is taken for gone.
	beat := time.NewTicker(min(maxBeatPause, s.options.Lease/3))
	defer beat.Stop()
	tidy := time.NewTicker(tidyPause + rand.N(tidyPause/10))
	defer tidy.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-beat.C:
			if s.db.Ready() == nil {
				s.beat(ctx)
			}
		case <-tidy.C:
			if s.db.Ready() == nil {
				s.tidy(ctx)
			}
		}
	}
}

const beatSQL = `
INSERT INTO @schema@.gateways AS g (id, name, version, since, seen, live_streams, leases,
	prints_for)
VALUES ($1, $2, $3, now() - $4::interval, now(), $5, $6, $7)
ON CONFLICT (id) DO UPDATE SET seen = now(), live_streams = excluded.live_streams,
	leases = excluded.leases, prints_for = excluded.prints_for`

func (s *Store) beatStatement() database.Statement {
	return database.SQL(beatSQL,
		s.id, record.Clean(s.options.Name), record.Clean(s.options.Version), time.Since(s.since),
		s.liveStreams(), s.leases.count(), time.Duration(s.printsFor.Load()))
}

// beat has this gateway seen.
func (s *Store) beat(ctx context.Context) {
	_ = s.db.Query(ctx, database.Quick, s.beatStatement())
}

// leave has this gateway seen no more.
func (s *Store) leave(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, leaveTime)
	defer cancel()
	leave := database.SQL(`DELETE FROM @schema@.gateways WHERE id = $1`, s.id)
	_ = s.db.Query(ctx, database.Quick, leave)
}

func (s *Store) liveStreams() int {
	if s.options.Events.LiveStreams == nil {
		return 0
	}
	return s.options.Events.LiveStreams()
}

const gatewaysSQL = `SELECT id, name, version, since, seen, live_streams, leases
	FROM @schema@.gateways ORDER BY name, since`

// Gateways implements spool.Shared.
func (s *Store) Gateways(ctx context.Context) ([]spool.Gateway, error) {
	if err := s.enter(ctx); err != nil {
		return nil, err
	}
	s.beat(ctx)
	list := []spool.Gateway{}
	err := s.db.Query(ctx, database.Slow, database.SQL(gatewaysSQL).Each(func(rows pgx.Rows) error {
		var id [16]byte
		var g spool.Gateway
		err := rows.Scan(
			&id, &g.Name, &g.Version, &g.Since, &g.LastSeen, &g.LiveStreams, &g.Leases)
		g.Self = id == s.id
		list = append(list, g)
		return err
	}))
	return list, err
}

// printsSQL forgets fingerprints that no gateway needs any more.
const printsSQL = `
WITH old AS (
	SELECT fingerprint FROM @schema@.fingerprints
	WHERE at < now() - (SELECT greatest(max(prints_for), $1::interval) FROM @schema@.gateways)
	ORDER BY at LIMIT 1000 FOR UPDATE SKIP LOCKED
), gone AS (
	DELETE FROM @schema@.fingerprints f USING old WHERE f.fingerprint = old.fingerprint RETURNING 1
), tally AS (
	INSERT INTO @schema@.counts AS t (gateway, slot, route, fingerprints)
		SELECT $2::uuid, $3::integer, 0, -count(*) FROM gone
	ON CONFLICT (gateway, slot, route) DO UPDATE SET fingerprints = t.fingerprints
		+ excluded.fingerprints
)
SELECT count(*) FROM gone`

// uploadsSQL removes bodies that never were accepted: nothing has come of them for long, or their
// gateway is gone.
const uploadsSQL = `
WITH old AS (
	SELECT u.body FROM @schema@.uploads u LEFT JOIN @schema@.gateways g ON g.id = u.gateway
		AND g.seen > now() - interval '10 minutes'
	WHERE u.at < now() - interval '1 hour' OR u.at < now() - interval '10 minutes' AND g.id IS NULL
	LIMIT 10 FOR UPDATE OF u SKIP LOCKED
), cut AS (
	DELETE FROM @schema@.pieces p USING old WHERE p.body = old.body
), gone AS (
	DELETE FROM @schema@.uploads u USING old WHERE u.body = old.body RETURNING 1
)
SELECT count(*) FROM gone`

// doomedSQL forgets messages that were to be forgotten at the end of a delivery whose gateway died.
const doomedSQL = `
WITH old AS MATERIALIZED (
	SELECT m.id FROM @schema@.routes r CROSS JOIN LATERAL (
		SELECT m.id, m.lane, m.route FROM @schema@.messages m
		WHERE m.route = r.id AND m.state BETWEEN 3::smallint AND 3::smallint
		ORDER BY m.state, m.id LIMIT 1000
	) m WHERE NOT EXISTS (SELECT FROM @schema@.lanes l WHERE l.route = m.route AND l.key = m.lane
		AND l.head = m.id)
), gone AS (
	DELETE FROM @schema@.messages m USING old WHERE m.id = old.id AND m.state = 3
		RETURNING m.route, m.size, m.cost, m.pieces
), cut AS (
	DELETE FROM @schema@.pieces p USING gone WHERE p.body = gone.pieces
), tally AS (` + counts.TallySQL + `
	SELECT $1::uuid, $2::integer, route, -count(*), -sum(size), 0, 0, 0, 0, -sum(cost) FROM gone
		GROUP BY route ORDER BY route` + counts.TallyConflictSQL + `
)
SELECT count(*) FROM gone`

// goneSQL forgets gateways that nobody has seen for a day.
const goneSQL = `WITH gone AS (DELETE FROM @schema@.gateways WHERE seen < now() - interval '1 day'
	RETURNING 1) SELECT count(*) FROM gone`

// tidy removes what nobody needs. What another gateway is removing is left to it.
func (s *Store) tidy(ctx context.Context) {
	printsFor := time.Duration(s.printsFor.Load())
	s.sweep(ctx, bulk, database.SQL(printsSQL, printsFor, s.id, operatorSlot))
	s.sweep(ctx, 10, database.SQL(uploadsSQL))
	s.sweep(ctx, bulk, database.SQL(doomedSQL, s.id, operatorSlot))
	s.sweep(ctx, 100, database.SQL(counts.FoldSQL))
	s.sweep(ctx, bulk, database.SQL(goneSQL))
}

// sweep repeats a statement for as long as it finds all that it can take at once.
func (s *Store) sweep(ctx context.Context, most int64, removal database.Statement) {
	for {
		var n int64
		err := s.db.Transact(ctx, database.Slow, removal.Each(func(rows pgx.Rows) error {
			return rows.Scan(&n)
		}))
		if err != nil && ctx.Err() == nil && !database.IsAbsence(err) {
			s.db.Complain(err)
		}
		if err != nil || n < most {
			return
		}
	}
}

const forgetKeptSQL = `
WITH old AS MATERIALIZED (
	SELECT m.id FROM @schema@.routes r CROSS JOIN LATERAL (
		SELECT m.id FROM @schema@.messages m
		WHERE m.route = r.id AND m.state BETWEEN 2::smallint AND 2::smallint
		ORDER BY m.state, m.id LIMIT $3::integer
	) m ORDER BY m.id LIMIT $3::integer
), gone AS (
	DELETE FROM @schema@.messages m USING old WHERE m.id = old.id AND m.state = 2
		RETURNING m.route, m.size, m.cost, m.pieces
), cut AS (
	DELETE FROM @schema@.pieces p USING gone WHERE p.body = gone.pieces
), tally AS (` + counts.TallySQL + `
	SELECT $1::uuid, $2::integer, route, 0, 0, 0, 0, -count(*), -sum(size), -sum(cost) FROM gone
		GROUP BY route ORDER BY route` + counts.TallyConflictSQL + `
)
SELECT route, count(*) FROM gone GROUP BY route`

// forgetKept forgets the oldest of the delivered messages, and returns how many.
func (s *Store) forgetKept(ctx context.Context) (total int, err error) {
	gone := make(map[int32]int)
	err = s.db.TransactAnew(ctx, database.Quick, func() { clear(gone) },
		database.SQL(forgetKeptSQL, s.id, operatorSlot, 32).Each(func(rows pgx.Rows) error {
			var route int32
			var n int
			err := rows.Scan(&route, &n)
			gone[route] = n
			return err
		}))
	if err != nil {
		return 0, err
	}
	for number, n := range gone {
		total += n
		route, err := s.routes.name(ctx, number)
		if err == nil && s.options.Events.Evicted != nil {
			s.options.Events.Evicted(route, n)
		}
	}
	return total, nil
}

// Counts implements spool.Store.
func (s *Store) Counts(ctx context.Context) (spool.Counts, error) {
	all := spool.Counts{Routes: make(map[string]spool.RouteCounts), MaxBytes: s.room.Max()}
	if err := s.enter(ctx); err != nil {
		return all, err
	}
	if since, refusal := s.db.State(); refusal != nil {
		all.Refusing, all.RefusingSince = spool.ReasonUnavailable, since
		return all, refusal
	}
	err := counts.Read(ctx, s.db, &all)
	if since := s.room.Refusing(all.Bytes); !since.IsZero() && all.MaxBytes > 0 {
		all.Refusing, all.RefusingSince = spool.ReasonFull, since
	}
	return all, err
}

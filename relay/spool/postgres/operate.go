// What an operator asks for: messages sent again, dropped, expired; routes paused.

package postgres

import (
	"cmp"
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/postgres/counts"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/postgres/database"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/postgres/record"
)

// makeLanesSQL makes the lanes of messages that are to be pending again.
const makeLanesSQL = `
INSERT INTO @schema@.lanes AS l (route, key, last, added, class, due, scheduled, destination)
SELECT DISTINCT m.route, m.lane, floor(extract(epoch FROM clock_timestamp()) * 4096000)::bigint, 0,
	2, now(), now(), 0
FROM @schema@.messages m WHERE m.id = ANY($1::uuid[]) ORDER BY m.route, m.lane
ON CONFLICT (route, key) DO NOTHING`

const replaySQL = `
WITH was AS MATERIALIZED (
	SELECT m.id, m.state FROM @schema@.messages m WHERE m.id = ANY($1::uuid[])
		AND m.state = ANY($2::smallint[]) ORDER BY m.id FOR UPDATE
), again AS (
	UPDATE @schema@.messages m SET state = 0, tries = 0, scheduled_from = now(), next_at = NULL,
		ended_at = NULL, replayed = m.replayed OR was.state <> 0
	FROM was WHERE m.id = was.id RETURNING m.route, m.size, was.state
), changes (route, pending, pending_bytes, dead, dead_bytes, delivered, delivered_bytes) AS (
	SELECT route, 1, size, -1, -size, 0, 0::bigint FROM again WHERE state = 1
	UNION ALL SELECT route, 1, size, 0, 0, -1, -size FROM again WHERE state = 2
), tally AS (` + counts.TallySQL + `
	SELECT $3::uuid, $4::integer, route, sum(pending), sum(pending_bytes), sum(dead),
		sum(dead_bytes), sum(delivered), sum(delivered_bytes), 0
	FROM changes GROUP BY route ORDER BY route` + counts.TallyConflictSQL + `
)
SELECT route FROM again`

// replay makes messages in some states pending with a fresh schedule, and returns how many.
func (s *Store) replay(ctx context.Context, ids [][16]byte, states []int16) (n int, err error) {
	touched := make(map[int32]bool)
	err = s.db.InTransaction(ctx, func(tx database.Conn) error {
		n = 0
		var lanes lockedLanes
		if err := tx.Run(ctx, database.SQL(makeLanesSQL, ids)); err != nil {
			return err
		}
		if err := lanes.lock(ctx, tx, ids); err != nil {
			return err
		}
		free := lanes.free(ids)
		if len(free) < len(ids) && len(ids) == 1 {
			return spool.ErrInFlight
		}
		replay := database.SQL(replaySQL, free, states, s.id, operatorSlot)
		err := tx.Run(ctx, replay.Each(func(rows pgx.Rows) error {
			var route int32
			if err := rows.Scan(&route); err != nil {
				return err
			}
			touched[route] = true
			n++
			return nil
		}))
		if err != nil {
			return err
		}
		return lanes.refresh(ctx, tx)
	})
	if err == nil {
		s.changedNumbers(ctx, touched)
	}
	return n, err
}

// changedNumbers tells everyone that messages of routes may be leasable.
func (s *Store) changedNumbers(ctx context.Context, touched map[int32]bool) {
	for route := range touched {
		if name, err := s.routes.name(ctx, route); err == nil {
			s.changed(name)
			s.hints.Give(route)
		}
	}
}

// Replay implements spool.Store.
func (s *Store) Replay(ctx context.Context, id spool.ID) error {
	if _, err := s.Get(ctx, id); err != nil {
		return err
	}
	n, err := s.replay(ctx, [][16]byte{id}, []int16{record.Pending, record.Dead, record.Delivered})
	if err != nil || n == 1 {
		return err
	}
	m, err := s.Get(ctx, id)
	if err == nil && m.State == spool.Pending {
		return spool.ErrInFlight // to be forgotten when its delivery ends
	}
	return cmp.Or(err, spool.ErrNotFound)
}

// maxReplayed is how many messages one transaction replays.
const maxReplayed = 200

// ReplayAll implements spool.Store.
func (s *Store) ReplayAll(
	ctx context.Context,
	filter spool.Filter,
) (replayed int, last spool.ID, done bool, err error) {
	if err := s.enter(ctx); err != nil {
		return 0, spool.ID{}, false, err
	}
	last = filter.After
	if filter.State == spool.Pending {
		return 0, last, true, nil
	}
	if filter.State == "" && filter.EndedFor == 0 {
		filter.EndedFor = time.Nanosecond // selects those that have ended
	}
	filter.Newest = false
	limit := cmp.Or(filter.Limit, spool.DefaultListLimit)
	for replayed < limit {
		filter.Limit = min(maxReplayed, limit-replayed)
		found, err := s.find(ctx, filter, false)
		if err != nil {
			return replayed, last, false, err
		}
		if len(found) > 0 {
			ids := make([][16]byte, len(found))
			for i, r := range found {
				ids[i] = r.ID
			}
			n, err := s.replay(ctx, ids, []int16{record.Dead, record.Delivered})
			if err != nil && !errors.Is(err, spool.ErrInFlight) {
				return replayed, last, false, err
			}
			replayed += n
			last = ids[len(ids)-1]
			filter.After = last
		}
		if len(found) < filter.Limit {
			return replayed, last, true, nil
		}
	}
	return replayed, last, false, nil
}

const (
	doomSQL = `UPDATE @schema@.messages SET state = 3 WHERE id = $1 AND state = 0`
	dropSQL = `
WITH gone AS (
	DELETE FROM @schema@.messages m WHERE m.id = ANY($1::uuid[]) AND m.state <> 3
		RETURNING ` + record.Columns + `, m.route, m.cost, m.pieces
), cut AS (
	DELETE FROM @schema@.pieces p USING gone WHERE p.body = gone.pieces
), changes (route, pending, pending_bytes, dead, dead_bytes, delivered, delivered_bytes, cost) AS (
	SELECT route, -1, -size, 0, 0::bigint, 0, 0::bigint, -cost FROM gone WHERE state = 0
	UNION ALL SELECT route, 0, 0, -1, -size, 0, 0, -cost FROM gone WHERE state = 1
	UNION ALL SELECT route, 0, 0, 0, 0, -1, -size, -cost FROM gone WHERE state = 2
), tally AS (` + counts.TallySQL + `
	SELECT $2::uuid, $3::integer, route, sum(pending), sum(pending_bytes), sum(dead),
		sum(dead_bytes), sum(delivered), sum(delivered_bytes), sum(cost)
	FROM changes GROUP BY route ORDER BY route` + counts.TallyConflictSQL + `
)
SELECT ` + record.Names + ` FROM gone ORDER BY id`
)

// drop forgets messages that are not leased, and returns them.
func (s *Store) drop(
	ctx context.Context, ids [][16]byte, doom bool,
) (dropped []*spool.Message, err error) {
	var gone []record.Row
	doomed := false
	err = s.db.InTransaction(ctx, func(tx database.Conn) error {
		gone, doomed = nil, false
		var lanes lockedLanes
		if err := lanes.lock(ctx, tx, ids); err != nil {
			return err
		}
		free := lanes.free(ids)
		if doom && len(free) < len(ids) {
			doomed = true
			return tx.Run(ctx, database.SQL(doomSQL, ids[0]))
		}
		drop := database.SQL(dropSQL, free, s.id, operatorSlot).Each(record.Collect(&gone))
		if err := tx.Run(ctx, drop); err != nil {
			return err
		}
		return lanes.refresh(ctx, tx)
	})
	if err == nil && doomed {
		err = spool.ErrInFlight
	}
	if err != nil {
		return nil, err
	}
	touched := make(map[int32]bool)
	for _, r := range gone {
		touched[r.Route] = true
	}
	s.changedNumbers(ctx, touched)
	return s.messages(ctx, gone)
}

// Drop implements spool.Store.
func (s *Store) Drop(ctx context.Context, id spool.ID) (*spool.Message, error) {
	m, err := s.Get(ctx, id)
	if err != nil {
		return nil, err
	}
	dropped, err := s.drop(ctx, [][16]byte{id}, true)
	switch {
	case errors.Is(err, spool.ErrInFlight):
		return m, err
	case err != nil:
		return nil, err
	case len(dropped) == 1:
		return dropped[0], nil
	}
	if m, err = s.Get(ctx, id); err == nil {
		return m, spool.ErrInFlight // to be forgotten already
	}
	return nil, err
}

// DropAll implements spool.Store.
func (s *Store) DropAll(ctx context.Context, filter spool.Filter) ([]*spool.Message, error) {
	if err := s.enter(ctx); err != nil {
		return nil, err
	}
	filter.Newest = false
	if filter.EndedFor > 0 {
		filter.After = spool.ID{}
	}
	found, err := s.find(ctx, filter, true)
	if err != nil || len(found) == 0 {
		return nil, err
	}
	ids := make([][16]byte, len(found))
	for i, r := range found {
		ids[i] = r.ID
	}
	return s.drop(ctx, ids, false)
}

const (
	oldLanesSQL = `
SELECT x.route, x.key, x.claim FROM @schema@.lanes x
WHERE x.route = $1::integer AND x.scheduled <= now() - $2::interval
	AND x.due <= now() AND EXISTS (SELECT FROM @schema@.routes r WHERE r.id = $1 AND NOT r.paused)
ORDER BY x.scheduled LIMIT $3::bigint FOR UPDATE OF x SKIP LOCKED`
	expireSQL = `
WITH l AS MATERIALIZED (
	SELECT * FROM unnest($1::integer[], $2::bigint[]) AS l (route, key)
), h AS MATERIALIZED (
	SELECT m.id FROM l CROSS JOIN LATERAL (SELECT m.id, m.scheduled_from,
		m.next_at` + headSQL + `) m
	WHERE m.scheduled_from <= now() - $3::interval AND (m.next_at IS NULL OR m.next_at <= now())
), dead AS (
	UPDATE @schema@.messages m SET state = 1, ended_at = now(), next_at = NULL,
		last_error = CASE m.last_error WHEN '' THEN $4 ELSE m.last_error END
	FROM h WHERE m.id = h.id AND m.state = 0 RETURNING ` + record.Columns + `, m.route
), tally AS (` + counts.TallySQL + `
	SELECT $5::uuid, $6::integer, route, -count(*), -sum(size), count(*), sum(size), 0, 0, 0
		FROM dead GROUP BY route ORDER BY route` + counts.TallyConflictSQL + `
)
SELECT ` + record.Names + ` FROM dead ORDER BY id`
)

// Expire implements spool.Store.
func (s *Store) Expire(
	ctx context.Context, route string, age time.Duration, lastError string, limit int,
) ([]*spool.Message, error) {
	if err := s.enter(ctx); err != nil {
		return nil, err
	}
	number, ok, err := s.routes.find(ctx, route)
	if err != nil || !ok {
		return nil, err
	}
	var dead []record.Row
	err = s.db.InTransaction(ctx, func(tx database.Conn) error {
		dead = nil
		lanes, err := lockOldLanes(ctx, tx, number, age, limit)
		if err != nil || len(lanes.keys) == 0 {
			return err
		}
		expire := database.SQL(expireSQL, lanes.routes, lanes.keys, age,
			spool.ClipError(lastError), s.id, operatorSlot)
		if err := tx.Run(ctx, expire.Each(record.Collect(&dead))); err != nil {
			return err
		}
		return lanes.refresh(ctx, tx)
	})
	if err != nil {
		return nil, err
	}
	if len(dead) > 0 {
		s.changed(route) // what waited behind them
		s.hints.Give(number)
	}
	return s.messages(ctx, dead)
}

func lockOldLanes(
	ctx context.Context, tx database.Conn, route int32, age time.Duration, limit int,
) (lanes lockedLanes, err error) {
	lock := database.SQL(oldLanesSQL, route, age, limit)
	err = tx.Run(ctx, lock.Each(func(rows pgx.Rows) error {
		var at lane
		var claim *[16]byte
		err := rows.Scan(&at.route, &at.key, &claim)
		lanes.add(at, claim)
		return err
	}))
	return lanes, err
}

// Pause implements spool.Store.
func (s *Store) Pause(ctx context.Context, route string, paused bool) error {
	if err := s.enter(ctx); err != nil {
		return err
	}
	number, err := s.routes.number(ctx, route)
	if err != nil {
		return err
	}
	err = s.db.Transact(ctx, database.Slow,
		database.SQL(`UPDATE @schema@.routes SET paused = $2 WHERE id = $1`, number, paused))
	if err == nil && !paused {
		s.changed(route)
		s.hints.Give(number)
	}
	return err
}

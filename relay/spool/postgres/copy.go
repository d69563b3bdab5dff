// How messages leave for another store, and come from one.

package postgres

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/postgres/bodies"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/postgres/database"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/postgres/record"
)

const exportSQL = `SELECT ` + record.Columns + ` FROM @schema@.messages m WHERE m.id > $1
	ORDER BY m.id LIMIT $2::bigint`

// Export implements [spool.Portable].
func (s *Store) Export(ctx context.Context, after spool.ID, limit int) ([]spool.Exported, error) {
	if err := s.enter(ctx); err != nil {
		return nil, err
	}
	var found []record.Row
	err := s.db.TransactAnew(ctx, database.Slow, func() { found = nil },
		database.SQL(exportSQL, [16]byte(after), limit).Each(record.Collect(&found)))
	if err != nil {
		return nil, err
	}
	page := make([]spool.Exported, 0, len(found))
	for i := range found {
		route, err := s.routes.name(ctx, found[i].Route)
		if err != nil {
			return nil, err
		}
		m, damage := found[i].Message(route)
		page = append(page, spool.Exported{
			Message: m, Err: damage, Doomed: found[i].Doomed(),
		})
	}
	return page, nil
}

// An imported message is remembered as a fingerprint, which is its id, of a time to come.
const missingSQL = `
SELECT i.id FROM unnest($1::uuid[]) AS i (id)
WHERE NOT EXISTS (SELECT FROM @schema@.messages m WHERE m.id = i.id)
	AND NOT EXISTS (SELECT FROM @schema@.fingerprints f WHERE f.fingerprint = i.id)`

// Missing implements [spool.Portable].
func (s *Store) Missing(ctx context.Context, ids []spool.ID) ([]spool.ID, error) {
	if err := s.enter(ctx); err != nil {
		return nil, err
	}
	asked := make([][16]byte, len(ids))
	for i, id := range ids {
		asked[i] = id
	}
	var missing []spool.ID
	err := s.db.TransactAnew(ctx, database.Slow, func() { missing = nil },
		database.SQL(missingSQL, asked).Each(func(rows pgx.Rows) error {
			var id [16]byte
			err := rows.Scan(&id)
			missing = append(missing, id)
			return err
		}))
	return missing, err
}

const (
	lockUploadsSQL = `SELECT body FROM @schema@.uploads WHERE body = ANY($1::uuid[])
		ORDER BY body FOR UPDATE`

	// importLanesSQL makes and locks the lanes of what will be pending, so that ids that they give
	// out later are higher.
	importLanesSQL = `
INSERT INTO @schema@.lanes AS l (route, key, last, added, class, due, scheduled, destination)
SELECT i.route, i.lane, max(i.tick), 0, 0, now(), now(), 0
FROM unnest($1::integer[], $2::bigint[], $3::bigint[]) AS i (route, lane, tick)
GROUP BY i.route, i.lane ORDER BY i.route, i.lane
ON CONFLICT (route, key) DO UPDATE SET last = greatest(l.last, excluded.last)
RETURNING route, key, claim, claim IS NOT NULL AND due > now()`

	importSQL = `
WITH input AS MATERIALIZED (
	SELECT * FROM unnest($1::uuid[], $2::integer[], $3::bigint[], $4::bigint[], $5::bigint[],
		$6::bigint[], $7::bigint[], $8::bigint[], $9::bigint[], $10::uuid[], $11::integer[],
		$12::smallint[], $13::boolean[], $14::timestamptz[], $15::timestamptz[],
		$16::timestamptz[], $17::text[], $18::text[], $19::text[], $20::text[])
	WITH ORDINALITY AS i (id, route, lane, order_key, destination, request_key, size, cost, crc,
		pieces, tries, state, replayed, scheduled_from, next_at, ended_at, request_id, account,
		last_error, attempts, place)
), fresh AS (
	INSERT INTO @schema@.fingerprints (fingerprint, id, at, size)
	SELECT i.id, i.id, now() + interval '30 days', 0 FROM input i
	WHERE NOT EXISTS (SELECT FROM @schema@.messages m WHERE m.id = i.id) ORDER BY i.id
	ON CONFLICT (fingerprint) DO NOTHING
	RETURNING fingerprint
), kept AS (
	INSERT INTO @schema@.messages (id, route, lane, order_key, destination, request_key, size, cost,
		crc, pieces, tries, state, replayed, scheduled_from, next_at, ended_at, request_id,
		account, last_error, attempts, meta, body)
	SELECT i.id, i.route, i.lane, i.order_key, i.destination, i.request_key, i.size, i.cost,
		i.crc, i.pieces, i.tries, i.state, i.replayed, i.scheduled_from, i.next_at, i.ended_at,
		i.request_id, i.account, i.last_error, i.attempts::jsonb,
		($21::bytea[])[i.place], ($22::bytea[])[i.place]
	FROM input i JOIN fresh ON fresh.fingerprint = i.id
	RETURNING id, route, state, size, cost, pieces
), arrived AS (
	DELETE FROM @schema@.uploads WHERE body IN (SELECT pieces FROM kept WHERE pieces IS NOT NULL)
), tally AS (
	INSERT INTO @schema@.counts AS t (gateway, slot, route, pending, pending_bytes, dead,
		dead_bytes, delivered, delivered_bytes, cost, fingerprints)
	SELECT $23::uuid, $24::integer, route,
		count(*) FILTER (WHERE state = 0), coalesce(sum(size) FILTER (WHERE state = 0), 0),
		count(*) FILTER (WHERE state = 1), coalesce(sum(size) FILTER (WHERE state = 1), 0),
		count(*) FILTER (WHERE state = 2), coalesce(sum(size) FILTER (WHERE state = 2), 0),
		sum(cost), 0
	FROM kept GROUP BY route
	UNION ALL SELECT $23::uuid, $24::integer, 0, 0, 0, 0, 0, 0, 0, 0, count(*) FROM fresh
	ORDER BY 3
	ON CONFLICT (gateway, slot, route) DO UPDATE SET pending = t.pending + excluded.pending,
		pending_bytes = t.pending_bytes + excluded.pending_bytes, dead = t.dead + excluded.dead,
		dead_bytes = t.dead_bytes + excluded.dead_bytes,
		delivered = t.delivered + excluded.delivered,
		delivered_bytes = t.delivered_bytes + excluded.delivered_bytes,
		cost = t.cost + excluded.cost, fingerprints = t.fingerprints + excluded.fingerprints
)
SELECT id, route FROM kept`
)

// Import implements [spool.Portable].
func (s *Store) Import(
	ctx context.Context, messages []spool.Imported,
) (kept []spool.ID, err error) {
	defer func() {
		took := make(map[spool.ID]bool, len(kept))
		for _, id := range kept {
			took[id] = true
		}
		for _, m := range messages {
			if w, ok := m.Body.(*bodies.Writer); ok && took[m.ID] {
				w.Keep()
			} else {
				m.Body.Discard()
			}
		}
	}()
	if err := s.enter(ctx); err != nil {
		return nil, err
	}
	input, err := s.importInput(ctx, messages)
	if err != nil {
		return nil, err
	}
	touched := make(map[int32]bool)
	err = s.db.InTransaction(ctx, func(tx database.Conn) error {
		kept = nil
		clear(touched)
		return input.run(ctx, tx, s.id, func(id spool.ID, route int32) {
			kept = append(kept, id)
			touched[route] = true
		})
	})
	if err != nil {
		return nil, err
	}
	s.changedNumbers(ctx, touched)
	return kept, nil
}

// importInput is what is imported, column by column.
type importInput struct {
	uploads [][16]byte
	lanes   lanesInput
	columns []any
}

type lanesInput struct {
	routes []int32
	keys   []int64
	ticks  []int64
}

func (in *importInput) run(
	ctx context.Context, tx database.Conn, gateway [16]byte, kept func(id spool.ID, route int32),
) error {
	uploads := 0
	lock := database.SQL(lockUploadsSQL, in.uploads)
	err := tx.Run(ctx, lock.Each(func(pgx.Rows) error { uploads++; return nil }))
	if err != nil {
		return err
	}
	if uploads < len(in.uploads) {
		return bodies.ErrSwept
	}
	lanes, err := in.lockLanes(ctx, tx)
	if err != nil {
		return err
	}
	insert := database.SQL(importSQL, append(in.columns, gateway, operatorSlot)...)
	err = tx.Run(ctx, insert.Each(func(rows pgx.Rows) error {
		var id [16]byte
		var route int32
		if err := rows.Scan(&id, &route); err != nil {
			return err
		}
		kept(id, route)
		return nil
	}))
	if err != nil {
		return err
	}
	return lanes.refresh(ctx, tx)
}

// lockLanes returns those lanes that nobody has leased: of the others, whoever has them sees to what
// is next.
func (in *importInput) lockLanes(ctx context.Context, tx database.Conn) (lockedLanes, error) {
	var lanes lockedLanes
	lock := database.SQL(importLanesSQL, in.lanes.routes, in.lanes.keys, in.lanes.ticks)
	err := tx.Run(ctx, lock.Each(func(rows pgx.Rows) error {
		var at lane
		var claim *[16]byte
		var leased bool
		if err := rows.Scan(&at.route, &at.key, &claim, &leased); err != nil {
			return err
		}
		if !leased {
			lanes.add(at, claim)
		}
		return nil
	}))
	return lanes, err
}

func (s *Store) importInput(
	ctx context.Context, messages []spool.Imported,
) (*importInput, error) {
	in := &importInput{uploads: [][16]byte{}, lanes: lanesInput{[]int32{}, []int64{}, []int64{}}}
	var (
		ids                                      [][16]byte
		routes, tries                            []int32
		lanes, orderKeys, destinations, requests []int64
		sizes, costs, crcs                       []int64
		pieces                                   []*[16]byte
		states                                   []int16
		replayed                                 []bool
		scheduled                                []time.Time
		nextAt, endedAt                          []*time.Time
		requestIDs, accounts, errs               []string
		attempts                                 []*string
		metas, contents                          [][]byte
	)
	for _, m := range messages {
		w, ok := m.Body.(*bodies.Writer)
		if !ok {
			return nil, fmt.Errorf("a body of type %T is not of this store", m.Body)
		}
		if err := w.Finish(); err != nil {
			return nil, err
		}
		route, err := s.routes.number(ctx, m.Route)
		if err != nil {
			return nil, err
		}
		history, err := record.EncodeAttempts(m.Attempts)
		if err != nil {
			return nil, err
		}
		lane := int64(m.OrderKey)
		if lane == 0 {
			lane = record.Random() // a lane of its own
		}
		if w.Name() != nil {
			in.uploads = append(in.uploads, *w.Name())
		}
		if m.State == spool.Pending {
			in.lanes.routes = append(in.lanes.routes, route)
			in.lanes.keys = append(in.lanes.keys, lane)
			in.lanes.ticks = append(in.lanes.ticks, record.Tick(m.ID))
		}
		meta := record.EncodeImportedMeta(m.Message)
		ids, routes, tries = append(ids, m.ID), append(routes, route), append(tries, int32(m.Tries))
		lanes, orderKeys = append(lanes, lane), append(orderKeys, int64(m.OrderKey))
		destinations = append(destinations, int64(m.Destination))
		requests = append(requests, record.RequestKey(m.RequestID))
		sizes = append(sizes, w.Size())
		costs = append(costs, w.Size()+int64(len(meta))+record.Overhead)
		crcs, pieces = append(crcs, int64(w.CRC())), append(pieces, w.Name())
		states, replayed = append(states, record.StateOf(m.State)), append(replayed, m.Replayed)
		scheduled = append(scheduled, m.ScheduledFrom)
		nextAt, endedAt = append(nextAt, orNull(m.NextAttemptAt)), append(endedAt, orNull(m.EndedAt()))
		requestIDs = append(requestIDs, record.Clean(m.RequestID))
		accounts = append(accounts, record.Clean(m.User))
		errs, attempts = append(errs, spool.ClipError(m.LastError)), append(attempts, history)
		metas, contents = append(metas, meta), append(contents, w.Inline())
	}
	in.columns = []any{
		ids, routes, lanes, orderKeys, destinations, requests, sizes, costs, crcs, pieces, tries,
		states, replayed, scheduled, nextAt, endedAt, requestIDs, accounts, errs, attempts, metas,
		contents,
	}
	return in, nil
}

func orNull(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

const (
	// exportPrintsSQL leaves out what was imported.
	exportPrintsSQL = `SELECT fingerprint, id, at FROM @schema@.fingerprints
		WHERE fingerprint > $1 AND fingerprint <> id ORDER BY fingerprint LIMIT 4096`

	importPrintsSQL = `
WITH fresh AS (
	INSERT INTO @schema@.fingerprints AS f (fingerprint, id, at, size)
	SELECT DISTINCT ON (i.fingerprint) i.fingerprint, i.id, i.at, 0
	FROM unnest($1::uuid[], $2::uuid[], $3::timestamptz[]) AS i (fingerprint, id, at)
	ORDER BY i.fingerprint, i.at DESC
	ON CONFLICT (fingerprint) DO UPDATE SET id = excluded.id, at = excluded.at,
		renewed = f.renewed + 1 WHERE f.at < excluded.at
	RETURNING renewed
)
INSERT INTO @schema@.counts AS t (gateway, slot, route, fingerprints)
SELECT $4::uuid, $5::integer, 0, count(*) FROM fresh WHERE renewed = 0
ON CONFLICT (gateway, slot, route) DO UPDATE
	SET fingerprints = t.fingerprints + excluded.fingerprints`
)

// ExportPrints implements [spool.Portable].
func (s *Store) ExportPrints(ctx context.Context, take func([]spool.Print) error) error {
	var after [16]byte
	for {
		if err := s.enter(ctx); err != nil {
			return err
		}
		var page []spool.Print
		err := s.db.TransactAnew(ctx, database.Slow, func() { page = nil },
			database.SQL(exportPrintsSQL, after).Each(func(rows pgx.Rows) error {
				var first, id [16]byte
				p := spool.Print{}
				err := rows.Scan(&first, &id, &p.At)
				copy(p.Fingerprint[:], first[:])
				p.ID = id
				page = append(page, p)
				return err
			}))
		if err != nil || len(page) == 0 {
			return err
		}
		if err := take(page); err != nil {
			return err
		}
		after = [16]byte(page[len(page)-1].Fingerprint[:16])
	}
}

// ImportPrints implements [spool.Portable].
func (s *Store) ImportPrints(ctx context.Context, prints []spool.Print) error {
	if err := s.enter(ctx); err != nil {
		return err
	}
	firsts, ids := make([][16]byte, len(prints)), make([][16]byte, len(prints))
	times := make([]time.Time, len(prints))
	for i, p := range prints {
		firsts[i], ids[i], times[i] = [16]byte(p.Fingerprint[:16]), p.ID, p.At
	}
	return s.db.Transact(ctx, database.Slow,
		database.SQL(importPrintsSQL, firsts, ids, times, s.id, operatorSlot))
}

var (
	_ spool.Portable = (*Store)(nil)
)

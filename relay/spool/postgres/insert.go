// The statement that accepts a group.

package postgres

import (
	"context"
	"encoding/binary"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/postgres/database"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/postgres/record"
)

// insertSQL accepts a group. Lanes are locked in their order, then fingerprints in theirs, so that
// two groups never wait for each other. A lane may be made for a message that turns out to be a
// duplicate: see answerOthers.
//
// What is large stays in its array until it is inserted, so that it is not copied from one step to
// the next.
//
// An id is made of the time, of which a lane never gives out the same again, nor an earlier one;
// see record.Tick. A lane that is made anew does not know what it gave out before it went, so it
// asks the clock when it is made, and not when the statement begins, which may have waited for other
// lanes.
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
	err = a.s.db.Insert(ctx, database.Quick, func() { clear(accepted) },
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

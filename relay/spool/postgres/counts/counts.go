// Package counts is how much there is in the database: what the gateways count, each in rows of its
// own, what that adds up to, and how much room there is for more.
//
// Counting is in counts.go, room in room.go.
package counts

import (
	"context"

	"github.com/jackc/pgx/v5"

	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/postgres/database"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/postgres/record"
)

// TallySQL and TallyConflictSQL, around a SELECT, add to what is counted.
const (
	TallySQL = `
INSERT INTO @schema@.counts AS t (gateway, slot, route, pending, pending_bytes, dead, dead_bytes,
	delivered, delivered_bytes, cost)`
	TallyConflictSQL = `
ON CONFLICT (gateway, slot, route) DO UPDATE SET pending = t.pending
	+ excluded.pending, pending_bytes = t.pending_bytes + excluded.pending_bytes,
	dead = t.dead + excluded.dead, dead_bytes = t.dead_bytes + excluded.dead_bytes,
	delivered = t.delivered + excluded.delivered, delivered_bytes = t.delivered_bytes
		+ excluded.delivered_bytes, cost = t.cost + excluded.cost`
)

// FoldSQL adds what gateways counted that are gone to one row for each route.
const FoldSQL = `
WITH old AS (
	SELECT t.gateway, t.slot, t.route FROM @schema@.counts t
	WHERE t.gateway <> '00000000-0000-0000-0000-000000000000' AND NOT EXISTS (SELECT
		FROM @schema@.gateways g WHERE g.id = t.gateway)
	LIMIT 100 FOR UPDATE SKIP LOCKED
), gone AS (
	DELETE FROM @schema@.counts t USING old WHERE t.gateway = old.gateway AND t.slot = old.slot
		AND t.route = old.route RETURNING t.*
), tally AS (
	INSERT INTO @schema@.counts AS t (gateway, slot, route, pending, pending_bytes, dead,
		dead_bytes, delivered, delivered_bytes, cost, fingerprints)
	SELECT '00000000-0000-0000-0000-000000000000', 0, route, sum(pending), sum(pending_bytes),
		sum(dead), sum(dead_bytes),
		sum(delivered), sum(delivered_bytes), sum(cost), sum(fingerprints) FROM gone GROUP BY route
			ORDER BY route
	ON CONFLICT (gateway, slot, route) DO UPDATE SET pending = t.pending
		+ excluded.pending, pending_bytes = t.pending_bytes + excluded.pending_bytes,
		dead = t.dead + excluded.dead, dead_bytes = t.dead_bytes + excluded.dead_bytes,
		delivered = t.delivered + excluded.delivered, delivered_bytes = t.delivered_bytes
			+ excluded.delivered_bytes,
		cost = t.cost + excluded.cost, fingerprints = t.fingerprints + excluded.fingerprints
)
SELECT count(*) FROM gone`

const countsSQL = `
WITH leased AS MATERIALIZED (
	SELECT l.route, l.due, l.head FROM @schema@.lanes l WHERE l.claim IS NOT NULL
)
SELECT c.route, r.name, coalesce(r.paused, false), c.pending, c.pending_bytes, c.dead, c.dead_bytes,
	c.delivered, c.delivered_bytes, c.cost, c.fingerprints,
	CASE WHEN c.pending > 0 THEN (SELECT min(o.id::text) FROM (SELECT m.id
		FROM unnest('{0,3}'::smallint[]) AS s (state) CROSS JOIN LATERAL (
		SELECT m.id FROM @schema@.messages m
		WHERE m.route = c.route AND m.state BETWEEN s.state AND s.state
		ORDER BY m.state, m.id LIMIT 1) m) o) END,
	(SELECT count(*) FROM leased l WHERE l.route = c.route AND l.due > now() AND l.head IS NOT NULL),
	(SELECT count(*) FROM (SELECT FROM unnest('{1,3}'::smallint[]) AS t (class) CROSS JOIN LATERAL (
		SELECT FROM @schema@.lanes l WHERE l.route = c.route AND l.class = t.class
		ORDER BY l.due LIMIT $1) l LIMIT $1) tried)
FROM (
	SELECT route, sum(pending)::bigint AS pending, sum(pending_bytes)::bigint
		AS pending_bytes, sum(dead)::bigint AS dead,
		sum(dead_bytes)::bigint AS dead_bytes, sum(delivered)::bigint
			AS delivered, sum(delivered_bytes)::bigint AS delivered_bytes,
		sum(cost)::bigint AS cost, sum(fingerprints)::bigint AS fingerprints
	FROM (SELECT * FROM @schema@.counts
		UNION ALL SELECT '00000000-0000-0000-0000-000000000000', 0, id, 0, 0, 0, 0, 0, 0, 0, 0
			FROM @schema@.routes) t
	GROUP BY route
) c LEFT JOIN @schema@.routes r ON r.id = c.route`

// Read adds up what all gateways have counted.
func Read(ctx context.Context, db *database.DB, into *spool.Counts) error {
	begin := func() { clear(into.Routes); into.Bytes, into.Fingerprints = 0, 0 }
	all := database.SQL(countsSQL, spool.MaxRetrying)
	return db.TransactAnew(ctx, database.Slow, begin, all.Each(func(rows pgx.Rows) error {
		return readRoute(rows, into)
	}))
}

func readRoute(rows pgx.Rows, into *spool.Counts) error {
	var route int32
	var name, oldest *string
	var c spool.RouteCounts
	var cost, prints int64
	err := rows.Scan(
		&route, &name, &c.Paused, &c.Pending, &c.PendingBytes, &c.Dead, &c.DeadBytes,
		&c.Delivered, &c.DeliveredBytes, &cost, &prints, &oldest, &c.InFlight, &c.Retrying)
	if err != nil {
		return err
	}
	into.Bytes += cost
	into.Fingerprints += prints
	if name == nil || c == (spool.RouteCounts{}) {
		return nil
	}
	if oldest != nil {
		if id, err := spool.ParseID(*oldest); err == nil {
			c.OldestPending = record.ReceivedAt(id)
		}
	}
	into.Routes[*name] = c
	return nil
}

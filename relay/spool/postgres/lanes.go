// Lanes: whoever changes what waits in them locks them, and has them say what is next.

package postgres

import (
	"context"
	"slices"

	"github.com/jackc/pgx/v5"

	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/postgres/database"
)

// lane names a lane.
type lane struct {
	route int32
	key   int64
}

// headSQL is the first pending message of each lane: the one with the lowest id.
const headSQL = ` FROM @schema@.messages m
	WHERE m.state = 0 AND m.route = l.route AND m.lane BETWEEN l.key AND l.key
	ORDER BY m.lane, m.id LIMIT 1`

// refreshSQL has lanes that are locked, with the claim given or none, say what is next in them. One
// in which nothing waits any more goes.
const refreshSQL = `
WITH l AS MATERIALIZED (
	SELECT l.route, l.key FROM unnest($1::integer[], $2::bigint[], $3::uuid[])
		AS s (route, key, claim)
	JOIN @schema@.lanes l ON l.route = s.route AND l.key = s.key
		AND l.claim IS NOT DISTINCT FROM s.claim
), h AS MATERIALIZED (
	SELECT l.route, l.key, m.* FROM l LEFT JOIN LATERAL (
		SELECT m.id, m.destination, m.scheduled_from, coalesce(m.next_at, m.scheduled_from) AS due,
			CASE WHEN m.replayed THEN 2 ELSE 0 END + CASE WHEN m.next_at IS NULL THEN 0 ELSE 1 END
				AS class` + headSQL + `
	) m ON true
), gone AS (
	DELETE FROM @schema@.lanes x USING h WHERE h.id IS NULL AND x.route = h.route AND x.key = h.key
)
UPDATE @schema@.lanes x SET claim = NULL, holder = NULL, head = NULL, class = h.class, due = h.due,
	scheduled = h.scheduled_from,
	destination = h.destination
FROM h WHERE h.id IS NOT NULL AND x.route = h.route AND x.key = h.key`

// lockClaimsSQL locks lanes with the claim given or none, such as those whose leases end, unless
// they ended otherwise.
const lockClaimsSQL = `
SELECT l.route, l.key FROM unnest($1::integer[], $2::bigint[], $3::uuid[]) AS s (route, key, claim)
JOIN @schema@.lanes l ON l.route = s.route AND l.key = s.key AND l.claim IS NOT DISTINCT FROM s.claim
ORDER BY l.route, l.key FOR UPDATE OF l`

// lockLanesSQL locks the lanes of messages, in their order, and says which of them are leased.
const lockLanesSQL = `
SELECT l.route, l.key, l.claim, l.claim IS NOT NULL AND l.due > now(), l.head FROM (
	SELECT DISTINCT m.route, m.lane FROM @schema@.messages m WHERE m.id = ANY($1::uuid[])
) m JOIN @schema@.lanes l ON l.route = m.route AND l.key = m.lane
ORDER BY l.route, l.key FOR UPDATE OF l`

// lockedLanes are lanes of which a transaction is in charge.
type lockedLanes struct {
	routes []int32
	keys   []int64
	claims []*[16]byte
	heads  map[spool.ID]bool // leased messages
}

// lock locks the lanes of messages, and leaves those to their holders that are leased.
func (l *lockedLanes) lock(ctx context.Context, tx database.Conn, ids [][16]byte) error {
	l.heads = make(map[spool.ID]bool)
	return tx.Run(ctx, database.SQL(lockLanesSQL, ids).Each(func(rows pgx.Rows) error {
		var at lane
		var claim, head *[16]byte
		var leased bool
		if err := rows.Scan(&at.route, &at.key, &claim, &leased, &head); err != nil {
			return err
		}
		switch {
		case !leased:
			l.add(at, claim)
		case head != nil: // whoever has the lane sees to it in the end
			l.heads[*head] = true
		}
		return nil
	}))
}

func (l *lockedLanes) add(at lane, claim *[16]byte) {
	l.routes, l.keys = append(l.routes, at.route), append(l.keys, at.key)
	l.claims = append(l.claims, claim)
}

// free returns those of messages that are not leased.
func (l *lockedLanes) free(ids [][16]byte) [][16]byte {
	return slices.DeleteFunc(slices.Clone(ids), func(id [16]byte) bool { return l.heads[id] })
}

// refresh has the lanes say what is next in them.
func (l *lockedLanes) refresh(ctx context.Context, tx database.Conn) error {
	return tx.Run(ctx, database.SQL(refreshSQL, l.routes, l.keys, l.claims))
}

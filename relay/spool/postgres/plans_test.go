//go:build unix

package postgres

import (
	"context"
	"crypto/rand"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-deepgram/deepgram-callback/internal/testpostgres"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/postgres/record"
)

// No statement may depend on what the planner believes of the tables: on a table that has grown
// since the statement was prepared, with statistics from when it was empty; and on one that is
// nearly empty, with statistics from when it was full.

// fillSQL puts many messages into a store without it, and keeps the database from collecting
// statistics.
const fillSQL = `
ALTER TABLE SCHEMA.messages SET (autovacuum_enabled = false); ALTER TABLE SCHEMA.lanes
	SET (autovacuum_enabled = false);
ALTER TABLE SCHEMA.fingerprints SET (autovacuum_enabled = false);
INSERT INTO SCHEMA.messages (id, route, lane, order_key, destination, request_key, size, cost, crc,
	state, scheduled_from, ended_at, request_id, account, meta, body)
SELECT ('01900000-' || lpad(to_hex(n / 65536), 4, '0') || '-7' || '000-8000-' || lpad(to_hex(n), 12,
	'0'))::uuid, 1, lane, lane, n % 3, n % 1000 + 1,
	0, 600, 0, state, now() - interval '1 hour',
		CASE WHEN state > 0 THEN now() - n * interval '1 millisecond' END, 'request ' || n % 1000,
		'', META, ''
FROM (SELECT n, CASE WHEN n % 2 = 0 THEN 1 ELSE n END AS lane, n % 3 AS state
	FROM generate_series(1, MANY) AS n) AS n;
INSERT INTO SCHEMA.lanes (route, key, last, added, class, due, scheduled, destination)
SELECT DISTINCT ON (lane) route, lane, 0, 0, 0, scheduled_from, scheduled_from, destination
	FROM SCHEMA.messages WHERE state = 0 ORDER BY lane, id ON CONFLICT DO NOTHING;
INSERT INTO SCHEMA.fingerprints (fingerprint, id, at, size) SELECT gen_random_uuid(), id, now(), 0
	FROM SCHEMA.messages;
INSERT INTO SCHEMA.counts (gateway, slot, route, pending, dead, delivered)
SELECT '00000000-0000-0000-0000-000000000000', 0, 1, count(*) FILTER (WHERE state = 0),
	count(*) FILTER (WHERE state = 1), count(*) FILTER (WHERE state = 2) FROM SCHEMA.messages`

// exercise does everything once or a few times, so that a statement which looks at all there is
// looks at much more than this.
func exercise(t *testing.T, s *Store) {
	ctx := context.Background()
	for i := range 8 {
		_, err := put(ctx, s, uint64(i%3), fmt.Sprint("text ", time.Now(), i))
		require.NoError(t, err)
		some := spool.Destinations{1: {}}
		all := spool.Destinations{0: {}, 1: {}, 2: {}}
		for _, request := range []spool.LeaseRequest{
			{}, {Newest: true}, {Tried: true}, {Avoid: some}, {Avoid: all},
			{Avoid: some, Newest: true}, {Avoid: all, Tried: true},
		} {
			request.Route, request.Max = "r", 4
			leased, err := s.Lease(ctx, request)
			require.NoError(t, err)
			for n, lease := range leased.Leases {
				s.Settle(
					lease,
					spool.Settlement{
						Verdict: spool.Verdict(n % 4),
						Keep:    n%2 == 0,
						Delay:   time.Hour,
					},
				)
			}
		}
		require.NoError(t, s.Flush(ctx))
		for _, filter := range []spool.Filter{
			{}, {Newest: true}, {State: spool.Dead},
			{State: spool.Delivered, Route: "r", Newest: true}, {State: spool.Pending},
			{RequestID: "request 7"},
			{RequestID: "none"}, {Since: time.Now().Add(-time.Minute), Limit: 5},
			{Until: time.Now(), Newest: true},
		} {
			filter.Limit = 5
			list, err := s.List(ctx, filter)
			require.NoError(t, err)
			if len(list) > 0 {
				_, err = s.Get(ctx, list[0].ID)
				require.NoError(t, err)
			}
		}
		_, err = s.Count(ctx, spool.Filter{RequestID: "request 7"})
		require.NoError(t, err)
		_, err = s.Counts(ctx)
		require.NoError(t, err)
		_, _, _, err = s.ReplayAll(ctx, spool.Filter{State: spool.Dead, Limit: 3})
		require.NoError(t, err)
		_, err = s.DropAll(
			ctx,
			spool.Filter{State: spool.Delivered, Route: "r", EndedFor: 10 * time.Hour, Limit: 3},
		)
		require.NoError(t, err)
		_, err = s.DropAll(ctx, spool.Filter{State: spool.Dead, Limit: 2})
		require.NoError(t, err)
		_, err = s.Expire(ctx, "r", 10*time.Hour, "old", 3)
		require.NoError(t, err)
		_, err = s.forgetKept(ctx)
		require.NoError(t, err)
		s.tidy(ctx)
		s.look(ctx, []int32{1})
		s.leases.renew(ctx)
	}
}

// endSessions has a store make its connections anew, as it does for a new password, which nobody
// asks for here. Sessions tell what they did when they end.
func endSessions(t *testing.T, s *Store, dsn string) {
	now := testpostgres.Scalar(t, dsn, `SELECT now()`)
	u, err := url.Parse(dsn)
	require.NoError(t, err)
	u.User = url.UserPassword(u.User.Username(), rand.Text())
	require.NoError(t, s.Reconfigure(&Module{dsn: u.String()}))
	const sessions = `SELECT count(*) FROM pg_stat_activity
		WHERE application_name = 'deepgram-callback' AND backend_type = 'client backend'
		AND query NOT LIKE 'LISTEN%' AND backend_start < `
	require.Eventually(t, func() bool {
		return testpostgres.Scalar(t, dsn, sessions+`'`+now+`'`) == "0"
	}, patience, 10*time.Millisecond)
}

// rowsRead returns how many rows were read of the large tables, by scans of all and by indexes; and
// how many pages of their indexes were, as a scan of an index passes over entries without reading
// their rows.
func rowsRead(t *testing.T, s *Store, dsn, schema string) (scanned, indexed, pages int) {
	endSessions(t, s, dsn)
	_, err := fmt.Sscan(
		testpostgres.Scalar(
			t,
			dsn,
			`SELECT sum(seq_tup_read) || ' ' || sum(idx_tup_fetch) FROM pg_stat_user_tables
		WHERE schemaname = '`+schema+`' AND relname IN ('messages', 'lanes', 'fingerprints',
			'pieces')`,
		),
		&scanned,
		&indexed,
	)
	require.NoError(t, err)
	_, err = fmt.Sscan(
		testpostgres.Scalar(
			t,
			dsn,
			`SELECT sum(idx_blks_read + idx_blks_hit) FROM pg_statio_user_tables
		WHERE schemaname = '`+schema+`' AND relname IN ('messages', 'lanes', 'fingerprints',
			'pieces')`,
		),
		&pages,
	)
	require.NoError(t, err)
	return scanned, indexed, pages
}

func TestPlansDoNotDependOnStatistics(t *testing.T) {
	many := 120_000
	if testing.Short() {
		many = 30_000
	}
	server := testpostgres.New(t)
	dsn, schema := server.DSN(), "inbox"
	s := openTest(t, dsn, Options{Schema: schema})
	requireFew := func(what string, mostPages int, f func()) {
		scanned, indexed, pages := rowsRead(t, s, dsn, schema)
		f()
		scannedAfter, indexedAfter, pagesAfter := rowsRead(t, s, dsn, schema)
		t.Logf(
			"%s: %d rows scanned, %d read by index, %d pages of indexes",
			what,
			scannedAfter-scanned,
			indexedAfter-indexed,
			pagesAfter-pages,
		)
		require.Less(t, scannedAfter-scanned, many/10, what)
		require.Less(t, indexedAfter-indexed, many/2, what)
		require.Less(t, pagesAfter-pages, mostPages, what)
	}
	// All statements are prepared while there is nothing.
	exercise(t, s)
	fill := strings.NewReplacer(
		"SCHEMA",
		schema,
		"MANY",
		fmt.Sprint(many),
		"META",
		fmt.Sprintf(`'\x%x'`, record.EncodeMeta(&spool.Message{Method: "POST"})),
	)
	testpostgres.Execute(t, dsn, fill.Replace(fillSQL))
	requireFew("grown since the statements were prepared", 20_000, func() {
		exercise(t, s)
	})
	testpostgres.Execute(
		t,
		dsn,
		`ANALYZE; DELETE FROM `+schema+`.messages; DELETE FROM `+schema+`.lanes; DELETE
			FROM `+schema+`.fingerprints; DELETE FROM `+schema+`.counts`,
	)
	// An index still has the entries of rows that are gone.
	requireFew("emptied, with statistics of when it was full", 80_000, func() {
		exercise(t, s)
	})
	require.NoError(t, s.Close(context.Background()))
}

//go:build unix

package postgres

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-deepgram/deepgram-callback/internal/testpostgres"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/postgres/bodies"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/postgres/database"
)

// newTestStore returns a store in a schema of its own, with what is needed to reach behind it.
func newTestStore(t testing.TB, options Options) (s *Store, dsn, schema string) {
	dsn = testpostgres.DSN(t)
	options.Schema = testpostgres.NewSchema(t, dsn)
	s = openTest(t, dsn, options)
	t.Cleanup(func() { _ = s.Close(context.Background()) })
	return s, dsn, options.Schema
}

func TestALeaseThatWentToAnotherChangesNothing(t *testing.T) {
	s, dsn, schema := newTestStore(t, Options{Lease: 2 * time.Second})
	for i := range 2 {
		_, err := put(context.Background(), s, uint64(i+1), fmt.Sprint(i))
		require.NoError(t, err)
	}
	leased := leaseSome(t, s, 2)
	testpostgres.Execute(
		t,
		dsn,
		`UPDATE `+schema+`.lanes SET claim = gen_random_uuid(), holder = gen_random_uuid(),
			due = now() + interval '1 hour'`,
	)

	// One is settled before the store has found out.
	s.Settle(leased[0], spool.Settlement{Verdict: spool.Done})
	require.NoError(t, s.Flush(context.Background()))
	m, err := s.Get(context.Background(), leased[0].Message.ID)
	require.NoError(t, err)
	require.Equal(t, spool.Pending, m.State)

	select {
	case <-leased[1].Lost:
	case <-time.After(patience):
		require.Fail(t, "nobody was told")
	}
	s.Settle(leased[1], spool.Settlement{Verdict: spool.Bury})
	require.NoError(t, s.Flush(context.Background()))
	require.Equal(
		t,
		"2",
		testpostgres.Scalar(t, dsn, `SELECT count(*) FROM `+schema+`.lanes WHERE claim IS NOT NULL`),
	)
	counts, err := s.Counts(context.Background())
	require.NoError(t, err)
	require.Equal(t, 2, counts.Routes["r"].InFlight)
}

func TestALeaseEndsByItselfWhereItCannotBeRenewed(t *testing.T) {
	server := testpostgres.New(t)
	s := openTest(t, server.DSN(), Options{Lease: time.Second})
	_, err := put(context.Background(), s, 1, "a")
	require.NoError(t, err)
	lease := leaseSome(t, s, 1)[0]
	server.Kill()
	select {
	case <-lease.Lost:
	case <-time.After(patience):
		require.Fail(t, "nobody was told")
	}
	require.NoError(t, server.Start())
	s.Settle(lease, spool.Settlement{Verdict: spool.Done})
	require.Equal(t, lease.Message.ID, leaseSome(t, s, 1)[0].Message.ID)
	require.NoError(t, s.Close(context.Background()))
}

func TestAGatewayNeedsNoRightToMakeTables(t *testing.T) {
	admin := testpostgres.DSN(t)
	schema := testpostgres.NewSchema(t, admin)
	role := "role_" + schema
	testpostgres.Execute(t, admin, `CREATE ROLE `+role+` LOGIN`)
	t.Cleanup(func() { testpostgres.Execute(t, admin, `DROP OWNED BY `+role+`; DROP ROLE `+role) })
	u, err := url.Parse(admin)
	require.NoError(t, err)
	u.User = url.User(role)

	problems := make(chan error, 100)
	s := openTest(
		t,
		u.String(),
		Options{
			Schema: schema,
			Events: spool.StoreEvents{Problem: func(err error) { problems <- err }},
		},
	)
	require.ErrorContains(t, <-problems, "spool schema")

	sql, err := database.Schema(schema)
	require.NoError(t, err)
	testpostgres.Execute(t, admin, sql+`; GRANT USAGE ON SCHEMA `+schema+` TO `+role+`;
		GRANT SELECT, INSERT, UPDATE,
			DELETE ON ALL TABLES IN SCHEMA `+schema+` TO `+role+`;
		GRANT USAGE ON ALL SEQUENCES IN SCHEMA `+schema+` TO `+role)
	require.Eventually(
		t,
		func() bool { _, err := put(context.Background(), s, 1, "a"); return err == nil },
		patience,
		10*time.Millisecond,
	)
	s.Settle(leaseSome(t, s, 1)[0], spool.Settlement{Verdict: spool.Done})
	require.NoError(t, s.Flush(context.Background()))
	s.tidy(context.Background())
	require.Empty(t, problems)
	require.NoError(t, s.Close(context.Background()))
}

func TestWhatCannotWorkIsAnErrorAtOnce(t *testing.T) {
	for name, c := range map[string]struct {
		dsn     string
		options Options
		want    string
	}{
		"a strange schema":    {"postgres://h/d", Options{Schema: `a"b`}, `schema "a\"b"`},
		"too few connections": {"postgres://h/d", Options{Connections: 2}, "2 connections are too few"},
		"a short lease":       {"postgres://h/d", Options{Lease: time.Millisecond}, "1ms is too short"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Open(context.Background(), c.dsn, c.options)
			require.ErrorContains(t, err, c.want)
		})
	}
}

func TestNothingShowsThePassword(t *testing.T) {
	const secret = "Gehe1m"
	for _, dsn := range []string{
		"postgres://user:" + secret + "@host:notaport/db",
		"postgres://user:" + secret + "/x:y@host/db", "postgres://user:a" + secret + "%zz@host/db",
		"user=u password='" + secret, "password=" + secret + " port=x", secret,
		"postgres://u:" + secret + "@h/d?sslmode=nonsense",
	} {
		_, err := Open(context.Background(), dsn, Options{})
		require.Error(t, err, dsn)
		require.NotContains(t, err.Error(), secret)
		require.NotContains(t, fmt.Sprintf("%+v %#v", err, err), secret)
	}

	problems := make(chan error, 100)
	var seen []error
	s := openTest(t, "postgres://user:"+secret+"@127.0.0.1:1/db", Options{
		Events: spool.StoreEvents{
			Problem:  func(err error) { problems <- err },
			Refusing: func(_ spool.Reason, _ bool, err error) { problems <- err },
		},
	})
	_, err := put(context.Background(), s, 1, "a")
	seen = append(seen, err, <-problems)
	_, err = s.Get(context.Background(), spool.ID{})
	seen = append(seen, err)
	for _, err := range seen {
		for ; err != nil; err = errors.Unwrap(err) {
			require.NotContains(t, err.Error(), secret)
		}
	}
	require.NoError(t, s.Close(context.Background()))
}

func TestWhatTheDatabaseDislikesIsRefusedAlone(t *testing.T) {
	s, dsn, schema := newTestStore(t, Options{})
	testpostgres.Execute(
		t,
		dsn,
		`ALTER TABLE `+schema+`.messages ADD CHECK (request_id <> 'poison'),
			ADD CHECK (last_error <> 'poison')`,
	)
	var senders sync.WaitGroup
	for i := range 20 {
		senders.Go(func() {
			w, err := s.NewBody(context.Background(), 0)
			if err != nil {
				t.Error(err)
				return
			}
			msg := &spool.Message{Route: "r", RequestID: fmt.Sprint(i), OrderKey: uint64(i + 1)}
			if i == 7 {
				msg.RequestID = "poison"
			}
			_, err = s.Accept(context.Background(), msg, spool.Fingerprint{byte(i + 1)}, time.Hour, w)
			if (err != nil) != (i == 7) {
				t.Error(i, err)
			}
		})
	}
	senders.Wait()
	leased := leaseSome(t, s, 19)
	for i, lease := range leased {
		attempt := spool.Attempt{Error: "fine"}
		if i == 3 {
			attempt.Error = "poison"
		}
		s.Settle(lease, spool.Settlement{Verdict: spool.Bury, Attempt: attempt})
	}
	require.NoError(t, s.Flush(context.Background()))
	counts, err := s.Counts(context.Background())
	require.NoError(t, err)
	require.Equal(t, int64(18), counts.Routes["r"].Dead)
}

func TestUpkeepRemovesWhatNobodyNeeds(t *testing.T) {
	s, dsn, schema := newTestStore(t, Options{})
	s.SetLimits(spool.Limits{Fingerprints: time.Hour})
	_, err := put(context.Background(), s, 1, "old")
	require.NoError(t, err)
	_, err = put(context.Background(), s, 2, "young")
	require.NoError(t, err)
	lease := leaseSome(t, s, 2)[0]
	_, err = s.Drop(context.Background(), lease.Message.ID)
	require.ErrorIs(t, err, spool.ErrInFlight)
	for range 2 { // one body that its gateway forgot, and one that is on its way
		w, err := s.NewBody(context.Background(), -1)
		require.NoError(t, err)
		_, err = w.Write(make([]byte, 3*bodies.PieceSize))
		require.NoError(t, err)
	}
	s.beat(context.Background())
	s.tidy(context.Background())
	count := func(table string) string {
		return testpostgres.Scalar(t, dsn, `SELECT count(*) FROM `+schema+`.`+table)
	}
	require.Equal(t, "2", count("fingerprints"))
	require.Equal(t, "2", count("uploads"))
	require.Equal(t, "6", count("pieces"))
	require.Equal(t, "2", count("messages"))

	testpostgres.Execute(
		t,
		dsn,
		`UPDATE `+schema+`.fingerprints SET at = at - interval '2 hours' WHERE id = (SELECT id
			FROM `+schema+`.messages ORDER BY id LIMIT 1);
		UPDATE `+schema+`.uploads SET at = at - interval '2 hours' WHERE body = (SELECT body
			FROM `+schema+`.uploads LIMIT 1);
		UPDATE `+schema+`.lanes SET claim = NULL, head = NULL, due = now();
		INSERT INTO `+schema+`.counts (gateway, slot, route, dead)
			VALUES (gen_random_uuid(), 0, 1, 5), (gen_random_uuid(), 0, 1, -2)`,
	)
	s.tidy(context.Background())
	require.Equal(t, "1", count("fingerprints"))
	require.Equal(t, "1", count("uploads"))
	require.Equal(t, "3", count("pieces"))
	require.Equal(t, "1", count("messages"))
	require.Equal(
		t,
		"0",
		testpostgres.Scalar(
			t,
			dsn,
			`SELECT count(*) FROM `+schema+`.counts c WHERE NOT EXISTS (SELECT
				FROM `+schema+`.gateways g WHERE g.id = c.gateway)
		AND c.gateway <> '00000000-0000-0000-0000-000000000000'`,
		),
	)
	counts, err := s.Counts(context.Background())
	require.NoError(t, err)
	require.Equal(t, int64(3), counts.Routes["r"].Dead)
	require.Equal(t, int64(1), counts.Routes["r"].Pending)
	require.Equal(t, int64(1), counts.Fingerprints)
}

func TestABodyThatWasSweptIsNotAccepted(t *testing.T) {
	s, dsn, schema := newTestStore(t, Options{})
	for _, more := range []int{0, bodies.PieceSize} {
		w, err := s.NewBody(context.Background(), -1)
		require.NoError(t, err)
		_, err = w.Write(make([]byte, 2*bodies.PieceSize+10))
		require.NoError(t, err)
		if more == 0 {
			require.NoError(t, w.(*bodies.Writer).Finish())
		}
		testpostgres.Execute(t, dsn, `TRUNCATE `+schema+`.uploads, `+schema+`.pieces`)
		if _, err = w.Write(make([]byte, more)); err == nil {
			_, err = s.Accept(
				context.Background(),
				&spool.Message{Route: "r"},
				spool.Fingerprint{1},
				time.Hour,
				w,
			)
		}
		var refused *spool.RefusedError
		require.ErrorAs(t, err, &refused)
	}
	n, err := s.Count(context.Background(), spool.Filter{})
	require.NoError(t, err)
	require.Zero(t, n)
	require.Empty(t, leaseNow(t, s))
}

func leaseNow(t testing.TB, s *Store) []*spool.Lease {
	leased, err := s.Lease(context.Background(), spool.LeaseRequest{Route: "r", Max: 64})
	require.NoError(t, err)
	return leased.Leases
}

func TestADamagedBodySaysSo(t *testing.T) {
	s, dsn, schema := newTestStore(t, Options{})
	small, err := put(context.Background(), s, 1, strings.Repeat("small", 10))
	require.NoError(t, err)
	large, err := put(context.Background(), s, 2, strings.Repeat("large", 200_000))
	require.NoError(t, err)
	testpostgres.Execute(
		t,
		dsn,
		`UPDATE `+schema+`.messages SET body = set_byte(body, 3, 0); UPDATE `+schema+`.pieces
			SET data = set_byte(data, 3, 0) WHERE n = 1`,
	)
	for _, id := range []spool.ID{small.ID, large.ID} {
		body, err := s.Body(context.Background(), id)
		require.NoError(t, err)
		buffer := make([]byte, 1000)
		for err == nil {
			_, err = body.Read(buffer)
		}
		require.ErrorIs(t, err, spool.ErrDamaged)
	}
	testpostgres.Execute(t, dsn, `DELETE FROM `+schema+`.pieces WHERE n = 3`)
	body, err := s.Body(context.Background(), large.ID)
	require.NoError(t, err)
	_, err = body.Seek(-1, 2)
	require.NoError(t, err)
	_, err = body.Read(make([]byte, 1))
	require.ErrorIs(t, err, spool.ErrDamaged)
}

func TestHintsReachTheOtherGateways(t *testing.T) {
	s, dsn, schema := newTestStore(t, Options{})
	other := openTest(t, dsn, Options{Schema: schema})
	defer func() { require.NoError(t, other.Close(context.Background())) }()
	told := make(chan string, 100)
	other.Watch(func(route string) { told <- route })
	// It leases nothing, so it does not look by itself. But it may not listen yet.
	n := 0
	require.Eventually(t, func() bool {
		n++
		_, err := put(context.Background(), s, 1, fmt.Sprint(n))
		require.NoError(t, err)
		select {
		case route := <-told:
			require.Equal(t, "r", route)
			return true
		case <-time.After(100 * time.Millisecond):
			return false
		}
	}, patience, time.Millisecond)
}

func TestAnIdleGatewayAsksLittle(t *testing.T) {
	server := testpostgres.New(t)
	// A role whose hints do not arrive.
	testpostgres.Execute(t, server.DSN(), `CREATE ROLE mute LOGIN;
		GRANT CREATE ON DATABASE postgres TO mute;
		REVOKE EXECUTE ON FUNCTION pg_notify(text, text) FROM public`)
	for _, role := range []string{"postgres", "mute"} {
		u, err := url.Parse(server.DSN())
		require.NoError(t, err)
		u.User = url.User(role)
		s := openTest(t, u.String(), Options{Schema: "of_" + role})
		_, err = put(context.Background(), s, 1, "a")
		require.NoError(t, err)
		s.Settle(leaseSome(t, s, 1)[0], spool.Settlement{Verdict: spool.Done})
		require.NoError(t, s.Flush(context.Background()))
		endSessions(t, s, u.String()) // what was before is not counted later
		const transactions = `SELECT sum(calls) FROM (SELECT xact_commit + xact_rollback AS calls
			FROM pg_stat_database WHERE datname = current_database()) c`
		var before, after float64
		_, _ = fmt.Sscan(testpostgres.Scalar(t, server.DSN(), transactions), &before)
		const seconds = 6
		<-time.After(seconds * time.Second)
		_, _ = fmt.Sscan(testpostgres.Scalar(t, server.DSN(), transactions), &after)
		rate := (after - before) / seconds
		t.Logf("%s: %.1f transactions a second", role, rate)
		require.LessOrEqual(t, rate, 5.0)
		require.NoError(t, s.Close(context.Background()))
	}
}

func TestGapsLeaveOutWhatIsToBeAvoided(t *testing.T) {
	for _, avoid := range [][]spool.Destination{
		{0}, {1, 2, 3}, {math.MaxUint64}, {1 << 63}, {1<<63 - 1}, {7 << 32, 7<<32 + 1, 7<<32 - 1},
		{5, 5, 1 << 63, 1<<63 - 1, math.MaxUint64, 0}, {1<<63 - 1<<32, math.MaxUint64 - 1<<32 + 1},
	} {
		set := make(spool.Destinations)
		for _, d := range avoid {
			set[d] = struct{}{}
		}
		for range 20 {
			low, high := gaps(set)
			covered := func(d spool.Destination) (n int) {
				for i := range low {
					if low[i] <= int64(d) && int64(d) <= high[i] {
						n++
					}
				}
				return n
			}
			for _, d := range append(
				avoid, 77, 4, 1<<63+5, 1<<63-7, math.MaxUint64-3, 7<<32+99, 6<<32, 8<<32,
			) {
				want := 1
				if set.Has(d) {
					want = 0
				}
				require.Equal(t, want, covered(d), "%x of %x", d, avoid)
			}
		}
	}
}

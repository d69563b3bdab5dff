//go:build unix

package postgres

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/caddy-deepgram/deepgram-callback/internal/testpostgres"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
)

// The database goes away in all the ways that it has.

const patience = 60 * time.Second

func put(ctx context.Context, s *Store, key uint64, text string) (spool.Receipt, error) {
	w, err := s.NewBody(ctx, -1)
	if err != nil {
		return spool.Receipt{}, err
	}
	if _, err := io.WriteString(w, text); err != nil {
		w.Discard()
		return spool.Receipt{}, err
	}
	return s.Accept(
		ctx,
		&spool.Message{Route: "r", Method: "POST", URI: "/", OrderKey: key},
		sha256.Sum256([]byte(text)),
		time.Hour,
		w,
	)
}

func isUnavailable(err error) bool {
	var refused *spool.RefusedError
	return errors.As(err, &refused) && refused.Reason == spool.ReasonUnavailable &&
		refused.RetryAfter > 0
}

func leaseSome(t testing.TB, s *Store, count int) (leased []*spool.Lease) {
	require.Eventually(t, func() bool {
		got, err := s.Lease(context.Background(), spool.LeaseRequest{Route: "r", Max: count})
		if err != nil {
			require.True(t, isUnavailable(err), "%v", err)
			return false
		}
		leased = append(leased, got.Leases...)
		return len(leased) >= count
	}, patience, 10*time.Millisecond)
	return leased
}

func TestOpenDoesNotNeedTheDatabase(t *testing.T) {
	server := testpostgres.New(t)
	server.Stop()
	var mu sync.Mutex
	var problems []error
	available := make(chan bool, 10)
	s := openTest(t, server.DSN(), Options{
		Events: spool.StoreEvents{
			Problem:  func(err error) { mu.Lock(); defer mu.Unlock(); problems = append(problems, err) },
			Refusing: func(_ spool.Reason, refusing bool, _ error) { available <- !refusing },
		},
	})
	for range 100 {
		began := time.Now()
		_, err := put(context.Background(), s, 1, "a")
		require.True(t, isUnavailable(err), "%v", err)
		require.Less(t, time.Since(began), time.Second, "nobody waits for it")
	}
	counts, err := s.Counts(context.Background())
	require.True(t, isUnavailable(err))
	require.Equal(t, spool.ReasonUnavailable, counts.Refusing)
	mu.Lock()
	require.NotEmpty(t, problems)
	require.Less(t, len(problems), 20, "each reason is told once, not each time")
	mu.Unlock()

	require.NoError(t, server.Start())
	require.Eventually(
		t,
		func() bool { _, err := put(context.Background(), s, 1, "a"); return err == nil },
		patience,
		10*time.Millisecond,
	)
	require.False(t, <-available)
	require.True(t, <-available)
	require.NoError(t, s.Close(context.Background()))
}

func TestClosingDoesNotNeedTheDatabase(t *testing.T) {
	server := testpostgres.New(t)
	s := openTest(t, server.DSN(), Options{})
	_, err := put(context.Background(), s, 1, "a")
	require.NoError(t, err)
	leaseSome(t, s, 1)
	server.Stop()
	began := time.Now()
	require.Error(t, s.Close(context.Background()), "the lease was not given back")
	require.Less(t, time.Since(began), 20*time.Second)
}

// sendThrough has senders send texts until each was answered with success, while something happens
// to the database.
func sendThrough(
	t *testing.T,
	s *Store,
	texts int,
	happens func(acknowledged func() int),
) map[string]spool.ID {
	var mu sync.Mutex
	ids := make(map[string]spool.ID)
	count := func() int {
		mu.Lock()
		defer mu.Unlock()
		return len(ids)
	}
	var senders sync.WaitGroup
	const many = 8
	for n := range many {
		senders.Go(func() {
			for i := range texts / many {
				text := fmt.Sprint(n, " ", i)
				for until := time.Now().Add(patience); ; {
					receipt, err := put(context.Background(), s, uint64(n+1), text)
					if err == nil {
						mu.Lock()
						ids[text] = receipt.ID
						mu.Unlock()
						break
					}
					if !isUnavailable(err) || time.Now().After(until) {
						t.Error(err)
						return
					}
					<-time.After(5 * time.Millisecond)
				}
			}
		})
	}
	happens(count)
	senders.Wait()
	return ids
}

// requireAll shows that each text was accepted once, and that all can be delivered, in order.
func requireAll(t *testing.T, s *Store, ids map[string]spool.ID) {
	var n int64
	var err error
	require.Eventually(t, func() bool { // it may just find out that the database was away
		n, err = s.Count(context.Background(), spool.Filter{})
		return !isUnavailable(err)
	}, patience, time.Millisecond)
	require.NoError(t, err)
	require.Equal(t, int64(len(ids)), n)
	counts, err := s.Counts(context.Background())
	require.NoError(t, err)
	require.Equal(t, int64(len(ids)), counts.Routes["r"].Pending)
	last := make(map[uint64]spool.ID)
	for range len(ids) {
		lease := leaseSome(t, s, 1)[0]
		require.Positive(t, lease.Message.ID.Compare(last[lease.Message.OrderKey]))
		last[lease.Message.OrderKey] = lease.Message.ID
		s.Settle(lease, spool.Settlement{Verdict: spool.Done})
	}
	require.NoError(t, s.Flush(context.Background()))
	counts, err = s.Counts(context.Background())
	require.NoError(t, err)
	require.Empty(t, counts.Routes, "nothing is in limbo")
}

func TestWhatWasAcceptedSurvivesACrashOfTheDatabase(t *testing.T) {
	server := testpostgres.New(t)
	s := openTest(t, server.DSN(), Options{})
	ids := sendThrough(t, s, 160, func(acknowledged func() int) {
		for _, enough := range []int{30, 80} {
			require.Eventually(
				t,
				func() bool { return acknowledged() >= enough },
				patience,
				time.Millisecond,
			)
			server.Kill()
			require.NoError(t, server.Start())
		}
	})
	require.Len(t, ids, 160)
	requireAll(t, s, ids)
	require.NoError(t, s.Close(context.Background()))
}

func TestConnectionsMayBeTerminated(t *testing.T) {
	dsn := testpostgres.New(t).DSN()
	s := openTest(t, dsn, Options{})
	ids := sendThrough(t, s, 160, func(acknowledged func() int) {
		for _, enough := range []int{20, 60, 100} {
			require.Eventually(
				t,
				func() bool { return acknowledged() >= enough },
				patience,
				time.Millisecond,
			)
			testpostgres.Execute(
				t,
				dsn,
				`SELECT pg_terminate_backend(pid) FROM pg_stat_activity
					WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()`,
			)
		}
	})
	requireAll(t, s, ids)
	require.NoError(t, s.Close(context.Background()))
}

func TestConnectionsThatBrokeWhileIdleRefuseNobody(t *testing.T) {
	dsn := testpostgres.New(t).DSN()
	s := openTest(t, dsn, Options{})
	for i := range 5 {
		_, err := put(context.Background(), s, 1, fmt.Sprint(i))
		if err != nil {
			require.True(t, isUnavailable(err))
			require.Eventually(
				t,
				func() bool { return s.db.Ready() == nil },
				patience,
				time.Millisecond,
			)
		}
		testpostgres.Execute(
			t,
			dsn,
			`SELECT pg_terminate_backend(pid) FROM pg_stat_activity
				WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()`,
		)
	}
	require.Eventually(
		t,
		func() bool { _, err := put(context.Background(), s, 1, "last"); return err == nil },
		patience,
		time.Millisecond,
	)
	require.NoError(t, s.Close(context.Background()))
}

func TestWhatWasSettledIsRecordedWhenTheDatabaseIsBack(t *testing.T) {
	server := testpostgres.New(t)
	s := openTest(t, server.DSN(), Options{})
	for i := range 4 {
		_, err := put(context.Background(), s, uint64(i+1), fmt.Sprint(i))
		require.NoError(t, err)
	}
	leased := leaseSome(t, s, 4)
	server.Kill()
	for i, verdict := range []spool.Verdict{spool.Done, spool.Bury, spool.Retry, spool.Return} {
		s.Settle(
			leased[i],
			spool.Settlement{
				Verdict: verdict,
				Delay:   time.Hour,
				Attempt: spool.Attempt{Error: "e"},
			},
		)
	}
	flushed := make(chan error, 1)
	go func() { flushed <- s.Flush(context.Background()) }()
	require.NoError(t, server.Start())
	require.NoError(t, <-flushed)
	var counts spool.Counts
	require.Eventually(t, func() bool { // it may just find out that the database was away
		var err error
		counts, err = s.Counts(context.Background())
		return err == nil
	}, patience, time.Millisecond)
	require.Equal(t, int64(1), counts.Routes["r"].Dead)
	require.Equal(t, int64(2), counts.Routes["r"].Pending)
	require.Zero(t, counts.Routes["r"].InFlight)
	require.Equal(t, leased[3].Message.ID, leaseSome(t, s, 1)[0].Message.ID)
	require.NoError(t, s.Close(context.Background()))
}

func tryToExecute(dsn, sql string) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(ctx) }()
	_, err = conn.Exec(ctx, sql)
	return err
}

func TestALockOfAnAdministratorLosesNothing(t *testing.T) {
	dsn := testpostgres.New(t).DSN()
	s := openTest(t, dsn, Options{})
	_, err := put(context.Background(), s, 1, "before")
	require.NoError(t, err)
	locked := make(chan struct{})
	go func() {
		defer close(locked)
		const sql = `BEGIN; LOCK TABLE deepgram_callback.messages,
			deepgram_callback.lanes IN ACCESS EXCLUSIVE MODE; SELECT pg_sleep(3); COMMIT`
		err := tryToExecute(dsn, sql)
		var deadlock *pgconn.PgError
		// Who locks tables may be the one whose deadlock is resolved.
		for errors.As(err, &deadlock) && deadlock.Code == "40P01" {
			err = tryToExecute(dsn, sql)
		}
		if err != nil {
			t.Error(err)
		}
	}()
	ids := sendThrough(t, s, 16, func(func() int) { <-locked })
	ids["before"] = spool.ID{}
	requireAll(t, s, ids)
	require.NoError(t, s.Close(context.Background()))
}

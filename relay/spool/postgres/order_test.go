//go:build unix

package postgres

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/caddy-deepgram/deepgram-callback/internal/testpostgres"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/postgres/bodies"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/postgres/counts"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/postgres/record"
)

// lockLane locks a lane, as a transaction does that takes its time, until the test unlocks it.
func lockLane(t *testing.T, s *Store, dsn, schema string, key uint64) (unlock func()) {
	ctx := context.Background()
	_, err := put(ctx, s, key, fmt.Sprint("what makes lane ", key))
	require.NoError(t, err)
	conn, err := pgx.Connect(ctx, dsn)
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close(ctx) })
	tx, err := conn.Begin(ctx)
	require.NoError(t, err)
	tag, err := tx.Exec(ctx, `SELECT FROM `+schema+`.lanes WHERE key = $1 FOR UPDATE`, int64(key))
	require.NoError(t, err)
	require.Equal(t, int64(1), tag.RowsAffected())
	return func() { require.NoError(t, tx.Rollback(ctx)) }
}

// accepting has a message accepted, and reports its id once it is.
func accepting(t *testing.T, s *Store, key uint64, text string) <-chan spool.ID {
	accepted := make(chan spool.ID, 1)
	go func() {
		receipt, err := put(context.Background(), s, key, text)
		if err != nil {
			t.Error(err)
		}
		accepted <- receipt.ID
	}()
	return accepted
}

// eventually waits until something holds for the acceptor.
func eventually(t *testing.T, s *Store, holds func(a *acceptor) bool) {
	require.Eventually(t, func() bool {
		s.acceptor.mu.Lock()
		defer s.acceptor.mu.Unlock()
		return holds(s.acceptor)
	}, patience, time.Millisecond)
}

func waiting(t *testing.T, s *Store, n int) {
	eventually(t, s, func(a *acceptor) bool { return len(a.waiting) == n })
}

func filling(t *testing.T, s *Store, key uint64) {
	eventually(t, s, func(a *acceptor) bool { return a.filling[sequence{"r", key}] })
}

// acceptedBehind has a group accepted that waits for lane 1 before it comes to lane 4.
func acceptedBehind(t *testing.T, s *Store, dsn, schema string) (first <-chan spool.ID, unlock func()) {
	unlock = lockLane(t, s, dsn, schema, 1)
	var unlocks []func()
	for i := range uint64(acceptors) { // which have to do, so that the next two make a group
		unlocks = append(unlocks, lockLane(t, s, dsn, schema, 10+i))
		accepting(t, s, 10+i, fmt.Sprint("what an acceptor waits with ", i))
		filling(t, s, 10+i)
	}
	first = accepting(t, s, 4, "first")
	waiting(t, s, 1)
	accepting(t, s, 1, "what waits for lane 1")
	waiting(t, s, 2)
	for _, unlock := range unlocks {
		unlock()
	}
	filling(t, s, 4)
	require.Eventually(t, func() bool { // the statement has begun, and come to lane 1
		return testpostgres.Scalar(t, dsn, `SELECT count(*) FROM pg_stat_activity WHERE
			wait_event_type = 'Lock' AND query LIKE '%INTO `+schema+`.lanes%'`) == "1"
	}, patience, time.Millisecond)
	return first, unlock
}

func TestWhatComesLaterIsNotAcceptedBeforeWhatWaits(t *testing.T) {
	s, dsn, schema := newTestStore(t, Options{})
	first, unlock := acceptedBehind(t, s, dsn, schema)
	second := accepting(t, s, 4, "second")
	other := accepting(t, s, 5, "of another sequence")
	select {
	case <-other:
	case <-time.After(patience):
		require.Fail(t, "another sequence waits, too")
	}
	select {
	case <-second:
		require.Fail(t, "the second one was accepted before the first")
	case <-time.After(100 * time.Millisecond):
	}
	unlock()
	require.Negative(t, (<-first).Compare(<-second))
}

// Another gateway accepts and delivers something in a sequence while a statement of ours has begun,
// but not come to it: then what we accept comes later, and its id says so.
func TestIDsAscendWhereALaneCameAndWentMeanwhile(t *testing.T) {
	s, dsn, schema := newTestStore(t, Options{})
	other := openTest(t, dsn, Options{Schema: schema})
	t.Cleanup(func() { _ = other.Close(context.Background()) })
	mine, unlock := acceptedBehind(t, s, dsn, schema)
	theirs, err := put(context.Background(), other, 4, "theirs")
	require.NoError(t, err)
	for delivered := false; !delivered; {
		for _, lease := range leaseSome(t, other, 1) {
			delivered = delivered || lease.Message.ID == theirs.ID
			other.Settle(lease, spool.Settlement{Verdict: spool.Done})
		}
	}
	require.NoError(t, other.Flush(context.Background()))
	require.Equal(t, "0",
		testpostgres.Scalar(t, dsn, `SELECT count(*) FROM `+schema+`.lanes WHERE key = 4`))
	unlock()
	require.Positive(t, (<-mine).Compare(theirs.ID))
}

// What is refused for want of room beside something that is accepted may come again.
func TestARefusalInAGroupLeavesNothingBehind(t *testing.T) {
	s, _, _ := newTestStore(t, Options{})
	s.SetLimits(spool.Limits{MaxBytes: 10_000})
	var group []*entry
	for i, size := range []int{20_000, 10} {
		w, err := s.NewBody(t.Context(), -1)
		require.NoError(t, err)
		_, err = w.Write(make([]byte, size))
		require.NoError(t, err)
		msg := &spool.Message{Route: "r", OrderKey: uint64(i + 1)}
		group = append(group, &entry{
			ctx: t.Context(), msg: msg, fingerprint: spool.Fingerprint{byte(i + 1)},
			window: time.Hour, body: w.(*bodies.Writer), meta: record.EncodeMeta(msg),
			random: record.Random(), done: make(chan struct{}),
		})
	}
	s.acceptor.mu.Lock()
	s.acceptor.waiting = append(s.acceptor.waiting, group...)
	s.acceptor.wake()
	s.acceptor.mu.Unlock()
	for _, e := range group {
		<-e.done
	}
	require.ErrorIs(t, group[0].err, counts.ErrFull)
	require.NoError(t, group[1].err)
	eventually(t, s, func(a *acceptor) bool { return len(a.busy) == 0 && len(a.filling) == 0 })
}

//go:build unix

package postgres

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-deepgram/deepgram-callback/internal/testpostgres"
)

// A standby takes the place of the primary.

func putAtLast(t *testing.T, s *Store, text string) {
	t.Helper()
	require.Eventually(t, func() bool {
		_, err := put(context.Background(), s, 1, text)
		return err == nil
	}, patience, 10*time.Millisecond)
}

// Somebody who cancels what does not go on has the primary say that a commit is done which the
// standby does not have.
func TestWhatTheStandbyDoesNotHaveIsRefused(t *testing.T) {
	primary, standby := testpostgres.NewPair(t)
	s := openTest(t, testpostgres.PairDSN(primary, standby), Options{})
	putAtLast(t, s, "first")
	standby.Stop()

	answer := make(chan error, 1)
	go func() {
		_, err := put(context.Background(), s, 1, "second")
		answer <- err
	}()
	const cancel = `SELECT count(pg_cancel_backend(pid)) FROM pg_stat_activity
		WHERE wait_event = 'SyncRep' AND query = 'COMMIT'`
	require.Eventually(t, func() bool { return testpostgres.Scalar(t, primary.DSN(), cancel) != "0" },
		patience, 10*time.Millisecond)
	require.True(t, isUnavailable(<-answer))

	primary.Kill()
	require.NoError(t, standby.Start())
	require.NoError(t, standby.Promote())
	putAtLast(t, s, "second")
	require.Equal(t, "2",
		testpostgres.Scalar(t, standby.DSN(), `SELECT count(*) FROM deepgram_callback.messages`))
	require.NoError(t, s.Close(context.Background()))
}

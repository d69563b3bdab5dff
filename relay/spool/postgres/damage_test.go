//go:build unix

package postgres

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-deepgram/deepgram-callback/internal/testpostgres"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
)

// A record that cannot be read stops nothing behind it, is found by an operator, and can be
// dropped.
func TestARecordThatCannotBeReadBecomesADeadLetter(t *testing.T) {
	var mu sync.Mutex
	var problems []string
	s, dsn, schema := newTestStore(t, Options{Name: "gw1", Events: spool.StoreEvents{
		Problem: func(err error) {
			mu.Lock()
			defer mu.Unlock()
			problems = append(problems, err.Error())
		},
	}})
	var ids []spool.ID
	for _, text := range []string{"damaged", "behind it", "with a lost history"} {
		receipt, err := put(context.Background(), s, 1, text)
		require.NoError(t, err)
		ids = append(ids, receipt.ID)
	}
	testpostgres.Execute(t, dsn, `UPDATE `+schema+`.messages SET meta = '\x07'
			WHERE id = '`+ids[0].String()+`';
		UPDATE `+schema+`.messages SET attempts = '{"at": 1}', tries = 2
			WHERE id = '`+ids[2].String()+`'`)

	lease := leaseSome(t, s, 1)[0]
	require.Equal(t, ids[1], lease.Message.ID, "its lane goes on")
	s.Settle(lease, spool.Settlement{Verdict: spool.Retry, Attempt: spool.Attempt{Error: "no"}})
	require.NoError(t, s.Flush(context.Background()))
	tried, err := s.Get(context.Background(), ids[1])
	require.NoError(t, err)
	require.Equal(t, "gw1", tried.Attempts[0].Gateway)

	mu.Lock()
	require.Len(t, problems, 1)
	require.Contains(t, problems[0], ids[0].String())
	require.Contains(t, problems[0], "unreadable record; it is a dead letter now")
	mu.Unlock()
	dead, err := s.List(context.Background(), spool.Filter{State: spool.Dead})
	require.NoError(t, err)
	require.Len(t, dead, 1)
	require.Equal(t, ids[0], dead[0].ID)
	require.Contains(t, dead[0].LastError, "unreadable record")
	require.Equal(t, "r", dead[0].Route)
	require.Empty(t, dead[0].URI)
	body, err := s.Body(context.Background(), ids[0])
	require.NoError(t, err, "the body is there")
	require.Equal(t, int64(len("damaged")), body.Size())
	require.NoError(t, body.Close())

	// Sent again it comes back.
	require.NoError(t, s.Replay(context.Background(), ids[0]))
	require.Eventually(t, func() bool {
		got, err := s.Lease(context.Background(), spool.LeaseRequest{Route: "r", Max: 10})
		require.NoError(t, err)
		require.Empty(t, got.Leases, "the one after it waits for its next attempt")
		n, err := s.Count(context.Background(), spool.Filter{State: spool.Dead})
		require.NoError(t, err)
		return n == 1
	}, patience, time.Millisecond)
	dropped, err := s.Drop(context.Background(), ids[0])
	require.NoError(t, err)
	require.Contains(t, dropped.LastError, "unreadable record")

	// Without its history a message is delivered all the same.
	_, err = s.Drop(context.Background(), ids[1])
	require.NoError(t, err)
	last := leaseSome(t, s, 1)[0]
	require.Equal(t, ids[2], last.Message.ID)
	require.Equal(t, 2, last.Message.Tries)
	require.Contains(t, last.Message.Attempts[0].Error, "earlier attempts cannot be read")
}

func TestKeptMessagesThatGiveWayAreTold(t *testing.T) {
	var mu sync.Mutex
	evicted := make(map[string]int)
	s, _, _ := newTestStore(t, Options{Events: spool.StoreEvents{
		Evicted: func(route string, n int) { mu.Lock(); defer mu.Unlock(); evicted[route] += n },
	}})
	for range 3 {
		_, err := put(context.Background(), s, 0, strings.Repeat("x", 40_000)+time.Now().String())
		require.NoError(t, err)
	}
	for _, lease := range leaseSome(t, s, 3) {
		s.Settle(lease, spool.Settlement{Verdict: spool.Done, Keep: true})
	}
	require.NoError(t, s.Flush(context.Background()))
	counts, err := s.Counts(context.Background())
	require.NoError(t, err)
	s.SetLimits(spool.Limits{MaxBytes: counts.Bytes + 1000})
	_, err = put(context.Background(), s, 0, strings.Repeat("y", 40_000))
	require.NoError(t, err)
	left, err := s.Count(context.Background(), spool.Filter{State: spool.Delivered})
	require.NoError(t, err)
	mu.Lock()
	defer mu.Unlock()
	require.Equal(t, map[string]int{"r": int(3 - left)}, evicted)
	require.Positive(t, evicted["r"])
}

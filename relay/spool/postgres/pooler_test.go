//go:build unix

package postgres

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-deepgram/deepgram-callback/internal/testpostgres"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
)

func TestAPoolerMayStandBetween(t *testing.T) {
	dsn := testpostgres.NewPooler(t, testpostgres.New(t))
	ctx := context.Background()
	stores := []*Store{openTest(t, dsn, Options{}), openTest(t, dsn, Options{})}
	for _, s := range stores {
		require.NoError(t, s.db.Ready())
	}
	acceptMany(t, stores, 300, 2000)
	large, err := put(ctx, stores[0], 5, strings.Repeat("large", 200_000))
	require.NoError(t, err)
	body, err := stores[1].Body(ctx, large.ID)
	require.NoError(t, err)
	require.Equal(t, int64(1_000_000), body.Size())
	again, err := put(ctx, stores[1], 5, strings.Repeat("large", 200_000))
	require.NoError(t, err)
	require.True(t, again.Duplicate)
	deliverMany(t, stores, 301, true)
	for _, s := range stores {
		counts, err := s.Counts(ctx)
		require.NoError(t, err)
		require.Equal(t, int64(301), counts.Routes["r"].Delivered)
	}
	n, _, _, err := stores[0].ReplayAll(ctx, spool.Filter{Limit: 50})
	require.NoError(t, err)
	require.Equal(t, 50, n)
	require.Eventually(
		t,
		func() bool { return len(leaseNow(t, stores[1])) > 0 },
		patience,
		10*time.Millisecond,
	)
	for _, s := range stores {
		s.tidy(ctx)
		require.NoError(t, s.Close(ctx))
	}
}

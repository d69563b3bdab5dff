package app

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"

	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/storetest/memory"
)

// sharedStore is one that several gateways use, and the module of it.
type sharedStore struct {
	spool.Store
	gateways func(context.Context) ([]spool.Gateway, error)
}

func (s sharedStore) Identity() string { return "shared" }

func (s sharedStore) Open(context.Context, spool.Limits, spool.StoreEvents) (spool.Store, error) {
	return s, nil
}

func (s sharedStore) Gateways(ctx context.Context) ([]spool.Gateway, error) {
	return s.gateways(ctx)
}

// sharing runs a configuration whose inbox other gateways share.
func sharing(
	t *testing.T, gateways func(context.Context) ([]spool.Gateway, error),
) levels {
	t.Helper()
	process := NewProcess()
	a := started(t, process, &Route{Name: "r", Store: sharedStore{memory.NewPlace().Open(), gateways}})
	t.Cleanup(func() { ended(t, a) })
	return levels{process}
}

var ofGateways = []string{
	"caddy_deepgram_callback_spool_gateway_last_seen_timestamp_seconds",
	"caddy_deepgram_callback_spool_gateway_streams_open",
	"caddy_deepgram_callback_spool_gateway_delivering",
}

// Of one machine there are two that live and one that died: metrics of the same labels would have
// Prometheus refuse all of them.
func TestMetricsShowTheGatewaysThatShareAnInbox(t *testing.T) {
	seen := time.UnixMilli(1_700_000_000_500)
	l := sharing(t, func(context.Context) ([]spool.Gateway, error) {
		return []spool.Gateway{
			{Name: "one", LastSeen: seen.Add(-time.Hour), LiveStreams: 100, Leases: 100},
			{Name: "one", LastSeen: seen, LiveStreams: 2, Leases: 3, Self: true},
			{Name: "one", LastSeen: seen.Add(-5 * time.Second), LiveStreams: 4},
			{Name: "gone", LastSeen: seen.Add(-2 * time.Minute), LiveStreams: 7, Leases: 7},
		}, nil
	})
	require.NoError(t, testutil.CollectAndCompare(l, strings.NewReader(`
# HELP caddy_deepgram_callback_spool_gateway_delivering Callbacks that a gateway that shares the inbox is delivering.
# TYPE caddy_deepgram_callback_spool_gateway_delivering gauge
caddy_deepgram_callback_spool_gateway_delivering{gateway="one",path="shared"} 3
# HELP caddy_deepgram_callback_spool_gateway_last_seen_timestamp_seconds When a gateway that shares the inbox was last seen, as Unix time.
# TYPE caddy_deepgram_callback_spool_gateway_last_seen_timestamp_seconds gauge
caddy_deepgram_callback_spool_gateway_last_seen_timestamp_seconds{gateway="gone",path="shared"} 1.6999998805e+09
caddy_deepgram_callback_spool_gateway_last_seen_timestamp_seconds{gateway="one",path="shared"} 1.7000000005e+09
# HELP caddy_deepgram_callback_spool_gateway_streams_open Streams that are live at a gateway that shares the inbox.
# TYPE caddy_deepgram_callback_spool_gateway_streams_open gauge
caddy_deepgram_callback_spool_gateway_streams_open{gateway="one",path="shared"} 6
`), ofGateways...))
}

func TestMetricsWaitForGatewaysNoLongerThanForTheRest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := sharing(t, func(ctx context.Context) ([]spool.Gateway, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		})
		began := time.Now()
		require.Zero(t, testutil.CollectAndCount(l, ofGateways...))
		require.Equal(t, statsTimeout, time.Since(began))
		require.Equal(t, 1, testutil.CollectAndCount(l, "caddy_deepgram_callback_spool_refusing"))
	})
}

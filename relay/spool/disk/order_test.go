package disk

import (
	"context"
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/disk/internal/disktest"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/disk/queue"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/storetest"
)

// A backlog of one stream is longer than memory holds, behind a message that had to be tried
// again, while other streams come and go.
func TestALongBacklogOfOneStreamKeepsItsOrderAndHoldsNobodyUp(t *testing.T) {
	const backlog = 500
	in := openTestInbox(t, disktest.TempDir(t), inboxOptions{Options: Options{
		limits: queue.Limits{Ready: 4, Followers: 20, Chunk: 8, Transit: 16},
	}})
	firstID := accept(t, in, result("long", "0")).ID
	for i := 1; i < backlog; i++ {
		accept(t, in, result("long", fmt.Sprint(i)))
	}
	accept(t, in, result("other", "0"))

	svc := newService()
	overtaken := make(chan struct{})
	deliver := func(ctx context.Context, msg *spool.Message, body spool.Body) spool.Result {
		switch {
		case msg.RequestID == "other":
			close(overtaken)
		case msg.ID == firstID && msg.Tries < 2:
			return spool.Result{Status: http.StatusInternalServerError}
		case msg.ID == firstID:
			<-overtaken // the other one comes all the same
		}
		return svc.deliver(ctx, msg, body)
	}
	defer storetest.SetRoute(
		in,
		"r",
		spool.RouteConfig{Deliver: deliver, RetryDelays: []time.Duration{time.Millisecond}},
	)(
		context.Background(),
	)
	requireOrder(t, svc.waitFor(t, backlog+1))
	requireNothingPending(t, in)
}

// What is passed over because of where it goes is moved out of the way at once, although there was
// no room for it beside what was leased before.
func TestWhatIsBehindThoseThatAreAvoidedComesWithTheNextCall(t *testing.T) {
	d, err := Open(disktest.TempDir(t), Options{
		limits: queue.Limits{Ready: 2, Followers: 1, Chunk: 2, Transit: 3},
	})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, d.Close(context.Background())) })
	const healthy, away = 1, 2
	for i, destination := range []spool.Destination{healthy, healthy, away, away, healthy, healthy} {
		body, err := d.NewBody(t.Context(), -1)
		require.NoError(t, err)
		_, err = d.Accept(t.Context(), &spool.Message{Route: "r", Destination: destination},
			spool.Fingerprint{byte(i + 1)}, time.Hour, body)
		require.NoError(t, err)
	}
	request := spool.LeaseRequest{Route: "r", Max: 4, Avoid: spool.Destinations{away: {}}}
	for range 2 {
		leased, err := d.Lease(t.Context(), request)
		require.NoError(t, err)
		require.Len(t, leased.Leases, 2)
		request.Max -= 2
		require.NoError(t, d.Flush(t.Context())) // they are moved
	}
}

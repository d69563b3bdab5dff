package spool_test

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/storetest"
)

func taking(string, int) spool.Result {
	return spool.Result{Status: http.StatusOK, Upstream: "10.0.0.7:80"}
}

func list(t *testing.T, in *spool.Inbox, filter spool.Filter) []*spool.Message {
	t.Helper()
	all, err := in.List(context.Background(), filter)
	require.NoError(t, err)
	return all
}

func TestWhatWasDeliveredIsKeptForAsLongAsConfigured(t *testing.T) {
	inBubble(t, func(t *testing.T, in *spool.Inbox) {
		log := newAttemptLog(taking)
		release := storetest.SetRoute(in, "r", spool.RouteConfig{Deliver: log.deliver, Keep: time.Hour})
		accept(t, in, "a")
		wait(time.Minute)
		kept := list(t, in, spool.Filter{State: spool.Delivered})
		require.Len(t, kept, 1)
		require.WithinDuration(t, log.start, kept[0].DeliveredAt, time.Second)
		require.Equal(t, int64(1), stats(t, in).Routes["r"].Delivered)
		wait(57 * time.Minute)
		require.Len(t, list(t, in, spool.Filter{}), 1)
		wait(5 * time.Minute)
		require.Empty(t, list(t, in, spool.Filter{}))

		accept(t, in, "b")
		wait(time.Minute)
		require.Len(t, list(t, in, spool.Filter{}), 1)
		release(t.Context())
		storetest.SetRoute(in, "r", spool.RouteConfig{Deliver: log.deliver})
		wait(2 * time.Minute)
		require.Empty(t, list(t, in, spool.Filter{}), "a configuration that keeps nothing")
	})
}

func TestTheLastTenAttemptsAreKnown(t *testing.T) {
	inBubble(t, func(t *testing.T, in *spool.Inbox) {
		log := newAttemptLog(func(_ string, attempt int) spool.Result {
			switch {
			case attempt == 12:
				return taking("", 0)
			case attempt%2 == 0:
				return spool.Result{Err: errConnect, Upstream: "10.0.0.8:80"}
			}
			return spool.Result{Status: http.StatusBadRequest, Upstream: "10.0.0.9:80"}
		})
		log.takes = 250 * time.Millisecond
		storetest.SetRoute(in, "r", spool.RouteConfig{
			Deliver: log.deliver, Keep: time.Hour, RetryDelays: []time.Duration{time.Second},
		})
		accept(t, in, "a")
		wait(time.Minute)
		m := list(t, in, spool.Filter{State: spool.Delivered})[0]
		require.Equal(t, 12, m.Tries)
		require.Empty(t, m.LastError)
		require.Len(t, m.Attempts, 10)
		for i, a := range m.Attempts {
			number := i + 3
			require.Equal(t, log.start.Add(log.times["a"][number-1]), a.At)
			require.Equal(t, log.takes, a.Took)
			want := spool.Attempt{
				Status:   400,
				Error:    "the service answered 400 Bad Request",
				Upstream: "10.0.0.9:80",
			}
			if number%2 == 0 {
				want = spool.Attempt{Error: errConnect.Error(), Upstream: "10.0.0.8:80"}
			}
			if number == 12 {
				want = spool.Attempt{Status: 200, Upstream: "10.0.0.7:80"}
			}
			want.At, want.Took = a.At, a.Took
			require.Equal(t, want, a)
		}
	})
}

func TestReplayOfManyDoesNotDelayWhatComes(t *testing.T) {
	inBubble(t, func(t *testing.T, in *spool.Inbox) {
		log := newAttemptLog(taking)
		storetest.SetRoute(
			in,
			"r",
			spool.RouteConfig{Deliver: log.deliver, Keep: 48 * time.Hour, Concurrency: 4},
		)
		for i := range 1000 {
			accept(t, in, fmt.Sprint("old ", i))
		}
		wait(time.Minute)
		log.change(func() { log.order, log.takes = nil, 100*time.Millisecond })
		var progress []int
		n, err := in.ReplayAll(t.Context(), spool.Filter{State: spool.Delivered}, func(n int) {
			progress = append(progress, n)
		})
		require.NoError(t, err)
		require.Equal(t, 1000, n)
		require.Equal(t, 1000, progress[len(progress)-1])
		require.True(t, slices.IsSorted(progress))
		require.Greater(t, len(progress), 3)
		wait(5 * time.Second)
		for i := range 20 {
			text := fmt.Sprint("fresh ", i)
			began := time.Since(log.start)
			accept(t, in, text)
			wait(300 * time.Millisecond)
			log.change(func() {
				require.Len(t, log.times[text], 1)
				require.LessOrEqual(t, log.times[text][0]-began, log.takes)
			})
		}
		wait(time.Minute)
		require.Equal(t, int64(1020), stats(t, in).Delivered)
		require.Equal(t, 1020, log.tries())
	})
}

func TestAReplayCanBeStopped(t *testing.T) {
	inBubble(t, func(t *testing.T, in *spool.Inbox) {
		log := newAttemptLog(taking)
		storetest.SetRoute(in, "r", spool.RouteConfig{Deliver: log.deliver, Keep: time.Hour})
		for i := range 1000 {
			accept(t, in, fmt.Sprint(i))
		}
		wait(time.Minute)
		ctx, stop := context.WithCancel(t.Context())
		n, err := in.ReplayAll(ctx, spool.Filter{}, func(int) { stop() })
		require.ErrorIs(t, err, context.Canceled)
		wait(time.Minute)
		require.Equal(t, 1000+n, log.tries())
		require.Less(t, n, 1000)
		require.Equal(t, int64(1000), stats(t, in).Delivered)
	})
}

func TestAPausedRouteAcceptsAndDeliversNothing(t *testing.T) {
	inBubble(t, func(t *testing.T, in *spool.Inbox) {
		log := newAttemptLog(taking)
		var told []string
		in.TestHooks().Paused = func(route string, paused bool) { told = append(told, fmt.Sprint(route, paused)) }
		storetest.SetRoute(in, "r", spool.RouteConfig{Deliver: log.deliver})
		storetest.SetRoute(in, "other", spool.RouteConfig{Deliver: log.deliver})
		require.NoError(t, in.Pause(t.Context(), "r", true))
		accept(t, in, "a")
		_, err := in.Accept(
			t.Context(),
			spool.Envelope{Route: "other"},
			strings.NewReader("of the other"),
		)
		require.NoError(t, err)
		wait(time.Hour)
		require.Equal(t, []string{"of the other"}, log.order)
		require.True(t, stats(t, in).Routes["r"].Paused)
		require.False(t, stats(t, in).Routes["other"].Paused)
		require.Equal(t, int64(1), stats(t, in).Pending)
		require.NoError(t, in.Pause(t.Context(), "r", false))
		wait(time.Millisecond)
		require.Equal(t, []string{"of the other", "a"}, log.order)
		require.Equal(t, []string{"rtrue", "rfalse"}, told)
	})
}

func TestDeliveriesKeepTheirPace(t *testing.T) {
	for name, c := range map[string]struct {
		interval time.Duration
		answer   func(string, int) spool.Result
	}{
		"two a second":     {500 * time.Millisecond, taking},
		"a thousand":       {time.Millisecond, taking},
		"ten a minute":     {6 * time.Second, taking},
		"while it is down": {time.Second, func(string, int) spool.Result { return spool.Result{Err: errConnect} }},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, in *spool.Inbox) {
				log := newAttemptLog(c.answer)
				storetest.SetRoute(
					in,
					"r",
					spool.RouteConfig{Deliver: log.deliver, Interval: c.interval, Concurrency: 64},
				)
				for i := range 60 {
					accept(t, in, fmt.Sprint(i))
				}
				wait(60*c.interval + time.Second)
				require.GreaterOrEqual(t, log.tries(), 60)
				var starts []time.Duration
				log.change(func() { starts = slices.Clone(log.starts) })
				for i := 1; i < len(starts); i++ {
					require.GreaterOrEqual(t, starts[i]-starts[i-1], c.interval-10*time.Millisecond)
				}
				if c.interval < 10*time.Millisecond { // timers are no more exact; over a while it holds
					require.GreaterOrEqual(t, starts[59]-starts[0], 45*c.interval)
				}
				wait(time.Hour)
				before := log.tries()
				for i := range 3 { // after a pause it does not catch up
					accept(t, in, fmt.Sprint("later", i))
				}
				wait(time.Millisecond / 2)
				if c.interval > 10*time.Millisecond {
					require.LessOrEqual(t, log.tries()-before, 1)
				}
			})
		})
	}
}

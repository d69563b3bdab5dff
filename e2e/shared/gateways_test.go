//go:build unix

package shared_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-deepgram/deepgram-callback/internal/testpostgres"
)

// hold answers nothing to one gateway until the test lets go; what it tries after that is taken.
func hold(name string, letGo <-chan struct{}, then int) func(context.Context, delivery) int {
	return func(ctx context.Context, d delivery) int {
		if d.gateway != name {
			return http.StatusOK
		}
		select {
		case <-letGo:
			return http.StatusOK
		default:
		}
		select {
		case <-letGo:
		case <-ctx.Done():
		}
		return then
	}
}

// requireOneAtATime shows that no callback was being delivered by two at a time, nor two of one
// request id, but for those of which the test says that their first attempt is in doubt.
func requireOneAtATime(t *testing.T, deliveries []delivery, doubtful func(delivery) bool) {
	t.Helper()
	last := make(map[string]delivery)
	for _, d := range deliveries {
		if doubtful(d) {
			continue
		}
		if before, ok := last[d.stream]; ok {
			require.False(t, before.ended.IsZero() || d.began.Before(before.ended),
				"two of %s at a time: %v and %v", d.stream, before, d)
		}
		last[d.stream] = d
	}
}

// requireOrder shows that the callbacks of each request id were first taken in the order in which
// they were accepted.
func requireOrder(t *testing.T, deliveries []delivery, accepted map[string][]string) {
	t.Helper()
	first := make(map[string][]string)
	seen := make(map[string]bool)
	for _, d := range deliveries {
		if d.status == http.StatusOK && !seen[d.webhook] {
			seen[d.webhook] = true
			first[d.stream] = append(first[d.stream], d.webhook)
		}
	}
	require.Equal(t, accepted, first)
}

func TestWhatAKilledGatewayAcceptedTheOtherDelivers(t *testing.T) {
	dsn := newDatabase(t).DSN()
	letGo := make(chan struct{})
	defer close(letGo)
	s := newService(t, hold("one", letGo, http.StatusOK))
	one, accepted := newGateway(t, "one", dsn, s), make(map[string][]string)
	var ids []string
	for i := range 40 { // more than are delivered at a time
		stream := "s" + strconv.Itoa(i%20)
		id := one.accept(stream, strconv.Itoa(i))
		accepted[stream], ids = append(accepted[stream], id), append(ids, id)
	}
	require.Eventually(t, func() bool { return len(s.all()) >= 16 }, patience, time.Millisecond)
	two := newGateway(t, "two", dsn, s)
	one.Kill()
	killed := time.Now()
	s.waitFor(ids...)
	require.Less(t, time.Since(killed), lease+10*time.Second)
	inDoubt := func(d delivery) bool { return d.gateway == "one" }
	requireOneAtATime(t, s.all(), inDoubt)
	var ofTwo []delivery
	for _, d := range s.all() {
		if !inDoubt(d) {
			ofTwo = append(ofTwo, d)
			continue
		}
		require.True(t, d.began.Before(killed))
	}
	require.Len(t, ofTwo, len(ids), "each once")
	requireOrder(t, ofTwo, accepted)
	require.Eventually(
		t,
		func() bool { return two.inbox().Delivered == len(ids) },
		patience,
		10*time.Millisecond,
	)
	require.Zero(t, two.inbox().InFlight, "nothing is in limbo")
}

func TestTheLateAnswerOfAGatewayThatHungChangesNothing(t *testing.T) {
	for name, late := range map[string]int{"taken": http.StatusOK, "refused": http.StatusGone} {
		t.Run(name, func(t *testing.T) {
			dsn := newDatabase(t).DSN()
			letGo := make(chan struct{})
			s := newService(t, hold("one", letGo, late))
			one := newGateway(t, "one", dsn, s)
			id := one.accept("s", "in doubt")
			require.Eventually(
				t,
				func() bool { return len(s.all()) == 1 },
				patience,
				time.Millisecond,
			)
			two := newGateway(t, "two", dsn, s)
			require.NoError(t, one.Process.Process.Signal(syscall.SIGSTOP))
			after := two.accept("s", "after it")
			s.waitFor(id, after)
			require.Eventually(
				t,
				func() bool { return two.inbox().Delivered == 2 },
				patience,
				10*time.Millisecond,
			)
			close(letGo) // the answer waits for one, which then comes to itself
			require.NoError(t, one.Process.Process.Signal(syscall.SIGCONT))
			require.Eventually(t, func() bool {
				in := one.inbox()
				return in.Delivered == 2 && in.InFlight == 0
			}, patience, 10*time.Millisecond)

			// It goes on as if nothing had been, and what it says is like what the other says.
			third := one.accept("s", "third")
			require.Eventually(
				t,
				func() bool { return two.inbox().Delivered == 3 },
				patience,
				10*time.Millisecond,
			)
			deliveries := s.all()
			require.Len(t, deliveries, 4, "the one in doubt twice, the others once: %v", deliveries)
			for i, want := range []string{id, id, after, third} {
				require.Equal(t, want, deliveries[i].webhook)
			}
			requireOneAtATime(t, deliveries[1:], func(delivery) bool { return false })
			for _, g := range []*gateway{one, two} {
				in := g.inbox()
				require.Zero(t, in.Dead)
				require.Zero(t, in.Pending)
			}
			require.NotContains(t, one.Errors.String(), "dead letter", "it says nothing either")
		})
	}
}

// Each of two gateways gets half of everything, and copies of what the other had.
func TestOrderAndDuplicatesHoldOverBothGateways(t *testing.T) {
	dsn := newDatabase(t).DSN()
	s := newService(t, func(_ context.Context, d delivery) int {
		<-time.After(rand.N(5 * time.Millisecond))
		if rand.N(10) == 0 {
			return http.StatusBadRequest
		}
		return http.StatusOK
	})
	gateways := []*gateway{newGateway(t, "one", dsn, s), newGateway(t, "two", dsn, s)}
	var mu sync.Mutex
	accepted := make(map[string][]string)
	var senders sync.WaitGroup
	for n := range 8 {
		senders.Go(func() {
			stream := "s" + strconv.Itoa(n)
			var ids []string
			for i := range 20 {
				id := gateways[(n+i)%2].acceptAtLast(stream, strconv.Itoa(i))
				again := gateways[(n+i+1)%2].acceptAtLast(stream, strconv.Itoa(i))
				if id != again {
					t.Errorf("a duplicate was not known: %s and %s", id, again)
				}
				ids = append(ids, id)
			}
			mu.Lock()
			defer mu.Unlock()
			accepted[stream] = ids
		})
	}
	senders.Wait()
	var all []string
	for _, ids := range accepted {
		all = append(all, ids...)
	}
	s.waitFor(all...)
	deliveries := s.all()
	requireOneAtATime(t, deliveries, func(delivery) bool { return false })
	requireOrder(t, deliveries, accepted)
	by := make(map[string]int)
	for id, times := range s.taken() {
		require.Equal(t, 1, times, id)
	}
	for _, d := range deliveries {
		by[d.gateway]++
	}
	require.Len(t, by, 2, "both deliver: %v", by)
}

func TestPausingOnOneGatewayHoldsOnTheOther(t *testing.T) {
	dsn := newDatabase(t).DSN()
	s := newService(t, nil)
	one, two := newGateway(t, "one", dsn, s), newGateway(t, "two", dsn, s)
	s.waitFor(one.accept("s", "before"))
	one.ask(http.MethodPost, "/deepgram_callback/spool/routes/hooks/pause", nil)
	require.True(t, two.inbox().Routes["hooks"].Paused)
	var ids []string
	for i, g := range []*gateway{one, two, two} {
		ids = append(ids, g.accept("p"+strconv.Itoa(i), fmt.Sprint(i)))
	}
	// Longer than any gateway waits until it looks for itself.
	<-time.After(3 * time.Second)
	require.Len(t, s.all(), 1)
	require.Equal(t, 3, one.inbox().Pending)
	two.ask(http.MethodPost, "/deepgram_callback/spool/routes/hooks/resume", nil)
	s.waitFor(ids...)
	require.False(t, one.inbox().Routes["hooks"].Paused)
}

func TestStatusNamesAllGatewaysAndTheSchemaCanBeMadeByHand(t *testing.T) {
	server := newDatabase(t)
	s := newService(t, nil)
	one := newGateway(t, "one", server.DSN(), s)
	two := newGateway(t, "two", server.DSN(), s)
	for _, g := range []*gateway{one, two} {
		in := g.inbox()
		require.Eventually(t, func() bool { // who has come is seen a moment later
			in = g.inbox()
			return len(in.Gateways) == 2
		}, patience, 50*time.Millisecond)
		self := 0
		for _, other := range in.Gateways {
			require.NotEmpty(t, other.Name)
			if other.Self {
				self++
			}
		}
		require.Equal(t, 1, self)
		require.Equal(t, 1, strings.Count(g.command("spool", "status"), "(this one)"))
		_, metrics, err := g.request(http.MethodGet, "/metrics", "")
		require.NoError(t, err)
		for _, name := range []string{
			"last_seen_timestamp_seconds", "streams_open", "delivering",
		} {
			require.Regexp(t, `(?m)^caddy_deepgram_callback_spool_gateway_`+name+
				`\{gateway=".+",path="postgres://.+"\} `, metrics)
		}
	}
	sql := one.command("spool", "schema", "--schema", "by_hand")
	require.Contains(
		t,
		sql,
		"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA by_hand TO gateway;",
	)
	testpostgres.Execute(t, server.DSN(), sql)
	testpostgres.Execute(t, server.DSN(), `SELECT version FROM by_hand.version`)
}

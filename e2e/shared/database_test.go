//go:build unix

package shared_test

import (
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// The database is shut down at once, twice, while both gateways accept and deliver.
func TestNothingAcceptedIsLostWhenTheDatabaseGoesAndComes(t *testing.T) {
	server := newDatabase(t)
	s := newService(t, nil)
	gateways := []*gateway{
		newGateway(t, "one", server.DSN(), s),
		newGateway(t, "two", server.DSN(), s),
	}
	var mu sync.Mutex
	accepted := make(map[string][]string)
	var done atomic.Int64
	refused := func() int64 { return gateways[0].refused.Load() + gateways[1].refused.Load() }
	var senders sync.WaitGroup
	const each = 60
	for n := range 8 {
		senders.Go(func() {
			stream := "s" + strconv.Itoa(n)
			var ids []string
			for i := range each {
				ids = append(ids, gateways[(n+i)%2].acceptAtLast(stream, strconv.Itoa(i)))
				done.Add(1)
				<-time.After(5 * time.Millisecond)
			}
			mu.Lock()
			defer mu.Unlock()
			accepted[stream] = ids
		})
	}
	for _, enough := range []int64{60, 240} {
		require.Eventually(
			t,
			func() bool { return done.Load() >= enough },
			patience,
			time.Millisecond,
		)
		server.Abort()
		was := refused()
		require.Eventually(t, func() bool { return refused() >= was+8 }, patience, time.Millisecond,
			"it is said that callbacks cannot be kept")
		require.NoError(t, server.Start())
	}
	senders.Wait()
	var all []string
	for _, ids := range accepted {
		all = append(all, ids...)
	}
	require.Len(t, all, 8*each)
	s.waitFor(all...)
	requireOrder(t, s.all(), accepted)
	require.Len(t, s.taken(), 8*each, "no duplicate was accepted")
	require.Eventually(t, func() bool {
		in := gateways[0].inbox()
		return in.Delivered == 8*each && in.Pending == 0 && in.InFlight == 0
	}, patience, 10*time.Millisecond, "nothing is in limbo")
}

// Other sites of the same Caddy must not suffer.
func TestCaddyStartsAndReloadsWithoutTheDatabase(t *testing.T) {
	server := newDatabase(t)
	server.Stop()
	s := newService(t, nil)
	g := newGateway(t, "one", server.DSN(), s)
	refuses := func() {
		t.Helper()
		for range 20 {
			began := time.Now()
			response, err := g.call("s", "1")
			require.NoError(t, err)
			require.Equal(t, http.StatusServiceUnavailable, response.StatusCode)
			require.NotEmpty(t, response.Header.Get("Retry-After"))
			require.Less(t, time.Since(began), 5*time.Second)
		}
	}
	works := func() {
		t.Helper()
		response, body, err := g.request(http.MethodGet, "/other", "")
		require.NoError(t, err)
		require.Equal(t, http.StatusOK, response.StatusCode)
		require.Equal(t, "here", body)
	}
	refuses()
	works()
	in := g.inbox()
	require.Equal(t, "store_unavailable", in.Refusing)
	require.NotEmpty(t, in.Error)
	require.Contains(t, g.command("spool", "status"), "accepts:  no: store_unavailable, since ")
	_, metrics, err := g.request(http.MethodGet, "/metrics", "")
	require.NoError(t, err)
	require.Regexp(
		t,
		`(?m)^caddy_deepgram_callback_spool_refusing\{.*\} 1$`,
		metrics,
		"the alert for it comes",
	)
	require.NotContains(
		t,
		metrics,
		"caddy_deepgram_callback_spool_pending",
		"what is not known is not zero",
	)

	g.reload(g.config("concurrency 2"))
	refuses()
	works()
	require.Contains(t, g.Errors.String(), "inbox refuses callbacks")

	require.NoError(t, server.Start())
	back := time.Now()
	id := g.acceptAtLast("s", "1")
	require.Less(t, time.Since(back), 10*time.Second, "without a restart")
	s.waitFor(id)
	require.Empty(t, g.inbox().Refusing)

	// And it can be reloaded and end while the database is away again.
	server.Stop()
	g.reload(strings.Replace(g.config(""), `"here"`, `"there"`, 1))
	_, body, err := g.request(http.MethodGet, "/other", "")
	require.NoError(t, err)
	require.Equal(t, "there", body)
}

package handler_test

import (
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/stretchr/testify/require"
)

// leastStreams is a site whose streams go to the least loaded of some backends.
func leastStreams(more string, upstreams ...string) string {
	to := ""
	for _, upstream := range upstreams {
		to += " " + upstream
	}
	return callback("", "anonymous\nstream"+to+" {\nproxy {\nlb_policy least_streams\n"+more+"}\n}")
}

func TestStreamsGoWhereThereAreFewest(t *testing.T) {
	a, b, c := newEcho(t), newEcho(t), newEcho(t)
	g := start(t, leastStreams("", a.addr, b.addr, c.addr))
	callers := make([]*websocket.Conn, 30)
	var opening sync.WaitGroup // all at a time: those that are being opened count
	for i := range callers {
		opening.Go(func() {
			conn, _, err := dial(g, nil)
			if err == nil {
				callers[i] = conn
			}
		})
	}
	opening.Wait()
	for i := range callers {
		require.NotNil(t, callers[i])
		defer func() { _ = callers[i].Close() }()
	}
	requireEvenly(t, a, b, c)

	// Where streams have ended there is room again, and a new configuration knows it.
	g.reload(leastStreams("lb_retries 1\n", a.addr, b.addr, c.addr))
	for range 10 {
		server := b.next(t)
		require.NoError(t, server.Close())
		require.Error(t, server.end(t))
	}
	line := func(line map[string]any) bool { return line["msg"] == "stream ended" }
	require.Eventually(t, func() bool {
		n := 0
		for _, l := range g.logLines() {
			if line(l) {
				n++
			}
		}
		return n == 10
	}, patience, 5*time.Millisecond)
	for range 10 {
		talk(t, open(t, g, nil), "hello")
	}
	requireEvenly(t, a, b, c)
}

// requireEvenly requires that each backend gets ten streams. A backend notes one after it has
// answered the handshake.
func requireEvenly(t testing.TB, backends ...*echo) {
	t.Helper()
	got := func() (streams []int) {
		for _, backend := range backends {
			streams = append(streams, len(backend.conns))
		}
		return streams
	}
	want := slices.Repeat([]int{10}, len(backends))
	require.Eventually(t, func() bool { return slices.Equal(want, got()) }, patience, time.Millisecond)
}

// A backend whose handshakes fail has the fewest streams. It must not be chosen
// again and again for the same handshake.
func TestStreamsPassOverABackendThatFails(t *testing.T) {
	live := newEcho(t)
	g := start(t, leastStreams("lb_retries 1\n", deadAddr(t), live.addr))
	for range 20 {
		talk(t, open(t, g, nil), "hello")
	}
	require.Len(t, live.conns, 20)

	g.reload(leastStreams("lb_retries 5\n", deadAddr(t)))
	require.Equal(t, http.StatusBadGateway, refusedStream(t, g, nil).StatusCode)
}

// A handshake that was refused does not count as a stream.
func TestRefusedHandshakesDoNotCountAsStreams(t *testing.T) {
	refusing := newService(t, func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusForbidden)
	})
	live := newEcho(t)
	g := start(t, leastStreams("", refusing.addr, live.addr))
	conn := openUntilAccepted(t, g)
	defer func() { _ = conn.Close() }()
	for range 10 { // now the refusing one always has fewer
		require.Equal(t, http.StatusForbidden, refusedStream(t, g, nil).StatusCode)
	}
}

// openUntilAccepted opens a stream where some handshakes are refused.
func openUntilAccepted(t *testing.T, g *gateway) *websocket.Conn {
	t.Helper()
	for range 100 {
		if conn, _, err := dial(g, nil); err == nil {
			return conn
		}
	}
	require.Fail(t, "no handshake is accepted")
	return nil
}

func TestBatchCallbacksCanGoWhereThereAreFewestStreams(t *testing.T) {
	busy, idle := newService(t, nil), newService(t, nil)
	live := newEcho(t)
	g := start(t, callback(busy.addr+" "+idle.addr,
		"anonymous\nrelay {\nlb_policy least_streams\n}\nstream "+live.addr))
	for range 20 {
		require.Equal(t, 200, send(t, "POST", g.url, nil, nil).StatusCode)
	}
	require.Equal(t, 20, len(busy.requests)+len(idle.requests))
	require.NotEmpty(t, busy.requests)
	require.NotEmpty(t, idle.requests)
}

func TestStreamIsLoggedWithItsUser(t *testing.T) {
	live := newEcho(t)
	g := start(t, callback(live.addr, plainAuth))
	conn := open(t, g, withPassword())
	talk(t, conn, "hello")
	require.NoError(t, conn.Close())
	line := g.waitForEnd(live.addr)
	require.Equal(t, "deepgram", line["user"])
	require.Equal(t, live.addr, line["route"])
}

package http1

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// idleService is a service that counts its open connections.
func idleService(t *testing.T) (to Address, open func() int) {
	var (
		mu    sync.Mutex
		conns = make(map[net.Conn]bool)
	)
	handler := func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(w, r.Body)
		if r.URL.Query().Has("wait") {
			w.(http.Flusher).Flush()
		}
	}
	server := httptest.NewUnstartedServer(http.HandlerFunc(handler))
	server.Config.ConnState = func(conn net.Conn, state http.ConnState) {
		mu.Lock()
		defer mu.Unlock()
		if state == http.StateClosed {
			delete(conns, conn)
		} else {
			conns[conn] = true
		}
	}
	server.Start()
	t.Cleanup(server.Close)
	return Address{"tcp", server.Listener.Addr().String()}, func() int {
		mu.Lock()
		defer mu.Unlock()
		return len(conns)
	}
}

// use makes n round trips at the same time.
func use(t *testing.T, c *Client, to Address, n int) {
	t.Helper()
	answers := make([]*http.Response, n)
	for i := range answers {
		r, err := http.NewRequestWithContext(context.Background(), "POST", "http://service/",
			strings.NewReader("body"))
		require.NoError(t, err)
		answers[i], err = c.RoundTrip(r, to)
		require.NoError(t, err)
	}
	for _, res := range answers {
		_, err := io.Copy(io.Discard, res.Body)
		require.NoError(t, err)
	}
}

func TestIdleConnectionsAreLimited(t *testing.T) {
	for name, c := range map[string]struct{ all, each, first, second, total int }{
		"for each address": {0, 2, 2, 2, 4},
		"as a whole":       {3, 2, 1, 2, 3}, // the oldest makes room
		"to none":          {0, -1, 0, 0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			client := &Client{
				Dial:              new(net.Dialer).DialContext,
				MaxIdle:           c.all,
				MaxIdlePerAddress: c.each,
				IdleTimeout:       time.Hour,
			}
			defer client.Close()
			first, openFirst := idleService(t)
			second, openSecond := idleService(t)
			use(t, client, first, 5)
			use(t, client, second, 5)
			require.Len(t, client.idle.conns, c.total)
			require.Eventually(t, func() bool {
				return openFirst() == c.first && openSecond() == c.second
			}, 20*time.Second, time.Millisecond)

			client.Close()
			require.Eventually(t, func() bool { return openFirst()+openSecond() == 0 },
				20*time.Second, time.Millisecond)
			use(t, client, first, 1) // as what is under way at a reload
			require.Empty(t, client.idle.conns)
		})
	}
}

// A connection is not kept a moment longer than IdleTimeout: people set it to the
// time after which their service closes connections.
func TestIdleConnectionsAreClosedInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client := &Client{IdleTimeout: time.Minute, MaxIdlePerAddress: 2}
		defer client.Close()
		idle := func() (conn, peer net.Conn) {
			conn, peer = net.Pipe()
			client.idle.put(newConn(client, conn, Address{"tcp", "a"}, answerBuffer))
			return conn, peer
		}
		_, first := idle()
		time.Sleep(40 * time.Second)
		_, second := idle()
		closedAt := func(peer net.Conn) time.Time {
			_, err := peer.Read(make([]byte, 1))
			require.ErrorIs(t, err, io.EOF)
			return time.Now()
		}
		began := time.Now()
		require.Equal(t, 20*time.Second, closedAt(first).Sub(began))
		require.Equal(t, time.Minute, closedAt(second).Sub(began))

		_, third := idle() // after a pause without any
		began = time.Now()
		require.Equal(t, time.Minute, closedAt(third).Sub(began))
	})
}

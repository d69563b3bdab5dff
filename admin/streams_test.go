package admin_test

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/gorilla/websocket"
	"github.com/stretchr/testify/require"
)

// liveStreams runs a gateway with some live streams through it, and returns
// the callers' ends of them.
func liveStreams(t *testing.T, n int) (*gateway, []*websocket.Conn) {
	t.Helper()
	upgrader := new(websocket.Upgrader)
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, err := upgrader.Upgrade(w, r, nil)
		if err != nil {
			return
		}
		defer func() { _ = conn.Close() }()
		for {
			kind, message, err := conn.ReadMessage()
			if err != nil {
				return
			}
			_ = conn.WriteMessage(kind, append(message, message...))
		}
	}))
	t.Cleanup(backend.Close)

	free, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	port := free.Addr().(*net.TCPAddr).Port
	require.NoError(t, free.Close())
	adapted, _, err := caddyconfig.GetAdapter("caddyfile").Adapt(fmt.Appendf(nil, `
http://:%d {
	bind 127.0.0.1
	deepgram_callback %s {
		anonymous
		ports %[1]d
		stream {
			drain 2s
		}
	}
}`, port, backend.Listener.Addr()), nil)
	require.NoError(t, err)
	var config struct {
		Apps map[string]json.RawMessage `json:"apps"`
	}
	require.NoError(t, json.Unmarshal(adapted, &config))
	g := start(t, nil, config.Apps)

	var callers []*websocket.Conn
	for i := range n {
		caller, response, err := websocket.DefaultDialer.Dial(fmt.Sprintf("ws://127.0.0.1:%d/live/%d?token=%s", port, i, secret), nil)
		require.NoError(t, err)
		require.NoError(t, response.Body.Close())
		t.Cleanup(func() { _ = caller.Close() })
		require.NoError(t, caller.SetReadDeadline(time.Now().Add(patience)))
		require.NoError(t, caller.WriteMessage(websocket.TextMessage, []byte("abc")))
		_, message, err := caller.ReadMessage()
		require.NoError(t, err)
		require.Equal(t, "abcabc", string(message))
		callers = append(callers, caller)
	}
	t.Cleanup(func() { // streams belong to the process, and would be there in the next test
		for _, caller := range callers {
			_ = caller.Close()
		}
		require.Eventually(t, func() bool { return g.run("streams", "list", "--json").out == "[]\n" }, patience, time.Millisecond)
	})
	return g, callers
}

func TestLiveStreamsAreListed(t *testing.T) {
	began := time.Now()
	g, _ := liveStreams(t, 2)
	var streams []map[string]any
	counted := func() bool { // a message is counted when it has gone through, which may be after its echo came
		g.get("/streams", &streams)
		return !slices.ContainsFunc(streams, func(s map[string]any) bool {
			return s["messages_from_backend"] != 1.0 || s["messages_from_caller"] != 1.0
		})
	}
	require.Eventually(t, counted, patience, time.Millisecond)
	require.Len(t, streams, 2)
	for i, s := range streams {
		require.Equal(t, []string{
			"bytes_from_backend", "bytes_from_caller", "client_ip", "id", "messages_from_backend", "messages_from_caller",
			"path", "route", "started_at", "upstream",
		}, keys(s))
		require.Equal(t, fmt.Sprintf("/live/%d", i), s["path"])
		require.Equal(t, "127.0.0.1", s["client_ip"])
		require.EqualValues(t, 3, s["bytes_from_caller"])
		require.EqualValues(t, 6, s["bytes_from_backend"])
		opened, err := time.Parse(time.RFC3339Nano, s["started_at"].(string))
		require.NoError(t, err)
		require.WithinRange(t, opened, began, time.Now())
	}
	g.get("/streams?route=none", &streams)
	require.Empty(t, streams)

	out := g.ok("streams", "list")
	require.Contains(t, out, "/live/1")
	require.Contains(t, out, "  1 message, 3 B")
	require.NotContains(t, out, secret)
	require.NotContains(t, g.ok("streams", "list", "--json"), secret)
	require.NotContains(t, g.ok("streams", "list", "--route", "none"), "/live")
}

// requireEnded checks that a caller was told to go.
func requireEnded(t *testing.T, caller *websocket.Conn) {
	t.Helper()
	_, _, err := caller.ReadMessage()
	require.True(t, websocket.IsCloseError(err, websocket.CloseGoingAway), "%v", err)
}

func TestALiveStreamIsEnded(t *testing.T) {
	g, callers := liveStreams(t, 3)
	var streams []struct{ ID string }
	g.get("/streams", &streams)

	require.Equal(t, http.StatusAccepted, g.do(http.MethodDelete, "/streams/"+streams[1].ID).StatusCode)
	requireEnded(t, callers[1])
	require.Eventually(t, func() bool { g.get("/streams", &streams); return len(streams) == 2 }, patience, time.Millisecond)
	g.do(http.MethodDelete, "/streams/none").refusal(t, http.StatusNotFound)

	require.Equal(t, "told "+streams[0].ID+" to end\n", g.ok("streams", "kill", streams[0].ID))
	requireEnded(t, callers[0])
	require.JSONEq(t, `{"killed":1}`, g.ok("streams", "kill", "--json", streams[1].ID))
	requireEnded(t, callers[2])

	o := g.run("streams", "kill", "none")
	require.Equal(t, 5, o.code)
	require.ErrorContains(t, o.err, "no such stream")
}

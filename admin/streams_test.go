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

const password = "0123456789abcdef0123456789abcdef"

// liveStreams runs a gateway with some live streams through it, opened by the
// users one and two in turn, and returns the callers' ends of them.
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
		basic_auth plain {
			one `+password+`
			two `+password+`
		}
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
		as := &http.Request{Header: make(http.Header)}
		as.SetBasicAuth([]string{"one", "two"}[i%2], password)
		callback := fmt.Sprintf("ws://127.0.0.1:%d/live/%d?token=%s", port, i, secret)
		caller, response, err := websocket.DefaultDialer.Dial(callback, as.Header)
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
		require.Eventually(t, func() bool { return g.run("streams", "list", "--json").out == "[]\n" },
			patience, time.Millisecond)
	})
	return g, callers
}

func TestLiveStreamsAreListed(t *testing.T) {
	began := time.Now()
	g, _ := liveStreams(t, 2)
	var streams []map[string]any
	// A message is counted when it has gone through, which may be after its echo came.
	counted := func() bool {
		g.get("/streams", &streams)
		return !slices.ContainsFunc(streams, func(s map[string]any) bool {
			return s["messages_from_backend"] != 1.0 || s["messages_from_caller"] != 1.0
		})
	}
	require.Eventually(t, counted, patience, time.Millisecond)
	require.Len(t, streams, 2)
	for i, s := range streams {
		require.Equal(t, []string{
			"bytes_from_backend", "bytes_from_caller", "client_ip", "id", "messages_from_backend",
			"messages_from_caller",
			"path", "route", "started_at", "upstream", "user",
		}, keys(s))
		require.Equal(t, []string{"one", "two"}[i], s["user"])
		require.Equal(t, fmt.Sprintf("/live/%d", i), s["path"])
		require.Equal(t, "127.0.0.1", s["client_ip"])
		require.EqualValues(t, 3, s["bytes_from_caller"])
		require.EqualValues(t, 6, s["bytes_from_backend"])
		opened, err := time.Parse(time.RFC3339Nano, s["started_at"].(string))
		require.NoError(t, err)
		require.WithinRange(t, opened, began, time.Now())
	}
	upstream := streams[0]["upstream"].(string)
	for query, want := range map[string]int{
		"route=none": 0, "user=one": 1, "user=three": 0, "path=/live/1": 1, "path=/live/*": 2,
		"path=/live": 0, "state=live": 2,
		"upstream=" + upstream: 2, "upstream=x": 0, "user=two&path=/live/0": 0,
		"user=two&path=/live/1&state=live": 1,
	} {
		g.get("/streams?"+query, &streams)
		require.Len(t, streams, want, query)
	}

	out := g.ok("streams", "list")
	require.Contains(t, out, "/live/1")
	require.Contains(t, out, "  1 message, 3 B")
	require.NotContains(t, out, secret)
	require.NotContains(t, g.ok("streams", "list", "--json"), secret)
	require.NotContains(t, g.ok("streams", "list", "--route", "none"), "/live")
	require.NotContains(t, g.ok("streams", "list", "--user", "one"), "/live/1")
	require.Contains(t, g.ok("streams", "list", "--upstream", upstream, "--path", "/live/1"), "two")
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

	require.Equal(t, http.StatusAccepted,
		g.do(http.MethodDelete, "/streams/"+streams[1].ID).StatusCode)
	requireEnded(t, callers[1])
	require.Eventually(t, func() bool { g.get("/streams", &streams); return len(streams) == 2 },
		patience, time.Millisecond)
	g.do(http.MethodDelete, "/streams/none").refusal(t, http.StatusNotFound)

	require.Equal(t, "told "+streams[0].ID+" to end\n", g.ok("streams", "kill", streams[0].ID))
	requireEnded(t, callers[0])
	require.JSONEq(t, `{"killed":1}`, g.ok("streams", "kill", "--json", streams[1].ID))
	requireEnded(t, callers[2])

	o := g.run("streams", "kill", "none")
	require.Equal(t, 5, o.code)
	require.ErrorContains(t, o.err, "no such stream")
}

// What a revoked credential has opened is ended by its user's name.
func TestLiveStreamsAreEndedBySelection(t *testing.T) {
	g, callers := liveStreams(t, 6)
	var killed struct{ Killed int }
	a := g.do(http.MethodDelete, "/streams?user=two&path=/live/1")
	require.Equal(t, http.StatusOK, a.StatusCode)
	require.NoError(t, json.Unmarshal(a.body, &killed))
	require.Equal(t, 1, killed.Killed)
	requireEnded(t, callers[1])

	left := func(n int) {
		t.Helper()
		require.Eventually(t, func() bool {
			var streams []any
			g.get("/streams", &streams)
			return len(streams) == n
		}, patience, time.Millisecond)
	}
	left(5)
	require.Equal(t, "told 2 streams to end\n", g.ok("streams", "kill", "--user", "two"))
	requireEnded(t, callers[3])
	requireEnded(t, callers[5])
	left(3)
	require.Equal(t, "told 1 stream to end\n", g.ok("streams", "kill", "--path", "/live/0"))
	requireEnded(t, callers[0])
	left(2)
	require.JSONEq(t, `{"killed":0}`, g.ok("streams", "kill", "--json", "--user", "two"))
	require.JSONEq(t, `{"killed":0}`, g.ok("streams", "kill", "--json", "--upstream", "127.0.0.1:1"))
	var streams []struct{ Upstream string }
	g.get("/streams", &streams)
	require.JSONEq(t, `{"killed":2}`,
		g.ok("streams", "kill", "--json", "--upstream", streams[0].Upstream))
	requireEnded(t, callers[2])
	requireEnded(t, callers[4])
	left(0)
}

func TestStreamsAreNotEndedByAnEmptySelection(t *testing.T) {
	g, callers := liveStreams(t, 2)
	for _, query := range []string{"", "?user=", "?path=", "?user=one&path=", "?state=live",
		"?usr=one", "?user=one&user=two"} {
		g.do(http.MethodDelete, "/streams"+query).refusal(t, http.StatusBadRequest)
	}
	for _, command := range [][]string{
		{"streams", "kill"}, {"streams", "kill", "--user", ""}, {"streams", "kill", "--user", "one", "x"},
		{"streams", "kill", "--json"},
	} {
		require.Equal(t, 1, g.run(command...).code, command)
	}
	for _, caller := range callers {
		require.NoError(t, caller.WriteMessage(websocket.TextMessage, []byte("abc")))
		_, message, err := caller.ReadMessage()
		require.NoError(t, err)
		require.Equal(t, "abcabc", string(message))
	}
}

func TestEndedStreamsAreListed(t *testing.T) {
	g, callers := liveStreams(t, 2)
	g.ok("streams", "kill", "--user", "two")
	requireEnded(t, callers[1])
	require.NoError(t, callers[1].Close())
	var ended []map[string]any
	require.Eventually(t, func() bool {
		g.get("/streams?state=ended&user=two", &ended) // of this process: other tests' come behind
		return len(ended) > 0 && ended[0]["reason"] == "shutdown" && ended[0]["path"] == "/live/1"
	}, patience, time.Millisecond)
	s := ended[0]
	require.Subset(t, keys(s), []string{
		"bytes_from_backend", "bytes_from_caller", "client_ip", "close_code", "close_text", "duration",
		"ended_at", "ended_by", "id",
		"messages_from_backend", "messages_from_caller", "path", "reason", "route", "started_at",
		"upstream", "user",
	})
	require.Equal(t, "gateway", s["ended_by"])
	require.Equal(t, "ended by the operator", s["close_text"])
	require.EqualValues(t, 1001, s["close_code"])
	require.EqualValues(t, 3, s["bytes_from_caller"])
	require.Positive(t, s["duration"])

	require.NoError(t, callers[0].NetConn().Close())
	require.Eventually(t, func() bool {
		g.get("/streams?state=ended", &ended)
		return ended[0]["user"] == "one"
	}, patience, time.Millisecond, "the newest comes first")
	require.Equal(t, "dropped", ended[0]["reason"])
	require.NotEmpty(t, ended[0]["error"])

	out := g.ok("streams", "list", "--ended", "--user", "two")
	require.Contains(t, out, "1001 ended by the operator")
	require.NotContains(t, out, " one ")
	for _, out := range []string{out, g.ok("streams", "list", "--ended", "--json")} {
		require.NotContains(t, out, secret)
		require.NotContains(t, out, password)
	}
	g.do(http.MethodGet, "/streams?state=dead").refusal(t, http.StatusBadRequest)
}

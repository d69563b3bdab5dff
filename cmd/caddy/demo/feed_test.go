package demo

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
)

// submission is a request to the simulator.
type submission struct {
	path     string
	query    url.Values
	callback *url.URL
	size     int
	ended    string // how a call ended
}

// newFakeSimulator takes every request, and hands it to the test.
func newFakeSimulator(t *testing.T, status int) (server *httptest.Server, got chan submission) {
	t.Helper()
	got = make(chan submission, 1000)
	server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Token a-key" {
			t.Error("no key")
		}
		s := submission{path: r.URL.Path, query: r.URL.Query()}
		var err error
		if s.callback, err = url.Parse(s.query.Get("callback")); err != nil {
			t.Error(err)
		}
		if status != http.StatusOK {
			w.WriteHeader(status)
			got <- s
			return
		}
		if !websocket.IsWebSocketUpgrade(r) {
			body, err := io.ReadAll(r.Body)
			if err != nil {
				return // the feed was stopped
			}
			s.size = len(body)
			got <- s
			return
		}
		conn, err := new(websocket.Upgrader).Upgrade(w, r, nil)
		if err != nil {
			return
		}
		defer conn.Close()
		for {
			kind, body, err := conn.ReadMessage()
			switch {
			case err != nil:
				s.ended = "dropped"
			case kind == websocket.TextMessage:
				s.ended = string(body)
				_ = conn.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(1000, ""),
					time.Now().Add(time.Second))
			}
			s.size += len(body)
			if s.ended != "" {
				got <- s
				return
			}
		}
	}))
	t.Cleanup(server.Close)
	return server, got
}

// startFeed runs a feed with short times.
func startFeed(t *testing.T, simulator string) *observer.ObservedLogs {
	t.Helper()
	core, logs := observer.New(zap.DebugLevel)
	f := &Feed{
		Simulator: simulator, APIKey: "a-key", Callback: "http://user:hunter2@localhost:8080",
		logger: zap.New(core),
		pace:   pace{time.Millisecond, time.Millisecond, 10 * time.Millisecond, time.Millisecond},
	}
	require.NoError(t, f.Start())
	t.Cleanup(func() { require.NoError(t, f.Stop()) })
	return logs
}

func TestTheFeedIsVaried(t *testing.T) {
	simulator, got := newFakeSimulator(t, http.StatusOK)
	startFeed(t, simulator.URL)
	seen := make(map[string]bool)
	want := []string{
		"/v1/listen http /callback/recordings", "/v1/listen http /flaky/recordings",
		"/v1/read http /callback/texts",
		"/v1/speak http /callback/speech", "/v2/speak http /flaky/speech",
		`/v1/listen ws /live {"type":"CloseStream"}`, `/v1/listen http /live {"type":"CloseStream"}`,
		"/v1/listen ws /live dropped",
	}
	for deadline := time.After(20 * time.Second); !containsAll(seen, want); {
		select {
		case s := <-got:
			password, _ := s.callback.User.Password()
			require.Equal(t, "hunter2", password)
			require.NotZero(t, s.size)
			seen[strings.TrimSpace(fmt.Sprintln(s.path, s.callback.Scheme, s.callback.Path, s.ended))] = true
		case <-deadline:
			require.FailNow(t, "not everything came", "%v", seen)
		}
	}
}

func containsAll(seen map[string]bool, want []string) bool {
	for _, each := range want {
		if !seen[each] {
			return false
		}
	}
	return true
}

func TestTheFeedGoesOnWhenTheSimulatorFailsAndLogsNoPassword(t *testing.T) {
	refusing, got := newFakeSimulator(t, http.StatusTooManyRequests)
	logs := startFeed(t, refusing.URL)
	for range 10 {
		<-got
	}
	away := httptest.NewServer(nil)
	away.Close()
	unreachable := startFeed(t, away.URL)
	require.Eventually(t, func() bool { return unreachable.Len() > 10 },
		20*time.Second, time.Millisecond)
	for _, entry := range append(logs.All(), unreachable.All()...) {
		require.NotContains(t, fmt.Sprint(entry.Message, entry.ContextMap()), "hunter2")
	}
}

func TestTheFeedsOption(t *testing.T) {
	value, err := parseFeed(
		caddyfile.NewTestDispenser("demo_feed http://127.0.0.1:8090 a-key http://u:p@127.0.0.1:8080"),
		nil,
	)
	require.NoError(t, err)
	app := value.(httpcaddyfile.App)
	require.Equal(t, "demo_feed", app.Name)
	feed := new(Feed)
	require.NoError(t, json.Unmarshal(app.Value, feed))
	require.Equal(t, []string{"http://127.0.0.1:8090", "a-key", "http://u:p@127.0.0.1:8080"},
		[]string{feed.Simulator, feed.APIKey, feed.Callback})
	for _, wrong := range []string{"demo_feed", "demo_feed a b", "demo_feed a b c d",
		"demo_feed a b c {\n d\n}"} {
		_, err := parseFeed(caddyfile.NewTestDispenser(wrong), nil)
		require.Error(t, err, wrong)
	}

	ctx, cancel := caddy.NewContext(caddy.Context{Context: t.Context()})
	defer cancel()
	require.NoError(t, feed.Provision(ctx))
	for _, wrong := range []string{"", "127.0.0.1", "ws://u:hunter2@host", "http://u:hunter2@"} {
		require.ErrorContains(t,
			(&Feed{Simulator: "http://host", Callback: wrong}).Provision(ctx), "callback")
		err := (&Feed{Simulator: wrong, Callback: "http://host"}).Provision(ctx)
		require.ErrorContains(t, err, "simulator")
		require.NotContains(t, err.Error(), "hunter2")
	}
}

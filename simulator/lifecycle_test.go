package simulator

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/stretchr/testify/require"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
)

func TestPendingCallbackSurvivesAReload(t *testing.T) {
	gate := make(chan struct{})
	got := make(chan string, 10)
	receiver := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		<-gate
		got <- r.URL.Path
	}))
	defer receiver.Close()

	old := serve(t, &Simulator{})
	old.post("/v1/listen", "audio/wav", bytes.NewReader(wav(1, 8000, 1)), "callback", receiver.URL+"/pending")

	// Caddy provisions the new configuration before it cleans up the old one.
	unload := provision(t, &Simulator{AnyPort: true})
	require.NoError(t, old.sim.Cleanup())
	close(gate)
	require.Equal(t, "/pending", take(t, got))
	unload()
	require.Empty(t, outboxesReferences(t))
	old.sim.outbox = nil // cleaned up already
}

// outboxesReferences tells whether an outbox is still in use.
func outboxesReferences(t *testing.T) []any {
	t.Helper()
	var keys []any
	outboxes.Range(func(key, _ any) bool { keys = append(keys, key); return true })
	return keys
}

func TestLastCleanupDropsWhatIsPendingAndWaits(t *testing.T) {
	s := &Simulator{Latency: new(caddy.Duration(time.Hour))}
	unload := provision(t, s)
	ended := make(chan error, 1)
	require.True(t, s.outbox.later(1, func(ctx context.Context) {
		<-ctx.Done()
		ended <- context.Cause(ctx)
	}))
	unload()
	require.Len(t, ended, 1, "Cleanup waits")
	require.ErrorIs(t, <-ended, errShutdown)
}

func TestShutdownEndsStreams(t *testing.T) {
	_, speaker, callback, _ := bridge(t, &Simulator{})
	sayLinear16(t, speaker, 1, 3200)
	shared, ok := outboxes.References(outboxKey)
	require.True(t, ok)
	require.Equal(t, 1, shared)

	ended := make(chan error, 1)
	go func() { ended <- listenTo(callback.conn).err }()
	toSpeaker := make(chan error, 1)
	go func() { toSpeaker <- listenTo(speaker).err }()
	outboxes.Range(func(_, value any) bool {
		value.(*outbox).cancel(errShutdown)
		return true
	})
	requireClosed(t, take(t, ended), websocket.CloseGoingAway)
	requireClosed(t, take(t, toSpeaker), websocket.CloseGoingAway)
}

// Cleanup also runs after a Provision that failed, on a half-built value.
func TestCleanupAfterAFailedProvision(t *testing.T) {
	pem := filepath.Join(t.TempDir(), "ca.pem")
	require.NoError(t, os.WriteFile(pem, []byte("none"), 0o600))
	for name, s := range map[string]*Simulator{
		"any_port":    {AnyPort: true, Ports: []int{80}},
		"ports":       {Ports: []int{70000}},
		"latency":     {Latency: new(caddy.Duration(-1))},
		"retries":     {Retries: new(-1)},
		"retry_delay": {RetryDelay: new(caddy.Duration(-1))},
		"timeout":     {Timeout: -1},
		"max_body":    {MaxBody: -1},
		"drop_after":  {Faults: Faults{DropAfter: -1}},
		"slow_upload": {Faults: Faults{SlowUpload: -1}},
		"allow":       {Allow: []string{"here"}},
		"results":     {Results: "/nowhere"},
		"api_keys":    {APIKeys: []APIKey{{"", "id"}}},
		"repeats":     {APIKeys: []APIKey{{"k", "1"}, {"k", "2"}}},
		"ca.pem":      {RootCAPEMFiles: []string{pem}},
		"missing.pem": {RootCAPEMFiles: []string{"missing.pem"}},
	} {
		ctx, cancel := caddy.NewContext(caddy.Context{Context: context.Background()})
		require.ErrorContains(t, s.Provision(ctx), name)
		require.NoError(t, s.Cleanup())
		cancel()
	}
	require.Empty(t, outboxesReferences(t))
}

// In a real Caddy, with the access log on, whose recorder stands between the
// handler and the connection.
func TestInsideCaddyWithAccessLog(t *testing.T) {
	receiver := newReceiver(t)
	for _, log := range []string{"", "log {\n output discard\n }"} {
		path := filepath.Join(t.TempDir(), "caddy.sock")
		config := fmt.Sprintf(`{
			admin off
			persist_config off
			grace_period 1s
			storage file_system %s
			storage_clean_interval off
		}
		http://localhost {
			bind unix/%s
			%s
			respond 404
			deepgram_simulator {
				ports any
				latency 0
			}
		}`, t.TempDir(), path, log)
		adapted, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(config), nil)
		require.NoError(t, err)
		require.NoError(t, caddy.Load(adapted, true))
		e := &env{t: t, url: "http://localhost", dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", path)
		}}

		a := e.post("/v1/listen", "audio/wav", bytes.NewReader(wav(1, 8000, 1)), "callback", receiver.URL)
		require.Equal(t, http.StatusOK, a.status)
		require.Equal(t, a.header.Get("dg-request-id"), result(t, receiver.next(t).body).Metadata.RequestID)

		conn, _ := e.speak(raw...)
		sayLinear16(t, conn, 3, 3200)
		say(t, conn, `{"type":"CloseStream"}`)
		requireClosed(t, listenTo(conn).err, websocket.CloseNormalClosure)

		// A stream that is open when Caddy stops is told so.
		open, _ := e.speak(raw...)
		ended := make(chan error, 1)
		go func() { ended <- listenTo(open).err }()
		require.NoError(t, caddy.Stop())
		requireClosed(t, take(t, ended), websocket.CloseGoingAway)
	}
	require.Empty(t, outboxesReferences(t))
}

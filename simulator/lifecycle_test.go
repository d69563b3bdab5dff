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
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/stretchr/testify/require"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-deepgram/deepgram-callback/internal/caddytest"
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
	old.post("/v1/listen", "audio/wav", bytes.NewReader(wav(1, 8000, 1)), "callback",
		receiver.URL+"/pending")

	// Caddy provisions the new configuration before it cleans up the old one.
	unload := provision(t, &Simulator{AnyPort: true})
	require.NoError(t, old.sim.Cleanup())
	close(gate)
	require.Equal(t, "/pending", take(t, got))
	unload()
	require.Empty(t, outboxesReferences(t))
	old.sim.outbox = nil // cleaned up already
}

// outboxesReferences returns the keys of the outboxes that are in use.
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

// runCaddy runs a Caddyfile for the rest of the test.
func runCaddy(t *testing.T, config string) {
	t.Helper()
	t.Cleanup(func() { require.Empty(t, outboxesReferences(t)) })
	caddytest.Start(t, func() []byte { return caddytest.Adapt(t, config) })
}

// In a real Caddy with the access log, the recorder of that log stands between the handler and
// the connection.
func TestInsideCaddyWithAccessLog(t *testing.T) {
	receiver := newReceiver(t)
	for _, log := range []string{"", "log {\n output discard\n }"} {
		path := filepath.Join(t.TempDir(), "caddy.sock")
		runCaddy(t, caddytest.Globals("grace_period 1s")+fmt.Sprintf(`http://localhost {
			bind unix/%s
			%s
			respond 404
			deepgram_simulator {
				ports any
				latency 0
			}
		}`, path, log))
		e := &env{t: t, url: "http://localhost",
			dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return new(net.Dialer).DialContext(ctx, "unix", path)
			}}

		a := e.post("/v1/listen", "audio/wav", bytes.NewReader(wav(1, 8000, 1)), "callback", receiver.URL)
		require.Equal(t, http.StatusOK, a.status)
		require.Equal(t, a.header.Get("dg-request-id"),
			result(t, receiver.next(t).body).Metadata.RequestID)

		conn, _ := e.speak(raw...)
		sayLinear16(t, conn, 3, 3200)
		say(t, conn, `{"type":"CloseStream"}`)
		requireClosed(t, listenTo(conn).err, websocket.CloseNormalClosure)

		// A stream that is open when Caddy stops is told so.
		open, _ := e.speak(raw...)
		ended := make(chan error, 1)
		go func() { ended <- listenTo(open).err }()
		caddytest.Stop(t)
		requireClosed(t, take(t, ended), websocket.CloseGoingAway)
	}
}

// No callback reaches the admin endpoint, where it would stop Caddy, under whatever name. Not every
// resolver takes each of these names for this machine: then the callback is lost for that reason.
func TestNoCallbackReachesTheAdminEndpoint(t *testing.T) {
	addresses := []string{"127.0.0.1", "[::1]", "0.0.0.0", "[::]", "[::ffff:127.0.0.1]", "127.0.0.2"}
	for listening, names := range map[string][]string{
		"127.0.0.1": {"localhost", "LOCALHOST.", "127.1", "2130706433", "0x7f.1", "017700000001"},
		"localhost": {"localhost"}, "": {"localhost"}, "[::]": {"localhost"},
	} {
		t.Run(listening, func(t *testing.T) {
			admin := strconv.Itoa(caddytest.FreePort(t))
			a := runWithAdmin(t, listening+":"+admin)
			for _, host := range append(names, addresses...) {
				status := http.StatusOK // and refused when it is dialled
				if slices.Contains(addresses, host) {
					status = http.StatusBadRequest
				}
				target := host + ":" + admin + "/stop"
				got := a.post("/v1/read", "text/plain", strings.NewReader("text"), "callback", "http://"+target)
				require.Equal(t, status, got.status, "%s: %s", host, got.body)
				_, resp, err := a.dialStream("callback", "ws://"+target)
				require.ErrorIs(t, err, websocket.ErrBadHandshake)
				require.Equal(t, map[int]int{http.StatusBadRequest: 400, http.StatusOK: 502}[status],
					resp.StatusCode, host)
			}
			redirects := httptest.NewServer(http.RedirectHandler("http://127.0.0.1:"+admin+"/stop",
				http.StatusTemporaryRedirect))
			defer redirects.Close()
			a.post("/v1/read", "text/plain", strings.NewReader("text"), "callback", redirects.URL)

			log := awaitLost(t, a.log, len(names)+1)
			require.Contains(t, log, "the address of Caddy's admin endpoint",
				"localhost is resolved, and refused")
			require.NotContains(t, log, "callback delivered")
			requireAdminAnswers(t, admin)
		})
	}
}

// A callback that waits while a reload moves the admin endpoint does not reach it at its new
// address.
func TestNoPendingCallbackReachesAnAdminEndpointThatMoved(t *testing.T) {
	before, after := strconv.Itoa(caddytest.FreePort(t)), strconv.Itoa(caddytest.FreePort(t))
	a := runWithAdmin(t, "127.0.0.1:"+before, "latency 500ms")
	a.post("/v1/read", "text/plain", strings.NewReader("text"), "callback",
		"http://localhost:"+after+"/stop")
	caddytest.Reload(t, caddytest.Adapt(t, a.config("127.0.0.1:"+after)),
		strings.TrimPrefix(a.url, "http://"))
	require.Contains(t, awaitLost(t, a.log, 1), "the address of Caddy's admin endpoint")
	requireAdminAnswers(t, after)
}

// withAdmin is a Caddy with a simulator and an admin endpoint.
type withAdmin struct {
	env
	log    caddytest.Log
	config func(admin string) string
}

func runWithAdmin(t *testing.T, admin string, options ...string) *withAdmin {
	t.Helper()
	addr := caddytest.FreeAddr(t)
	a := &withAdmin{env: env{t: t, url: "http://" + addr}, log: caddytest.NewLog(t)}
	if len(options) == 0 {
		options = []string{"latency 0"}
	}
	a.config = func(admin string) string {
		globals := strings.Replace(caddytest.Globals(a.log.Option("")), "admin off", "admin "+admin, 1)
		return globals + "http://" + addr +
			" {\n deepgram_simulator {\n ports any\n allow 0.0.0.0/0 ::/0\n retries 0\n timeout 2s\n" +
			strings.Join(options, "\n") + "\n }\n}"
	}
	runCaddy(t, a.config(admin))
	return a
}

func requireAdminAnswers(t *testing.T, port string) {
	t.Helper()
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Get("http://127.0.0.1:" + port + "/config/")
	require.NoError(t, err, "Caddy was stopped")
	require.NoError(t, resp.Body.Close())
}

// awaitLost waits until so many callbacks by HTTP are lost, and returns the log.
func awaitLost(t *testing.T, log caddytest.Log, lost int) string {
	t.Helper()
	require.Eventually(t, func() bool { return strings.Count(log.Text(t), "callback lost") == lost },
		patience, 10*time.Millisecond)
	return log.Text(t)
}

// The filter in the simulator's README keeps credentials out of the access log, and one log line
// says that it is needed.
func TestTheReadmesFilterKeepsCredentialsOutOfTheAccessLog(t *testing.T) {
	readme, err := os.ReadFile("README.md")
	require.NoError(t, err)
	_, config, found := strings.Cut(string(readme), "\n## Keeping credentials out of Caddy's logs\n")
	require.True(t, found)
	_, config, _ = strings.Cut(config, "```caddyfile\n")
	config, _, found = strings.Cut(config, "```")
	require.True(t, found)
	begin, end := strings.Index(config, "\t\tformat filter"), strings.Index(config, "\t}\n}")
	filter := config[begin:end]

	const advice = "the access log shows the credentials of callback URLs"
	for name, test := range map[string]struct {
		access, filter string
		shown, advised bool
	}{
		"no access log": {"", "", false, false},
		"no filter":     {"log", "", true, true},
		"filter":        {"log", filter, false, true},
	} {
		t.Run(name, func(t *testing.T) {
			addr, log := caddytest.FreeAddr(t), caddytest.NewLog(t)
			config := caddytest.Globals("debug\n"+log.Option(test.filter)) + "http://" + addr + " {\n" +
				test.access +
				"\n deepgram_simulator {\n ports any\n timeout 1s\n retries 0\n latency 0\n }\n}"
			runCaddy(t, config)
			e := &env{t: t, url: "http://" + addr}
			closed := "//user:hunter2@" + caddytest.FreeAddr(t) + "/?hunter2"
			e.post("/v1/read", "text/plain", strings.NewReader("text"), "callback", "http:"+closed,
				"extra", "callback_secret:hunter2")
			browser := websocket.Dialer{Subprotocols: []string{"token", "hunter2"}}
			_, resp, err := browser.Dial("ws://"+addr+"/v1/listen?"+
				pairs([]string{"callback", "ws:" + closed}).Encode(), nil)
			require.ErrorIs(t, err, websocket.ErrBadHandshake)
			require.Equal(t, http.StatusBadGateway, resp.StatusCode)
			awaitLost(t, log, 1)
			caddytest.Reload(t, caddytest.Adapt(t, config), addr)

			said := log.Text(t)
			require.Equal(t, test.access != "", strings.Contains(said, "http.log.access"))
			require.Equal(t, test.shown, strings.Contains(said, "hunter2"), "%s", said)
			require.Equal(t, map[bool]int{true: 1}[test.advised], strings.Count(said, advice))
		})
	}
}

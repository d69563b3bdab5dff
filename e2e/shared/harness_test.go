//go:build unix

package shared_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	_ "github.com/caddyserver/caddy/v2/modules/standard"
	"github.com/stretchr/testify/require"

	_ "github.com/caddy-deepgram/deepgram-callback"
	"github.com/caddy-deepgram/deepgram-callback/internal/caddytest"
	"github.com/caddy-deepgram/deepgram-callback/internal/testpostgres"
	_ "github.com/caddy-deepgram/deepgram-callback/relay/spool/postgres"
)

func TestMain(m *testing.M) { caddytest.Main(m) }

const (
	// patience is how long a test waits for what has to happen.
	patience = 30 * time.Second

	// lease is how long what a dead gateway was delivering is held.
	lease = 2 * time.Second
)

// A delivery is an attempt as the service has seen it.
type delivery struct {
	webhook string // its id
	stream  string // the request id of the callback
	body    string
	gateway string
	live    string // the id of the live stream that it is a message of
	end     string // how that has ended
	began   time.Time
	ended   time.Time // zero while it is under way
	status  int
}

// A service records what is delivered to it, and answers as the test says.
type service struct {
	t      testing.TB
	server *httptest.Server
	answer func(ctx context.Context, d delivery) int

	mu         sync.Mutex
	deliveries []*delivery
}

// newService starts a service. A nil answer is 200.
func newService(t testing.TB, answer func(context.Context, delivery) int) *service {
	t.Helper()
	s := &service{t: t, answer: answer}
	s.server = httptest.NewServer(s)
	t.Cleanup(func() {
		s.server.CloseClientConnections()
		s.server.Close()
	})
	return s
}

func (s *service) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	d := &delivery{
		webhook: r.Header.Get(
			"webhook-id",
		), stream: r.Header.Get("deepgram-request-id"), body: string(body),
		gateway: r.Header.Get("gateway"), began: time.Now(),
		live: r.Header.Get("deepgram-stream-id"), end: r.Header.Get("deepgram-stream-end"),
	}
	s.mu.Lock()
	s.deliveries = append(s.deliveries, d)
	s.mu.Unlock()
	status := http.StatusOK
	if s.answer != nil {
		status = s.answer(r.Context(), *d)
	}
	s.mu.Lock()
	d.ended, d.status = time.Now(), status
	s.mu.Unlock()
	w.WriteHeader(status)
}

// all are the deliveries so far, in the order in which they began.
func (s *service) all() []delivery {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make([]delivery, len(s.deliveries))
	for i, d := range s.deliveries {
		all[i] = *d
	}
	return all
}

// taken are the ids of what was answered 200, with how often.
func (s *service) taken() map[string]int {
	taken := make(map[string]int)
	for _, d := range s.all() {
		if d.status == http.StatusOK {
			taken[d.webhook]++
		}
	}
	return taken
}

// waitFor waits until all these callbacks were taken.
func (s *service) waitFor(ids ...string) {
	s.t.Helper()
	require.Eventually(s.t, func() bool {
		taken := s.taken()
		for _, id := range ids {
			if taken[id] == 0 {
				return false
			}
		}
		return true
	}, patience, 10*time.Millisecond, "callbacks were lost: %d of %d", len(s.taken()), len(ids))
}

// A gateway is a Caddy with the shared inbox.
type gateway struct {
	*caddytest.Process
	t     testing.TB
	name  string
	addr  string // where callbacks go
	admin string
	dsn   string
	to    string // the service

	refused atomic.Int64 // callbacks that were refused for a time
}

func newGateway(t testing.TB, name, dsn string, s *service) *gateway {
	t.Helper()
	ports := caddytest.FreePorts(t, 2)
	g := &gateway{
		t:     t,
		name:  name,
		addr:  caddytest.Addr(ports[0]),
		admin: caddytest.Addr(ports[1]),
		dsn:   dsn,
		to:    strings.TrimPrefix(s.server.URL, "http://"),
	}
	g.start()
	return g
}

// start starts its process, and the next one after that has ended.
func (g *gateway) start() {
	g.t.Helper()
	g.Process = caddytest.StartProcess(g.t, []byte(g.config("")), nil)
	caddytest.Await(g.t, g.addr, &g.Errors)
}

// config is a Caddyfile with more in the block of spool.
func (g *gateway) config(more string) string {
	return fmt.Sprintf(`{
	admin %[1]s
	persist_config off
	storage_clean_interval off
}
http://callbacks.test:%[2]s {
	bind 127.0.0.1
	respond /other "here"
	metrics /metrics
	deepgram_callback %[3]s {
		anonymous
		ports %[2]s
		relay {
			header_up Gateway %[4]s
		}
		stream {
			spool
		}
		spool {
			store postgres %[5]q {
				lease %[6]s
			}
			route hooks
			retry_delays 200ms
			keep 1h
			%[7]s
		}
	}
}
`, g.admin, strings.TrimPrefix(g.addr, "127.0.0.1:"), g.to, g.name, g.dsn, lease, more)
}

// request sends a request to the one name that all gateways have: what has another host is another
// callback.
func (g *gateway) request(method, path, body string) (*http.Response, string, error) {
	request, err := http.NewRequestWithContext(g.t.Context(), method, "http://"+g.addr+path,
		strings.NewReader(body))
	if err != nil {
		return nil, "", err
	}
	request.Host = "callbacks.test"
	request.Header.Set("Content-Type", "application/json")
	client := &http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true}}
	response, err := client.Do(request)
	if err != nil {
		return nil, "", err
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	return response, string(answer), err
}

// call sends a callback.
func (g *gateway) call(stream, text string) (*http.Response, error) {
	body := fmt.Sprintf(`{"metadata":{"request_id":%q},"n":%q}`, stream, text)
	response, _, err := g.request(http.MethodPost, "/callback", body)
	return response, err
}

// accept sends a callback that has to be accepted, and returns its id.
func (g *gateway) accept(stream, text string) string {
	g.t.Helper()
	response, err := g.call(stream, text)
	require.NoError(g.t, err)
	require.Equal(g.t, http.StatusAccepted, response.StatusCode, "%s", &g.Errors)
	return response.Header.Get("Webhook-Id")
}

// acceptAtLast sends a callback until it is accepted, as the vendor does, for as long as it is
// refused for a time. It returns its id.
func (g *gateway) acceptAtLast(stream, text string) string {
	const pause = 50 * time.Millisecond
	for until := time.Now().Add(patience); time.Now().Before(until); <-time.After(pause) {
		response, err := g.call(stream, text)
		switch {
		case err != nil:
			g.t.Errorf("%s: %v", g.name, err)
			return ""
		case response.StatusCode == http.StatusAccepted:
			return response.Header.Get("Webhook-Id")
		case response.StatusCode != http.StatusServiceUnavailable ||
			response.Header.Get("Retry-After") == "":
			g.t.Errorf("%s answered %s, Retry-After %q", g.name, response.Status,
				response.Header.Get("Retry-After"))
			return ""
		}
		g.refused.Add(1)
	}
	g.t.Errorf("%s never accepted %s of %s", g.name, text, stream)
	return ""
}

// ask asks the admin API.
func (g *gateway) ask(method, path string, answer any) {
	g.t.Helper()
	request, err := http.NewRequestWithContext(g.t.Context(), method, "http://"+g.admin+path, nil)
	require.NoError(g.t, err)
	response, err := http.DefaultClient.Do(request)
	require.NoError(g.t, err)
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	require.NoError(g.t, err)
	require.Less(g.t, response.StatusCode, 300, "%s", body)
	if answer != nil {
		require.NoError(g.t, json.Unmarshal(body, answer))
	}
}

// reload makes another configuration the running one.
func (g *gateway) reload(config string) {
	g.t.Helper()
	request, err := http.NewRequestWithContext(
		g.t.Context(),
		http.MethodPost,
		"http://"+g.admin+"/load",
		bytes.NewReader([]byte(config)),
	)
	require.NoError(g.t, err)
	request.Header.Set("Content-Type", "text/caddyfile")
	response, err := http.DefaultClient.Do(request)
	require.NoError(g.t, err)
	defer response.Body.Close()
	said, err := io.ReadAll(response.Body)
	require.NoError(g.t, err)
	require.Equal(g.t, http.StatusOK, response.StatusCode, "%s", said)
}

// command runs `caddy deepgram-callback` with arguments, and returns what it prints.
func (g *gateway) command(args ...string) string {
	g.t.Helper()
	args = append([]string{"deepgram-callback", "--address", g.admin}, args...)
	out, err := caddytest.Command(g.t, args...).Output()
	require.NoError(g.t, err)
	return string(out)
}

// inbox is what GET /spool says of the one inbox.
type inbox struct {
	Pending, Dead, Delivered int
	InFlight                 int `json:"in_flight"`
	Refusing, Error          string
	Gateways                 []struct {
		Name string
		Self bool
	}
	Routes map[string]struct{ Paused bool }
}

func (g *gateway) inbox() inbox {
	g.t.Helper()
	var status struct{ Inboxes map[string]inbox }
	g.ask(http.MethodGet, "/deepgram_callback/spool", &status)
	require.Len(g.t, status.Inboxes, 1)
	for _, in := range status.Inboxes {
		return in
	}
	return inbox{}
}

// newDatabase starts a PostgreSQL for one test.
func newDatabase(t testing.TB) *testpostgres.Server {
	t.Helper()
	return testpostgres.New(t)
}

package admin_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	_ "github.com/caddyserver/caddy/v2/modules/standard"
	"github.com/spf13/cobra"
	"github.com/stretchr/testify/require"

	_ "github.com/caddy-deepgram/deepgram-callback"
	"github.com/caddy-deepgram/deepgram-callback/admin"
	"github.com/caddy-deepgram/deepgram-callback/app"
	"github.com/caddy-deepgram/deepgram-callback/internal/caddytest"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
)

func TestMain(m *testing.M) {
	caddy.RegisterModule(new(routes))
	caddytest.Main(m)
}

// patience is how long a test waits for what has to happen.
const patience = caddytest.Patience

// A service is what a route delivers to. Its answer depends on the path of the
// callback: /gone is 410 and dies at once, /refused is 400 and is tried again in
// an hour, /held waits until the test lets go, and anything else is delivered.
// Once it is mended everything is delivered.
type service struct {
	mu     sync.Mutex
	mended bool
	taken  map[spool.ID]int // how often each was delivered
	held   chan struct{}    // closed to let go
	holds  chan spool.ID    // those that are being held
}

func newService(t testing.TB) *service {
	s := &service{
		taken: make(map[spool.ID]int), held: make(chan struct{}), holds: make(chan spool.ID, 10),
	}
	t.Cleanup(s.letGo)
	return s
}

func (s *service) mend() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mended = true
}

func (s *service) letGo() {
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case <-s.held:
	default:
		close(s.held)
	}
}

func (s *service) deliver(ctx context.Context, msg *spool.Message, _ spool.Body) spool.Result {
	s.mu.Lock()
	mended := s.mended
	s.mu.Unlock()
	path, _, _ := strings.Cut(msg.URI, "?")
	switch {
	case mended:
	case path == "/gone":
		return spool.Result{Status: http.StatusGone}
	case path == "/refused":
		return spool.Result{Status: http.StatusBadRequest}
	case path == "/held":
		s.holds <- msg.ID
		select {
		case <-s.held:
		case <-ctx.Done():
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.taken[msg.ID]++
	return spool.Result{Status: http.StatusOK, Upstream: "127.0.0.1:9000"}
}

// took says how often a callback was delivered.
func (s *service) took(id spool.ID) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.taken[id]
}

// routes is a Caddy app that stands for handlers: it puts routes into inboxes.
type routes struct{}

// wanted are the routes of the next configuration.
var wanted []*app.Route

func (*routes) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "deepgram_callback_test",
		New: func() caddy.Module { return new(routes) },
	}
}

func (*routes) Provision(ctx caddy.Context) error {
	callback, err := ctx.App("deepgram_callback")
	if err != nil {
		return err
	}
	for _, route := range wanted {
		if err := callback.(*app.App).AddRoute(route); err != nil {
			return err
		}
	}
	return nil
}

func (*routes) Start() error { return nil }
func (*routes) Stop() error  { return nil }

// A gateway is Caddy in this process.
type gateway struct {
	t       testing.TB
	service *service
	admin   string // address of its API, as Caddy writes it
	http    *http.Client
}

// start runs Caddy with the routes of some inboxes, by the inboxes' paths, and
// with further apps, until the test ends. Its admin API is on a socket.
func start(t testing.TB, inboxes map[string][]string, apps map[string]json.RawMessage) *gateway {
	t.Helper()
	dir, err := os.MkdirTemp("", "admin") // a socket's path has to be short
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return startAt(t, "unix/"+filepath.Join(dir, "s"), inboxes, apps)
}

// startAt is start with the address of the admin API.
func startAt(
	t testing.TB, address string, inboxes map[string][]string, apps map[string]json.RawMessage,
) *gateway {
	t.Helper()
	g := &gateway{t: t, admin: address}
	all := map[string]json.RawMessage{"deepgram_callback_test": json.RawMessage("{}")}
	for name, config := range apps {
		all[name] = config
	}
	config, err := json.Marshal(map[string]any{
		"admin":   map[string]any{"listen": address, "config": map[string]any{"persist": false}},
		"logging": map[string]any{"logs": map[string]any{"default": map[string]any{"level": "PANIC"}}},
		"apps":    all,
	})
	require.NoError(t, err)

	deliveries := newService(t) // before Caddy's own cleanup, which runs first and would wait for it
	g.service = deliveries
	wanted = nil
	for path, names := range inboxes {
		for _, name := range names {
			wanted = append(wanted, &app.Route{
				Store:   caddytest.DiskStore(t, path),
				Name:    name,
				MaxSize: 1 << 30,
				Config: spool.RouteConfig{
					Deliver:     deliveries.deliver,
					RetryDelays: []time.Duration{time.Hour},
					Keep:        keep(name),
				},
			})
		}
	}
	caddytest.Start(t, func() []byte { return config })
	t.Cleanup(deliveries.letGo) // which Caddy waits for when it stops
	g.http = &http.Client{
		Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			if socket, ok := strings.CutPrefix(address, "unix/"); ok {
				return new(net.Dialer).DialContext(ctx, "unix", socket)
			}
			return new(net.Dialer).DialContext(ctx, "tcp", address)
		}},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	t.Cleanup(g.http.CloseIdleConnections)
	return g
}

// keep is how long a route of a name keeps what it has delivered.
func keep(route string) time.Duration {
	if strings.HasPrefix(route, "kept") {
		return time.Hour
	}
	return 0
}

// one runs a gateway with one inbox, and returns it with the inbox's path.
func one(t testing.TB) (*gateway, string) {
	path := t.TempDir()
	return start(t, map[string][]string{path: {"hooks", "other"}}, nil), path
}

// accept takes a callback in.
func (g *gateway) accept(path, route, uri string, body io.Reader, header http.Header) spool.ID {
	g.t.Helper()
	receipt, err := app.ThisProcess().Inboxes()[path].Accept(g.t.Context(), spool.Envelope{
		Route: route, Method: http.MethodPost, URI: uri, Header: header, ContentLength: -1,
	}, body)
	require.NoError(g.t, err)
	require.False(g.t, receipt.Duplicate, "the test's own callbacks have to differ")
	return receipt.ID
}

// acceptMany takes many small callbacks in at once.
func (g *gateway) acceptMany(path, route, uri string, many int) {
	g.t.Helper()
	failed := make(chan error, many)
	var accepted sync.WaitGroup
	for i := range many {
		accepted.Go(func() {
			envelope := spool.Envelope{Route: route, Method: http.MethodPost, URI: uri, ContentLength: -1}
			_, err := app.ThisProcess().Inboxes()[path].Accept(g.t.Context(), envelope,
				strings.NewReader(strconv.Itoa(i)))
			failed <- err
		})
	}
	accepted.Wait()
	close(failed)
	for err := range failed {
		require.NoError(g.t, err)
	}
}

// number makes bodies differ.
var number int

// body is a callback's body of its own, so that it is no duplicate and comes
// after no other.
func body() io.Reader {
	number++
	return strings.NewReader(fmt.Sprintf(`{"metadata":{"request_id":"request-%d"}}`, number))
}

// dead makes a dead letter.
func (g *gateway) dead(path, route string) spool.ID {
	g.t.Helper()
	id := g.accept(path, route, "/gone", body(), nil)
	g.wait(path, id, func(m *spool.Message) bool { return m.State == spool.Dead })
	return id
}

// delivered makes a callback that was delivered and is kept.
func (g *gateway) delivered(path, route string) spool.ID {
	g.t.Helper()
	id := g.accept(path, route, "/fine", body(), nil)
	g.wait(path, id, func(m *spool.Message) bool { return m.State == spool.Delivered })
	return id
}

// refused makes a callback that waits for its second attempt.
func (g *gateway) refused(path, route string) spool.ID {
	g.t.Helper()
	id := g.accept(path, route, "/refused", body(), nil)
	g.wait(path, id, func(m *spool.Message) bool { return m.Tries == 1 })
	return id
}

// held makes a callback that is being delivered until the service lets go.
func (g *gateway) held(path, route string) spool.ID {
	g.t.Helper()
	id := g.accept(path, route, "/held", body(), nil)
	select {
	case held := <-g.service.holds:
		require.Equal(g.t, id, held)
	case <-time.After(patience):
		require.Fail(g.t, "not delivered")
	}
	return id
}

// wait waits until a message is as it should be.
func (g *gateway) wait(path string, id spool.ID, ok func(*spool.Message) bool) {
	g.t.Helper()
	require.Eventually(g.t, func() bool {
		m, err := app.ThisProcess().Inboxes()[path].Get(g.t.Context(), id)
		return err == nil && ok(m)
	}, patience, time.Millisecond)
}

// waitGone waits until there is no such message.
func (g *gateway) waitGone(path string, id spool.ID) {
	g.t.Helper()
	require.Eventually(g.t, func() bool {
		_, err := app.ThisProcess().Inboxes()[path].Get(g.t.Context(), id)
		return errors.Is(err, spool.ErrNotFound)
	}, patience, time.Millisecond)
}

// An answer is a whole response.
type answer struct {
	*http.Response
	body []byte
}

// do makes a request of the API, whose resources are under /deepgram_callback.
func (g *gateway) do(method, uri string) answer {
	g.t.Helper()
	r, err := http.NewRequestWithContext(g.t.Context(), method,
		"http://127.0.0.1/deepgram_callback"+uri, nil)
	require.NoError(g.t, err)
	response, err := g.http.Do(r)
	require.NoError(g.t, err)
	defer func() { _ = response.Body.Close() }()
	content, err := io.ReadAll(response.Body)
	require.NoError(g.t, err)
	return answer{response, content}
}

// get is a request that has to be answered with JSON.
func (g *gateway) get(uri string, value any) {
	g.t.Helper()
	a := g.do(http.MethodGet, uri)
	require.Equal(g.t, http.StatusOK, a.StatusCode, "%s", a.body)
	require.Equal(g.t, "application/json", a.Header.Get("Content-Type"))
	require.NoError(g.t, json.Unmarshal(a.body, value))
}

// refusal checks an answer that is an error, and returns what it says.
func (a answer) refusal(t testing.TB, status int) string {
	t.Helper()
	require.Equal(t, status, a.StatusCode, "%s", a.body)
	require.Equal(t, "application/json", a.Header.Get("Content-Type"))
	var said map[string]string
	require.NoError(t, json.Unmarshal(a.body, &said))
	require.Len(t, said, 1)
	require.NotEmpty(t, said["error"])
	return said["error"]
}

// list is the ids of a list.
func (g *gateway) list(query string) []string {
	g.t.Helper()
	var messages []struct{ ID string }
	g.get("/spool/messages"+query, &messages)
	ids := []string{}
	for _, m := range messages {
		ids = append(ids, m.ID)
	}
	return ids
}

// An outcome is what a command printed and ended with.
type outcome struct {
	out, notes string
	code       int
	err        error
}

// run runs `caddy deepgram-callback` in this process.
func run(t testing.TB, args ...string) outcome {
	t.Helper()
	return execute(t.Context(), append([]string{"deepgram-callback"}, args...)...)
}

// execute runs `caddy` with this command in this process.
func execute(ctx context.Context, args ...string) outcome {
	var out, notes bytes.Buffer
	root := &cobra.Command{Use: "caddy", SilenceUsage: true}
	command := admin.Command()
	cmd := &cobra.Command{Use: command.Name + " " + command.Usage, Short: command.Short,
		Long: command.Long}
	command.CobraFunc(cmd)
	root.AddCommand(cmd)
	root.SetOut(&out)
	root.SetErr(&notes)
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	return outcome{out.String(), notes.String(), codeOf(err), err}
}

// codeOf is what Caddy's main makes of an error. Its type for exit codes is
// its own; TestProcessesEndWithTheExitCodes has the real thing.
func codeOf(err error) int {
	if err == nil {
		return 0
	}
	v := reflect.ValueOf(err)
	if v.Kind() == reflect.Pointer && v.Elem().Kind() == reflect.Struct {
		if code := v.Elem().FieldByName("ExitCode"); code.IsValid() {
			return int(code.Int())
		}
	}
	return 1
}

// run runs a command on this gateway.
func (g *gateway) run(args ...string) outcome {
	g.t.Helper()
	return run(g.t, append(args, "--address", g.admin)...)
}

// ok runs a command that has to work, and returns what it printed.
func (g *gateway) ok(args ...string) string {
	g.t.Helper()
	o := g.run(args...)
	require.NoError(g.t, o.err)
	require.Zero(g.t, o.code)
	require.Empty(g.t, o.notes)
	return o.out
}

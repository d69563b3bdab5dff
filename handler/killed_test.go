package handler_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/stretchr/testify/require"

	"github.com/caddy-deepgram/deepgram-callback/internal/caddytest"
	"github.com/caddy-deepgram/deepgram-callback/operate"
)

// A restless operator replays what was delivered, stops that, and pauses and resumes the route, one
// after the other, over the admin endpoint of a process that may be killed at any moment.
type restless struct {
	client *http.Client
	route  string
	work   sync.WaitGroup

	mu     sync.Mutex
	done   map[string]int // how often each was answered
	paused *bool          // as the last answer has it; nil while nothing is known for sure
}

func newRestless(socket, route string) *restless {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}
	return &restless{
		client: &http.Client{Transport: &http.Transport{DialContext: dial}, Timeout: patience},
		route:  route,
		done:   make(map[string]int),
	}
}

// ask makes a request of the admin endpoint, and decodes its answer. It fails where that is gone.
func (o *restless) ask(method, uri string, answer any) error {
	r, err := http.NewRequest(method, "http://127.0.0.1/deepgram_callback/spool"+uri, nil)
	if err != nil {
		return err
	}
	res, err := o.client.Do(r)
	if err != nil {
		return err
	}
	defer func() { _ = res.Body.Close() }()
	content, err := io.ReadAll(res.Body)
	switch {
	case err != nil:
		return err
	case res.StatusCode >= 300:
		return fmt.Errorf("%s: %s", res.Status, content)
	case answer == nil:
		return nil
	}
	return json.Unmarshal(content, answer)
}

// pause pauses or resumes the route. Between the request and its answer nobody knows which it is.
func (o *restless) pause(paused bool) error {
	action := "/resume"
	if paused {
		action = "/pause"
	}
	o.knows(nil)
	err := o.ask(http.MethodPost, "/routes/"+url.PathEscape(o.route)+action, nil)
	if err == nil {
		o.knows(&paused)
	}
	return err
}

func (o *restless) knows(paused *bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.paused = paused
}

// replay has all replayed that was delivered, and sometimes stops that.
func (o *restless) replay() error {
	var begun struct{ ID string }
	err := o.ask(http.MethodPost, "/replay?state=delivered&wait=false", &begun)
	if err == nil && rand.IntN(2) == 0 {
		err = o.ask(http.MethodDelete, "/replays/"+begun.ID, nil)
	}
	return err
}

// begin begins to do all of that until the process is gone.
func (o *restless) begin() {
	acts := map[string]func() error{
		"replay": o.replay,
		"pause":  func() error { return o.pause(true) },
		"resume": func() error { return o.pause(false) },
	}
	o.work.Go(func() {
		for {
			for name, act := range acts { // in any order
				if act() != nil {
					return
				}
				o.mu.Lock()
				o.done[name]++
				o.mu.Unlock()
				time.Sleep(time.Duration(rand.IntN(20)) * time.Millisecond) // at any moment
			}
		}
	})
}

// requirePause waits until the inbox of a new process is open, and requires that the route is
// paused or not, as the last answer of the old process had it.
func (o *restless) requirePause(t testing.TB, dir string) {
	t.Helper()
	var status operate.Status
	require.Eventually(t, func() bool { return o.ask(http.MethodGet, "", &status) == nil },
		patience, time.Millisecond)
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.paused != nil {
		require.Equal(t, *o.paused, status.Inboxes[dir].Routes[o.route].Paused, "a pause was lost")
	}
}

// The process is killed at any moment, while callbacks come, and are delivered, kept, replayed and
// paused. Nothing that was accepted is lost, nor is what was kept.
func TestKilledProcessLosesNothing(t *testing.T) {
	rounds := 8
	if testing.Short() {
		rounds = 2
	}
	var failing atomic.Bool
	book := &ledger{answer: func(d delivered, try int) int {
		if failing.Load() || d.n%20 == 0 && try == 1 {
			return http.StatusInternalServerError
		}
		return http.StatusOK
	}}
	service := newSwitchable(t, book)
	service.up()
	sockets, err := os.MkdirTemp("", "admin-*") // a socket's path has to be short
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(sockets) })
	socket := filepath.Join(sockets, "s")
	dir := t.TempDir()
	port := freePort(t)
	site := spooled(service.addr, dir, "retry_delays 10ms\nkeep 1h")
	load := startLoad(fmt.Sprintf("http://127.0.0.1:%d/c", port), "a", "b", "c", "d")
	operated := newRestless(socket, service.addr)
	for i := range rounds {
		failing.Store(i%3 == 1)
		c := startChild(t, port, site, "admin unix/"+socket)
		operated.requirePause(t, dir)
		operated.begin()
		before := load.accepted()
		require.Eventually(t, func() bool { return load.accepted() > before+20 },
			patience, time.Millisecond)
		time.Sleep(time.Duration(rand.IntN(50)) * time.Millisecond) // any moment is as good as another
		c.Kill()
		operated.work.Wait()
		operated.client.CloseIdleConnections()
	}
	sent := load.end()
	require.Empty(t, load.refused)
	failing.Store(false)
	t.Logf("%d accepted; the operator did %v", sum(sent), operated.done)
	require.NotEmpty(t, operated.done)

	g := &gateway{t: t, port: port}
	require.NoError(t, g.load(site, options{}))
	defer func() { require.NoError(t, caddy.Stop()) }()
	require.NoError(t, operator().Pause(t.Context(), "", service.addr, false))
	waitUntilEmpty(t, dir)
	seen := make(map[string]bool)
	for _, d := range book.deliveries() {
		seen[d.key+"/"+strconv.Itoa(d.n)] = true
	}
	for key, last := range sent {
		for n := 1; n <= last; n++ {
			require.True(t, seen[key+"/"+strconv.Itoa(n)],
				"%s/%d of %d was accepted and never delivered", key, n, last)
		}
	}
	requireFirstsInOrder(t, book.deliveries())

	// A sender whose connection broke sends again what was accepted, which is a duplicate.
	stats := caddytest.Stats(t, openAt(t, dir))
	require.EqualValues(t, len(seen), stats.Delivered, "what was kept is lost")
	require.Zero(t, stats.Dead)
}

// requireFirstsInOrder requires that each callback came for the first time after
// all earlier ones of its key had come.
func requireFirstsInOrder(t testing.TB, taken []delivered) {
	t.Helper()
	last := make(map[string]int)
	for _, d := range taken {
		require.LessOrEqual(t, d.n, last[d.key]+1, "of %s after %d", d.key, last[d.key])
		last[d.key] = max(last[d.key], d.n)
	}
}

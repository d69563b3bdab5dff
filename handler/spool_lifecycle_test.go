package handler_test

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/caddy-deepgram/deepgram-callback/app"
	"github.com/caddy-deepgram/deepgram-callback/internal/caddytest"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
)

// A load is several senders of callbacks, each with a key of its own. Each repeats
// a callback until it is accepted, and then sends the next one.
type load struct {
	url  string
	stop chan struct{}
	work sync.WaitGroup

	mu      sync.Mutex
	sent    map[string]int // the last n that was accepted, by key
	refused []string       // answers that were none
	broken  int            // connections without an answer
}

// startLoad begins to send to url, which has to have a path.
func startLoad(url string, keys ...string) *load {
	l := &load{url: url, stop: make(chan struct{}), sent: make(map[string]int)}
	for _, key := range keys {
		l.work.Go(func() { l.send(key) })
	}
	return l
}

func (l *load) send(key string) {
	sender := &http.Client{Transport: &http.Transport{}, Timeout: patience}
	defer sender.CloseIdleConnections()
	for n := 1; ; {
		select {
		case <-l.stop:
			return
		default:
		}
		body := io.MultiReader(result(key, n), strings.NewReader(strings.Repeat(" ", n%7*2000)))
		r, err := http.NewRequest("POST", fmt.Sprintf("%s?key=%s&n=%d", l.url, key, n), body)
		if err != nil {
			panic(err)
		}
		res, err := sender.Do(r)
		if err != nil {
			l.mu.Lock()
			l.broken++
			l.mu.Unlock()
			time.Sleep(time.Millisecond) // a sender's own retry
			continue
		}
		_, _ = io.Copy(io.Discard, res.Body)
		_ = res.Body.Close()
		l.mu.Lock()
		if res.StatusCode == http.StatusAccepted {
			l.sent[key] = n
			n++
		} else {
			l.refused = append(l.refused, res.Status)
		}
		l.mu.Unlock()
	}
}

// end stops the senders, and returns how many callbacks of each key were accepted.
func (l *load) end() map[string]int {
	close(l.stop)
	l.work.Wait()
	return l.sent
}

func (l *load) accepted() (total int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, n := range l.sent {
		total += n
	}
	return total
}

func sum(counts map[string]int) (total int) {
	for _, n := range counts {
		total += n
	}
	return total
}

func TestReloadsUnderLoad(t *testing.T) {
	reloads := 20
	if testing.Short() {
		reloads = 5
	}
	book := &ledger{answer: func(d delivered, try int) int {
		if d.n%50 == 0 && try == 1 {
			return http.StatusInternalServerError
		}
		return http.StatusOK
	}}
	service := newSwitchable(t, book)
	service.up()
	dir := t.TempDir()
	g := start(t, spooled(service.addr, dir, "retry_delays 5ms"))
	load := startLoad(g.url+"/c", "a", "b", "c", "d")
	for i := range reloads {
		before := load.accepted()
		g.reload(spooled(service.addr, dir,
			fmt.Sprintf("retry_delays %dms\nmax_size %dMiB", 5+i, 1000+i)))
		require.Eventually(t, func() bool { return load.accepted() > before+10 },
			patience, time.Millisecond)
	}
	sent := load.end()
	require.Empty(t, load.refused)
	t.Logf(
		"%d accepted; %d connections ended without an answer, as those do that a server closes "+
			"for being idle", sum(sent), load.broken,
	)
	taken := book.waitFor(t, sum(sent))
	waitUntilEmpty(t, dir)
	requireOrder(t, taken, sent, 1)
	require.Equal(t, int64(1000+reloads-1)<<20, caddytest.Stats(t, openAt(t, dir)).MaxBytes)
	require.Len(t, book.deliveries(), sum(sent))
}

// However often the service moves, callbacks that were accepted for an earlier
// address are delivered to the present one.
func TestMovedServiceGetsWhatWaitedForIt(t *testing.T) {
	book := &ledger{}
	server := newService(t, nil)
	server.Config.Handler = book
	dir := t.TempDir()
	g := start(t, spooled(deadAddr(t), dir, soon))
	load := startLoad(g.url+"/c", "a", "b")
	for range 3 {
		before := load.accepted()
		require.Eventually(t, func() bool { return load.accepted() > before+5 },
			patience, time.Millisecond)
		g.reload(spooled(deadAddr(t), dir, soon))
	}
	g.reload(spooled(server.addr, dir, soon))
	sent := load.end()
	require.Empty(t, load.refused)
	taken := book.waitFor(t, sum(sent))
	waitUntilEmpty(t, dir)
	// Callbacks of one key may have been accepted under two routes, and have no order then.
	require.Len(t, taken, sum(sent))

	// The same over a restart, also when there are dead letters.
	route := spooled(deadAddr(t), dir, soon)
	g.reload(route)
	accepted(t, callbackOf(t, g, "c", 1))
	require.NoError(t, caddy.Stop())
	g.reload(spooled(server.addr, dir, soon))
	last := book.waitFor(t, sum(sent)+1)
	require.Equal(t, "c", last[len(last)-1].key)
}

// Where two routes are configured, nothing says which of them takes over the callbacks of a third.
func TestTwoRoutesShareAnInbox(t *testing.T) {
	one, two := &ledger{}, &ledger{}
	first, second := newSwitchable(t, one), newSwitchable(t, two)
	gone := newSwitchable(t, nil)
	dir := t.TempDir()
	g := start(t, spooled(gone.addr, dir, soon))
	accepted(t, callbackOf(t, g, "lost", 1))

	both := "handle /one {\n" + spooled(first.addr, dir, soon) + "}\nhandle {\n" + spooled(second.addr,
		dir, soon) + "}\n"
	g.reload(both)
	g.waitForLog("the route without a service", func(line map[string]any) bool {
		return line["route"] == gone.addr && line["level"] == "warn"
	})
	accepted(t, send(t, "POST", g.url+"/one?key=1&n=1", nil, nil))
	accepted(t, send(t, "POST", g.url+"/two?key=2&n=1", nil, nil))
	first.up() // one that is down does not hold up the other
	require.Equal(t, "1", one.waitFor(t, 1)[0].key)
	waitForStats(t, dir, "the service is not found to be down", func(s spool.Stats) bool {
		return s.Routes[second.addr].LastError != ""
	})
	second.up()
	require.Equal(t, "2", two.waitFor(t, 1)[0].key)
	stats := caddytest.Stats(t, openAt(t, dir))
	require.Equal(t, int64(1), stats.Routes[gone.addr].Pending)
	require.False(t, stats.Routes[gone.addr].Configured)

	// They wait until one of the handlers has their route's name.
	g.reload("handle /one {\n" + spooled(first.addr, dir, soon+"route "+strconv.Quote(gone.addr)) +
		"}\nhandle {\n" + spooled(second.addr, dir, soon) + "}\n")
	require.Equal(t, "lost", one.waitFor(t, 2)[1].key)
}

func TestIdenticalHandlersShareARoute(t *testing.T) {
	backend := newService(t, nil)
	dir := t.TempDir()
	site := spooled(backend.addr, dir, "")
	g := start(t, "handle /one {\n"+site+"}\nhandle {\n"+site+"}\n")
	for _, path := range []string{"/one", "/two"} {
		accepted(t, send(t, "POST", g.url+path, nil, nil))
		require.Equal(t, path, backend.next(t).URL.Path)
	}
	require.Len(t, caddytest.Stats(t, openAt(t, dir)).Routes, 1)
}

func TestHandlersThatDisagreeAboutAnInbox(t *testing.T) {
	dir := t.TempDir()
	g := &gateway{t: t, port: freePort(t)}
	two := func(one, other string) string {
		return "handle /one {\n" + one + "}\nhandle {\n" + other + "}\n"
	}
	require.ErrorContains(t, g.load(two(
		spooled("127.0.0.1:1", dir, "max_size 1GiB"), spooled("127.0.0.1:2", dir, "max_size 2GiB"),
	), options{}), "spool: the inbox "+dir+" has a max_size of 1073741824 bytes and one of 2147483648")
	for name, other := range map[string]string{
		"delays":  spooled("127.0.0.1:1", dir, "retry_delays 1s"),
		"secrets": spooled("127.0.0.1:1", dir, "sign whsec_c2lnbmluZy1zZWNyZXQtdGhhdC1pcy0zMi1ieXRlcw=="),
		"headers": callback("127.0.0.1:1", "anonymous\nrelay {\nheader_up X-A b\n}\n"+inbox(dir, "")),
	} {
		require.ErrorContains(t, g.load(two(spooled("127.0.0.1:1", dir, ""), other), options{}),
			`the route "127.0.0.1:1" delivered in two different ways`, name)
	}
	require.NoFileExists(t, filepath.Join(dir, "inbox.lock"))
	// Two routes may differ.
	require.NoError(t,
		g.load(two(spooled("127.0.0.1:1", dir, ""),
			spooled("127.0.0.1:1", dir, "retry_delays 1s\nroute other")), options{}))
	require.NoError(t, caddy.Stop())
}

// A configuration that fails to start leaves the inbox of the running one as it was.
func TestFailedReloadChangesNothing(t *testing.T) {
	book := &ledger{answer: func(d delivered, _ int) int {
		if d.key == "dead" {
			return http.StatusGone
		}
		return http.StatusOK
	}}
	service := newSwitchable(t, book)
	service.up()
	dir := t.TempDir()
	g := start(t, spooled(service.addr, dir, soon+"max_size 1GiB"))
	log := g.log
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { _ = taken.Close() }()
	foreign := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(foreign, "inbox.db"),
		[]byte("something else"), 0o600))

	load := startLoad(g.url+"/c", "a", "b")
	for range 6 { // apps start in any order
		port := g.port
		g.port = taken.Addr().(*net.TCPAddr).Port
		require.Error(t, g.load(spooled("127.0.0.1:1", dir, "max_size 2GiB"), options{}),
			"its port is taken")
		g.port = port
		require.ErrorContains(t,
			g.load("handle /one {\n"+spooled("127.0.0.1:1", dir, "max_size 2GiB")+"}\nhandle {\n"+
				spooled(service.addr, foreign, "")+"}\n", options{}), foreign)
	}
	require.Equal(t, int64(1)<<30, caddytest.Stats(t, openAt(t, dir)).MaxBytes)
	sent := load.end()
	for _, status := range load.refused {
		require.Contains(t, status, "503",
			"the servers of a configuration that fails may have taken a callback meanwhile")
	}
	requireOrder(t, book.waitFor(t, sum(sent)), sent, 1)
	waitUntilEmpty(t, dir)
	require.Len(t, app.ThisProcess().Inboxes(), 1)

	g.log = log
	id := accepted(t, callbackOf(t, g, "dead", 1))
	g.waitForLog("the dead letter, in the log of who runs", func(line map[string]any) bool {
		return line["id"] == id
	})
}

func TestInboxThatCannotBeOpened(t *testing.T) {
	book := &ledger{}
	service := newSwitchable(t, book)
	closed := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(closed, nil, 0o600))
	foreign := t.TempDir()
	index := filepath.Join(foreign, "inbox.db")
	require.NoError(t, os.WriteFile(index, []byte("something else"), 0o600))
	g := &gateway{t: t, port: freePort(t)}
	for name, dir := range map[string]string{
		"below a file": filepath.Join(closed, "inbox"),
		"a file":       closed,
		"foreign":      foreign,
	} {
		err := g.load(spooled(service.addr, dir, ""), options{})
		require.ErrorContains(t, err, "spool: inbox "+dir, name)
	}
	content, err := os.ReadFile(index)
	require.NoError(t, err)
	require.Equal(t, "something else", string(content))
	content, err = os.ReadFile(closed)
	require.NoError(t, err)
	require.Empty(t, content)
	require.Empty(t, app.ThisProcess().Inboxes())
}

// `caddy validate` provisions a configuration while another one runs.
func TestValidatingTouchesNothing(t *testing.T) {
	service := newSwitchable(t, nil)
	dir, other := t.TempDir(), filepath.Join(t.TempDir(), "not", "there")
	g := start(t, spooled(service.addr, dir, soon))
	accepted(t, callbackOf(t, g, "a", 1))
	for _, path := range []string{dir, other} {
		var config caddy.Config
		require.NoError(t,
			caddy.StrictUnmarshalJSON(caddytest.Adapt(t,
				g.caddyfile(spooled("127.0.0.1:1", path, "max_size 100MiB"), options{})), &config))
		require.NoError(t, caddy.Validate(&config))
	}
	require.NoDirExists(t, filepath.Dir(other))
	require.NotEqual(t, int64(100)<<20, caddytest.Stats(t, openAt(t, dir)).MaxBytes)
	accepted(t, callbackOf(t, g, "a", 2))
}

// When no handler has an inbox any more it is closed, and the log says what waits in it.
func TestInboxThatIsNotConfiguredAnyMore(t *testing.T) {
	service := newSwitchable(t, nil)
	dir := t.TempDir()
	g := start(t, spooled(service.addr, dir, soon))
	accepted(t, callbackOf(t, g, "a", 1))
	g.reload(callback(service.addr, "anonymous"))
	require.Empty(t, app.ThisProcess().Inboxes())
	g.waitForLog("what waits", func(line map[string]any) bool {
		return line["path"] == dir && line["pending"] == 1.0
	})

	book := &ledger{}
	service.serve = book
	service.up()
	g.reload(spooled(service.addr, dir, soon))
	book.waitFor(t, 1)
}

func TestNothingIsLeftRunning(t *testing.T) {
	service := newSwitchable(t, &ledger{})
	dir := t.TempDir()
	site := spooled(service.addr, dir, soon)
	warm := start(t, site)
	require.NoError(t, caddy.Stop()) // what Caddy itself leaves behind is there now
	client.CloseIdleConnections()
	leftovers := goleak.IgnoreCurrent()

	warm.reload(site)
	accepted(t, callbackOf(t, warm, "a", 1))
	waitForStats(t, dir, "nothing was tried", func(s spool.Stats) bool {
		return s.Routes[service.addr].LastError != ""
	})
	service.up()
	waitUntilEmpty(t, dir)
	warm.reload(site)
	warm.reload(callback(service.addr, "anonymous"))
	warm.reload(site)
	require.NoError(t, caddy.Stop())
	service.down()
	client.CloseIdleConnections()
	goleak.VerifyNone(t, leftovers)
}

// A child is Caddy in a process of its own, with an inbox.
type child struct {
	*caddytest.Process
	url string
}

// startChild runs a site in a process of its own, with more global options.
func startChild(t *testing.T, port int, site, global string) *child {
	t.Helper()
	g := &gateway{t: t, port: port, log: string(caddytest.NewLog(t))}
	config := g.caddyfile(site, options{level: "WARN", global: "\n" + global})
	p := caddytest.StartProcess(t, []byte(config), nil)
	caddytest.Await(t, caddytest.Addr(port), &p.Errors)
	return &child{Process: p, url: "http://" + caddytest.Addr(port)}
}

func TestInboxOfAnotherProcess(t *testing.T) {
	service := newSwitchable(t, nil)
	dir := t.TempDir()
	c := startChild(t, freePort(t), spooled(service.addr, dir, ""), "")
	g := &gateway{t: t, port: freePort(t)}
	require.ErrorContains(t, g.load(spooled(service.addr, dir, ""), options{}),
		"inbox "+dir+": in use by another process")

	c.Kill()
	require.NoError(t, g.load(spooled(service.addr, dir, ""), options{}))
	require.NoError(t, caddy.Stop())
}

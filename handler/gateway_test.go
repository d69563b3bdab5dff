package handler_test

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	_ "github.com/caddyserver/caddy/v2/modules/standard"
	"github.com/stretchr/testify/require"

	_ "github.com/caddy-deepgram/deepgram-callback"
	"github.com/caddy-deepgram/deepgram-callback/app"
	"github.com/caddy-deepgram/deepgram-callback/internal/caddytest"
)

func TestMain(m *testing.M) { caddytest.Main(m) }

// Credentials for tests; 32 characters is what a plain password needs.
const (
	password  = "0123456789abcdef0123456789abcdef"
	plainAuth = "basic_auth plain {\ndeepgram " + password + "\n}\n"
)

// patience is how long a test waits for what has to happen.
const patience = caddytest.Patience

// A gateway is Caddy in this process. There can be one at a time.
type gateway struct {
	t    testing.TB
	port int
	addr string // host and port
	url  string
	log  string // the file of all of Caddy's logs
}

// options are what differs between gateways, beyond the site's directives.
type options struct {
	global string // more global options
	level  string // of the log; default INFO
	site   string // the address, in which PORT stands for the port; default http://:PORT
	port   int    // default: a free one
	bind   string // default 127.0.0.1
}

// start runs a gateway with the directives of one site, in which PORT stands
// for its port, until the test ends.
func start(t testing.TB, site string, opts ...options) *gateway {
	t.Helper()
	var o options
	if len(opts) > 0 {
		o = opts[0]
	}
	g := &gateway{t: t}
	// This runs after Caddy has stopped. Streams that live on would be in the next test's log.
	t.Cleanup(func() {
		require.Eventually(t, func() bool { return len(app.ThisProcess().Streams.List()) == 0 },
			patience, time.Millisecond, "streams outlive their ends")
	})
	caddytest.Start(t, func() []byte {
		g.port = o.port
		if g.port == 0 {
			g.port = freePort(t)
		}
		g.addr = caddytest.Addr(g.port)
		g.url = "http://" + g.addr
		return g.config(site, o)
	})
	return g
}

// config makes a configuration of a site, with a log file of its own.
func (g *gateway) config(site string, o options) []byte {
	g.t.Helper()
	g.log = string(caddytest.NewLog(g.t))
	return caddytest.Adapt(g.t, g.caddyfile(site, o))
}

// load makes a site the running configuration, in place of any other.
func (g *gateway) load(site string, o options) error {
	g.t.Helper()
	return caddy.Load(g.config(site, o), true)
}

// reload is load that has to succeed.
func (g *gateway) reload(site string, opts ...options) {
	g.t.Helper()
	var o options
	if len(opts) > 0 {
		o = opts[0]
	}
	caddytest.Reload(g.t, g.config(site, o), g.addr)
	client.CloseIdleConnections()
}

func (g *gateway) caddyfile(site string, o options) string {
	if o.level == "" {
		o.level = "INFO"
	}
	if o.site == "" {
		o.site = "http://:PORT"
	}
	if o.bind == "" {
		o.bind = "127.0.0.1"
	}
	globals := caddytest.Globals(caddytest.Log(g.log).Option("level "+o.level) + o.global)
	return strings.ReplaceAll(globals+fmt.Sprintf("%s {\nbind %s\n%s\n}\n", o.site, o.bind, site),
		"PORT", strconv.Itoa(g.port))
}

// callback is the directive deepgram_callback, with the listener's port allowed.
func callback(upstreams, block string) string {
	return "deepgram_callback " + upstreams + " {\nports PORT\n" + block + "\n}\n"
}

func freePort(t testing.TB) int { return caddytest.FreePort(t) }

// logLines reads the lines that were logged so far.
func (g *gateway) logLines() []map[string]any { return caddytest.Log(g.log).Lines(g.t) }

// waitForLog waits for a line that matches.
func (g *gateway) waitForLog(what string, matches func(line map[string]any) bool) map[string]any {
	g.t.Helper()
	return caddytest.Log(g.log).WaitFor(g.t, what, matches)
}

var discardLog = log.New(io.Discard, "", 0)

// waitForEnd waits for the log line about the end of a stream to upstream.
func (g *gateway) waitForEnd(upstream string) map[string]any {
	g.t.Helper()
	return g.waitForLog("the stream's end", func(line map[string]any) bool {
		return line["msg"] == "stream ended" && line["upstream"] == upstream
	})
}

// A service stands behind the gateway and remembers what it was sent.
type service struct {
	*httptest.Server
	addr     string
	requests chan *received
	accepted atomic.Int64 // connections
}

type received struct {
	*http.Request
	body  []byte // nil where answer reads it
	sum   [sha256.Size]byte
	bytes int64
	err   error // with which the body ended
}

// newService runs a service whose answer is 200, or what answer writes.
func newService(t testing.TB, answer http.HandlerFunc) *service {
	t.Helper()
	s := &service{requests: make(chan *received, 1000)}
	handler := func(w http.ResponseWriter, r *http.Request) {
		seen := &received{Request: r}
		hash := sha256.New()
		var kept bytes.Buffer
		seen.bytes, seen.err = io.Copy(io.MultiWriter(hash, &limitedWriter{&kept, 1 << 20}), r.Body)
		seen.sum, seen.body = [sha256.Size]byte(hash.Sum(nil)), kept.Bytes()
		s.requests <- seen
		if answer != nil {
			answer(w, r)
		}
	}
	s.Server = httptest.NewUnstartedServer(http.HandlerFunc(handler))
	s.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			s.accepted.Add(1)
		}
	}
	s.Config.ErrorLog = discardLog
	s.Start()
	s.addr = s.Listener.Addr().String()
	t.Cleanup(s.Close)
	return s
}

// next returns the oldest request that it has not returned yet.
func (s *service) next(t testing.TB) *received {
	t.Helper()
	select {
	case seen := <-s.requests:
		return seen
	case <-time.After(patience):
		require.Fail(t, "nothing reached the service")
		return nil
	}
}

// limitedWriter keeps the beginning of what is written to it.
type limitedWriter struct {
	to   *bytes.Buffer
	left int
}

func (w *limitedWriter) Write(p []byte) (int, error) {
	n := min(len(p), w.left)
	w.left -= n
	w.to.Write(p[:n])
	return len(p), nil
}

// deadAddr is where nobody listens.
func deadAddr(t testing.TB) string { return caddytest.FreeAddr(t) }

// client neither follows redirects nor uses the proxies of the environment.
var client = &http.Client{
	Transport: &http.Transport{DisableCompression: true},
	CheckRedirect: func(*http.Request, []*http.Request) error {
		return http.ErrUseLastResponse
	},
	Timeout: time.Minute,
}

// An answer is a response whose body was read.
type answer struct {
	*http.Response
	body string
}

// send makes one request and reads its answer.
func send(t testing.TB, method, url string, body io.Reader, header http.Header) answer {
	t.Helper()
	r, err := http.NewRequest(method, url, body)
	require.NoError(t, err)
	for name, values := range header {
		r.Header[name] = values
	}
	return do(t, r)
}

func do(t testing.TB, r *http.Request) answer {
	t.Helper()
	res, err := client.Do(r)
	require.NoError(t, err)
	defer func() { _ = res.Body.Close() }()
	content, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	return answer{res, string(content)}
}

// withPassword is a header with the username and password of plainAuth.
func withPassword() http.Header {
	r := &http.Request{Header: make(http.Header)}
	r.SetBasicAuth("deepgram", password)
	return r.Header
}

// sendRaw writes bytes to a new connection and reads one answer.
func sendRaw(t testing.TB, addr, request string) answer {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	require.NoError(t, err)
	defer func() { _ = conn.Close() }()
	require.NoError(t, conn.SetDeadline(time.Now().Add(patience)))
	_, err = io.WriteString(conn, request)
	require.NoError(t, err)
	return readAnswer(t, bufio.NewReader(conn))
}

func readAnswer(t testing.TB, r *bufio.Reader) answer {
	t.Helper()
	res, err := http.ReadResponse(r, nil)
	require.NoError(t, err)
	defer func() { _ = res.Body.Close() }()
	content, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	return answer{res, string(content)}
}

// newTLSServer runs a server with a certificate that nobody knows.
func newTLSServer(t testing.TB, h http.Handler) *httptest.Server {
	t.Helper()
	server := httptest.NewUnstartedServer(h)
	server.Config.ErrorLog = discardLog
	server.StartTLS()
	t.Cleanup(server.Close)
	return server
}

func parse(t testing.TB, config string) *caddy.Config {
	t.Helper()
	parsed := new(caddy.Config)
	require.NoError(t, caddy.StrictUnmarshalJSON([]byte(config), parsed))
	return parsed
}

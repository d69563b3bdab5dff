package handler_test

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	_ "github.com/caddyserver/caddy/v2/modules/standard"
	"github.com/stretchr/testify/require"

	_ "github.com/caddy-deepgram/deepgram-callback"
	"github.com/caddy-deepgram/deepgram-callback/app"
	"github.com/caddy-deepgram/deepgram-callback/internal/caddyhome"
)

// childEnv makes the test binary a Caddy, for tests that need a process of
// their own to end.
const childEnv = "DEEPGRAM_CALLBACK_TEST_CADDY"

func TestMain(m *testing.M) {
	if config := os.Getenv(childEnv); config != "" {
		os.Args = []string{"caddy", "run", "--config", config, "--adapter", "caddyfile"}
		caddycmd.Main()
		return
	}
	removeHome := caddyhome.Temporary()
	code := m.Run()
	removeHome()
	os.Exit(code)
}

// Credentials for tests; 32 characters is what a plain password needs.
const (
	password  = "0123456789abcdef0123456789abcdef"
	plainAuth = "basic_auth plain {\ndeepgram " + password + "\n}\n"
)

// patience is how long a test waits for what has to happen.
const patience = 20 * time.Second

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
	for attempt := 0; ; attempt++ {
		g.port = o.port
		if g.port == 0 {
			g.port = freePort(t)
		}
		g.addr = net.JoinHostPort("127.0.0.1", strconv.Itoa(g.port))
		g.url = "http://" + g.addr
		err := g.load(site, o)
		if errors.Is(err, syscall.EADDRINUSE) && o.port == 0 && attempt < 5 {
			continue
		}
		require.NoError(t, err)
		break
	}
	t.Cleanup(func() {
		require.NoError(t, caddy.Stop())
		// the next test has the same registry, and would log their ends
		require.Eventually(t, func() bool { return len(app.Streams.List()) == 0 }, patience, time.Millisecond, "streams outlive their ends")
	})
	return g
}

// load makes site the running configuration, at first or in place of another.
func (g *gateway) load(site string, o options) error {
	g.t.Helper()
	g.log = filepath.Join(g.t.TempDir(), "caddy.log")
	return caddy.Load(adapt(g.t, g.caddyfile(site, o)), true)
}

// reload is load that has to succeed.
func (g *gateway) reload(site string, opts ...options) {
	g.t.Helper()
	var o options
	if len(opts) > 0 {
		o = opts[0]
	}
	require.NoError(g.t, g.load(site, o))
	// Caddy shuts the old server down in the background: until it has, a new
	// connection can be the old one's, which closes it without an answer.
	require.Eventually(g.t, func() bool { return caddy.ListenerUsage("tcp", g.addr) < 2 }, patience, time.Millisecond)
	require.Eventually(g.t, func() bool {
		for range 10 {
			if !g.answers() {
				return false
			}
		}
		return true
	}, patience, time.Millisecond)
	client.CloseIdleConnections()
}

// answers reports whether a new connection gets an answer, whatever it is.
func (g *gateway) answers() bool {
	conn, err := net.Dial("tcp", g.addr)
	if err != nil {
		return false
	}
	defer func() { _ = conn.Close() }()
	_ = conn.SetDeadline(time.Now().Add(patience))
	_, _ = io.WriteString(conn, "OPTIONS * HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
	answer, _ := io.ReadAll(conn)
	return len(answer) > 0
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
	return strings.ReplaceAll(fmt.Sprintf(`{
	admin off
	persist_config off
	auto_https disable_redirects
	log {
		output file %s
		level %s
	}
	%s
}
%s {
	bind %s
	%s
}
`, g.log, o.level, o.global, o.site, o.bind, site), "PORT", strconv.Itoa(g.port))
}

func adapt(t testing.TB, caddyfile string) []byte {
	t.Helper()
	config, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(caddyfile), nil)
	require.NoError(t, err)
	return config
}

// callback is the directive with the listener's port allowed.
func callback(upstreams, block string) string {
	return "deepgram_callback " + upstreams + " {\nports PORT\n" + block + "\n}\n"
}

func freePort(t testing.TB) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { _ = l.Close() }()
	return l.Addr().(*net.TCPAddr).Port
}

// logLines reads what was logged so far, one JSON object a line.
func (g *gateway) logLines() []map[string]any {
	g.t.Helper()
	content, err := os.ReadFile(g.log)
	require.NoError(g.t, err)
	var lines []map[string]any
	for line := range bytes.Lines(content) {
		var fields map[string]any
		if json.Unmarshal(line, &fields) == nil { // else a line that is still being written
			lines = append(lines, fields)
		}
	}
	return lines
}

// waitForLog waits for a line that matches.
func (g *gateway) waitForLog(what string, matches func(line map[string]any) bool) (line map[string]any) {
	g.t.Helper()
	require.Eventually(g.t, func() bool {
		for _, line = range g.logLines() {
			if matches(line) {
				return true
			}
		}
		return false
	}, patience, 5*time.Millisecond, "no log line of %s", what)
	return line
}

var discardLog = log.New(io.Discard, "", 0)

// waitForEnd waits for the line of the end of the stream to upstream.
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
	s.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		seen := &received{Request: r}
		hash := sha256.New()
		var kept bytes.Buffer
		seen.bytes, seen.err = io.Copy(io.MultiWriter(hash, &limitedWriter{&kept, 1 << 20}), r.Body)
		seen.sum, seen.body = [sha256.Size]byte(hash.Sum(nil)), kept.Bytes()
		s.requests <- seen
		if answer != nil {
			answer(w, r)
		}
	}))
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

// next is the oldest request not seen yet.
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

// limitedWriter keeps the beginning.
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
func deadAddr(t testing.TB) string {
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(freePort(t)))
}

// client does not follow redirects, nor take proxies from the environment.
var client = &http.Client{
	Transport: &http.Transport{DisableCompression: true},
	CheckRedirect: func(*http.Request, []*http.Request) error {
		return http.ErrUseLastResponse
	},
	Timeout: time.Minute,
}

// An answer is a response that was read.
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

// withPassword is the header of the account in plainAuth.
func withPassword() http.Header {
	r := &http.Request{Header: make(http.Header)}
	r.SetBasicAuth("deepgram", password)
	return r.Header
}

// sendRaw writes bytes to a connection of their own and reads one answer.
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

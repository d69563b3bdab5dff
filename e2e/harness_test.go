package e2e_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"maps"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	_ "github.com/caddyserver/caddy/v2/modules/standard"
	"github.com/gorilla/websocket"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	_ "github.com/caddy-deepgram/deepgram-callback"
	"github.com/caddy-deepgram/deepgram-callback/app"
	"github.com/caddy-deepgram/deepgram-callback/internal/caddytest"
	_ "github.com/caddy-deepgram/deepgram-callback/simulator"
)

func TestMain(m *testing.M) { caddytest.MainWithoutLeaks(m) }

const (
	// patience is how long a test waits for what has to happen.
	patience = caddytest.Patience

	// atOnce is shorter than any time limit that would end a stream by itself: the simulator
	// closes the stream of a silent speaker after 10 s, and the gateway pings a silent end
	// after 20 s.
	atOnce = 8 * time.Second
)

func deadline() time.Time { return time.Now().Add(patience) }

// The API key of the requests in these tests, and its identifier in their callbacks.
const (
	apiKey   = "an-api-key"
	apiKeyID = "0f3c2c2e-5a8d-4a39-8d9b-0d3fbb8a7b11"
	password = "0123456789abcdef0123456789abcdef"

	plainAuth = "basic_auth plain {\ndeepgram " + password + "\n}\n"
	login     = "deepgram:" + password + "@"
)

// quick are options of the simulator with which retries come at once.
const quick = "retries 3\nretry_delay 1ms\n"

// setup says what a loop is made of.
type setup struct {
	upstream  string // the service's address; in the gateway's block it may be named instead
	gateway   string // the block of deepgram_callback
	simulator string // the block of deepgram_simulator
	ports     string // of the gateway's block; default: that of its listener
	tap       *tap   // a wire to the gateway, for callback URLs; default: straight to it
	tls       *authority
	log       bool   // the access logs of both
	apart     string // gateway or simulator: what runs in a process of its own
}

// A loop is a simulator that calls a gateway.
type loop struct {
	t         testing.TB
	setup     setup
	gateway   string // host and port
	simulator string // host and port
	process   *caddytest.Process
	logs      []caddytest.Log
}

// start runs a loop until the test ends, when no stream may be left.
func start(t testing.TB, s setup) *loop {
	t.Helper()
	existing := goleak.IgnoreCurrent()
	t.Cleanup(func() {
		if !t.Failed() {
			goleak.VerifyNone(t, existing)
		}
	})
	l := &loop{t: t, setup: s}
	t.Cleanup(func() { // when Caddy has stopped
		require.Eventually(t, func() bool { return len(app.ThisProcess().Streams.List()) == 0 },
			patience, time.Millisecond, "a stream is still live")
	})
	caddytest.Start(t, l.configure)
	if s.tap != nil {
		s.tap.to.Store(&l.gateway)
	}
	return l
}

// configure makes a loop on free ports, and returns the sites that are for the Caddy in this
// process.
func (l *loop) configure() []byte {
	free := freeAddrs(l.t, 2)
	l.gateway, l.simulator = free[0], free[1]
	here := []string{l.gatewaySite(), l.simulatorSite()}
	l.logs = nil
	switch l.setup.apart {
	case "gateway":
		l.process = l.startProcess(here[0], l.gateway)
		here = here[1:]
	case "simulator":
		l.process = l.startProcess(here[1], l.simulator)
		here = here[:1]
	}
	return l.adapt(here...)
}

// reload makes other sites the configuration of the Caddy in this process.
func (l *loop) reload(change func(*setup)) {
	l.t.Helper()
	change(&l.setup)
	caddytest.Reload(l.t, l.adapt(l.gatewaySite(), l.simulatorSite()), l.gateway, l.simulator)
}

func (l *loop) gatewaySite() string {
	_, port, _ := net.SplitHostPort(l.gateway)
	address, directives, ports := "http://:"+port, l.accessLog(), l.setup.ports
	if l.setup.tls != nil {
		address = "https://127.0.0.1:" + port
		directives += l.setup.tls.directive()
	}
	if ports == "" {
		ports = port
	}
	return fmt.Sprintf("%s {\nbind 127.0.0.1\n%s\ndeepgram_callback %s {\nports %s\n%s\n}\n}\n",
		address, directives, l.setup.upstream, ports, l.setup.gateway)
}

func (l *loop) simulatorSite() string {
	_, port, _ := net.SplitHostPort(l.simulator)
	_, called, _ := net.SplitHostPort(l.called())
	return fmt.Sprintf("http://:%s {\nbind 127.0.0.1\n%s\ndeepgram_simulator {\napi_key %s %s\n"+
		"ports %s\nlatency 0\n%s\n}\n}\n",
		port, l.accessLog(), apiKey, apiKeyID, called, l.setup.simulator)
}

func (l *loop) accessLog() string {
	if l.setup.log {
		return "log\n"
	}
	return ""
}

// adapt makes a configuration of sites, which logs into a file of its own.
func (l *loop) adapt(sites ...string) []byte {
	l.t.Helper()
	log := caddytest.NewLog(l.t)
	l.logs = append(l.logs, log)
	config := caddytest.Adapt(l.t, caddytest.Globals(log.Option(""))+strings.Join(sites, ""))
	if l.setup.tls != nil {
		// The Caddyfile has no option for this.
		trust := fmt.Sprintf(`"handler":"deepgram_simulator","root_ca_pem_files":[%q]`,
			l.setup.tls.certFile)
		config = bytes.Replace(config, []byte(`"handler":"deepgram_simulator"`), []byte(trust), 1)
	}
	return config
}

// called is the host and port in callback URLs.
func (l *loop) called() string {
	if l.setup.tap != nil {
		return l.setup.tap.Addr().String()
	}
	return l.gateway
}

// callback is a callback URL. userinfo ends with an @ or is empty.
func (l *loop) callback(scheme, userinfo, pathAndQuery string) string {
	return scheme + "://" + userinfo + l.called() + pathAndQuery
}

func (l *loop) startProcess(site, addr string) *caddytest.Process {
	l.t.Helper()
	p := caddytest.StartProcess(l.t, l.adapt(site), nil)
	caddytest.Await(l.t, addr, &p.Errors)
	return p
}

// lines are the lines of the loop's logs with this message and these fields.
func (l *loop) lines(message string, fields map[string]any) []map[string]any {
	l.t.Helper()
	var found []map[string]any
	for _, log := range l.logs {
		for _, line := range log.Lines(l.t) {
			if line["msg"] == message && includes(line, fields) {
				found = append(found, line)
			}
		}
	}
	return found
}

func includes(line, fields map[string]any) bool {
	for name, value := range fields {
		if line[name] != value {
			return false
		}
	}
	return true
}

// waitFor waits for a line in the loop's logs.
func (l *loop) waitFor(message string, fields map[string]any) (line map[string]any) {
	l.t.Helper()
	require.Eventually(l.t, func() bool {
		found := l.lines(message, fields)
		if len(found) > 0 {
			line = found[0]
		}
		return line != nil
	}, patience, 2*time.Millisecond, "no log line %q with %v", message, fields)
	return line
}

// attempts waits until a callback was delivered or lost, and returns the
// status that each attempt was answered with.
func (l *loop) attempts(id string) (statuses []int, delivered bool) {
	l.t.Helper()
	callback := map[string]any{"request_id": id}
	require.Eventually(l.t, func() bool {
		delivered = len(l.lines("callback delivered", callback)) > 0
		return delivered || len(l.lines("callback lost", callback)) > 0
	}, patience, 2*time.Millisecond, "neither delivered nor lost")
	for _, line := range l.lines("callback attempt failed", callback) {
		status, _ := line["status"].(float64)
		statuses = append(statuses, int(status))
	}
	if delivered {
		statuses = append(statuses, http.StatusOK)
	}
	return statuses, delivered
}

// client closes its connections after each request, so that none is left at the end of a test.
var client = &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: patience}

// post sends a request to the simulator, which must take it. query holds pairs
// of name and value.
func (l *loop) post(
	path, contentType string, body []byte, query ...string,
) (id string, answer []byte) {
	l.t.Helper()
	r, err := http.NewRequest("POST", "http://"+l.simulator+path+"?"+pairs(query).Encode(),
		bytes.NewReader(body))
	require.NoError(l.t, err)
	r.Header.Set("Authorization", "Token "+apiKey)
	r.Header.Set("Content-Type", contentType)
	res, err := client.Do(r)
	require.NoError(l.t, err)
	defer func() { _ = res.Body.Close() }()
	answer, err = io.ReadAll(res.Body)
	require.NoError(l.t, err)
	require.Equal(l.t, 200, res.StatusCode, "%s", answer)
	return res.Header.Get("Dg-Request-Id"), answer
}

// transcribe submits audio.
func (l *loop) transcribe(seconds float64, query ...string) (id string) {
	l.t.Helper()
	id, _ = l.post("/v1/listen", "audio/l16", sound(seconds), append(query, rawAudio...)...)
	return id
}

// rawAudio are the query parameters for sound.
var rawAudio = []string{"encoding", "linear16", "sample_rate", "8000", "punctuate", "true"}

// sound is so many seconds of raw audio.
func sound(seconds float64) []byte { return make([]byte, int(seconds*8000)*2) }

func pairs(query []string) url.Values {
	values := url.Values{}
	for pair := range slices.Chunk(query, 2) {
		values.Add(pair[0], pair[1])
	}
	return values
}

// A service is the one behind the gateway. It takes callbacks of every kind.
type service struct {
	*httptest.Server
	addr        string
	requests    chan request
	streams     chan accepted
	connections atomic.Int64
}

// A request is an HTTP request that came to a service.
type request struct {
	method string
	target string
	header http.Header
	body   []byte
}

// decoded is a body in JSON.
func (r request) decoded(t testing.TB) map[string]any {
	t.Helper()
	var body map[string]any
	require.NoError(t, json.Unmarshal(r.body, &body), "%s", r.body)
	return body
}

// accepted is a WebSocket that came to a service, and its handshake.
type accepted struct {
	*websocket.Conn
	request
}

// newService runs a service that answers with the given statuses, one after the other, and then
// always with the last one; without any, with 200.
func newService(t testing.TB, statuses ...int) *service {
	t.Helper()
	s := unstartedService(t, statuses...)
	s.Start()
	s.addr = s.Listener.Addr().String()
	return s
}

// newTLSService is newService with TLS.
func newTLSService(t testing.TB, a *authority) *service {
	t.Helper()
	s := unstartedService(t)
	s.TLS = &tls.Config{Certificates: []tls.Certificate{a.certificate}}
	s.StartTLS()
	s.addr = s.Listener.Addr().String()
	return s
}

func unstartedService(t testing.TB, statuses ...int) *service {
	t.Helper()
	s := &service{requests: make(chan request, 1000), streams: make(chan accepted, 100)}
	var answered atomic.Int64
	handler := func(w http.ResponseWriter, r *http.Request) {
		if websocket.IsWebSocketUpgrade(r) {
			if conn, err := new(websocket.Upgrader).Upgrade(w, r, nil); err == nil {
				t.Cleanup(func() { _ = conn.Close() })
				s.streams <- accepted{conn, request{r.Method, r.RequestURI, r.Header, nil}}
			}
			return
		}
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		s.requests <- request{r.Method, r.RequestURI, r.Header, body}
		status := http.StatusOK
		if len(statuses) > 0 {
			status = statuses[min(int(answered.Add(1)), len(statuses))-1]
		}
		if status == http.StatusFound {
			w.Header().Set("Location", "/elsewhere")
		}
		w.WriteHeader(status)
	}
	s.Server = httptest.NewUnstartedServer(http.HandlerFunc(handler))
	s.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			s.connections.Add(1)
		}
	}
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	t.Cleanup(s.Close)
	return s
}

// take waits for the next value.
func take[T any](t testing.TB, from <-chan T) T {
	t.Helper()
	select {
	case value := <-from:
		return value
	case <-time.After(patience):
		require.FailNow(t, "nothing came")
		panic("unreachable")
	}
}

func freeAddr(t testing.TB) string { return caddytest.FreeAddr(t) }

// freeAddrs are different addresses at which nobody listens.
func freeAddrs(t testing.TB, n int) []string {
	t.Helper()
	free := make([]string, n)
	for i, port := range caddytest.FreePorts(t, n) {
		free[i] = caddytest.Addr(port)
	}
	return free
}

// A tap is a wire from the simulator to the gateway that keeps what goes over
// it, and can be cut.
type tap struct {
	net.Listener
	to       atomic.Pointer[string]
	requests chan request // as the simulator sent them

	mu    sync.Mutex
	conns []net.Conn
	back  bytes.Buffer // what the gateway sent
}

func newTap(t testing.TB) *tap {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	w := &tap{Listener: listener, requests: make(chan request, 1000)}
	var running sync.WaitGroup
	running.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			running.Go(func() { w.carry(conn) })
		}
	})
	t.Cleanup(func() {
		_ = listener.Close()
		w.cut()
		running.Wait()
	})
	return w
}

// carry forwards one connection to the gateway, and the end of each direction too.
func (w *tap) carry(simulator net.Conn) {
	defer func() { _ = simulator.Close() }()
	gateway, err := net.Dial("tcp", *w.to.Load())
	if err != nil {
		return
	}
	defer func() { _ = gateway.Close() }()
	w.mu.Lock()
	w.conns = append(w.conns, simulator, gateway)
	w.mu.Unlock()

	var directions sync.WaitGroup
	copied, copying := io.Pipe()
	directions.Go(func() { w.read(copied) })
	directions.Go(func() {
		_, _ = io.Copy(gateway, io.TeeReader(simulator, copying))
		_ = copying.Close()
		_ = gateway.(*net.TCPConn).CloseWrite()
	})
	directions.Go(func() {
		_, _ = io.Copy(simulator, io.TeeReader(gateway, w))
		_ = simulator.(*net.TCPConn).CloseWrite()
	})
	directions.Wait()
}

// read keeps the requests of one connection.
func (w *tap) read(copied io.Reader) {
	buffered := bufio.NewReader(copied)
	for {
		r, err := http.ReadRequest(buffered)
		if err != nil {
			break
		}
		body, err := io.ReadAll(r.Body)
		if err != nil {
			break
		}
		w.requests <- request{r.Method, r.RequestURI, r.Header, body}
	}
	_, _ = io.Copy(io.Discard, buffered) // a WebSocket's frames
}

// Write keeps what the gateway sent.
func (w *tap) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.back.Write(p)
}

// sentBack reports whether the gateway sent these bytes.
func (w *tap) sentBack(p []byte) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return bytes.Contains(w.back.Bytes(), p)
}

// cut resets every connection.
func (w *tap) cut() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, conn := range w.conns {
		reset(conn)
	}
	w.conns = nil
}

// reset ends a connection by a RST.
func reset(conn net.Conn) {
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
	_ = conn.Close()
}

// A stream is a live stream, with the speaker's connection and the backend's.
type stream struct {
	id      string
	speaker *websocket.Conn
	backend accepted
}

// dial opens a live stream as a speaker.
func (l *loop) dial(query ...string) (*websocket.Conn, *http.Response, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	target := "ws://" + l.simulator + "/v1/listen?" + pairs(append(query, rawAudio...)).Encode()
	return new(websocket.Dialer).DialContext(ctx, target,
		http.Header{"Authorization": {"Token " + apiKey}})
}

// speak opens a live stream.
func (l *loop) speak(query ...string) (speaker *websocket.Conn, id string) {
	l.t.Helper()
	speaker, res, err := l.dial(query...)
	require.NoError(l.t, err)
	l.t.Cleanup(func() { _ = speaker.Close() })
	return speaker, res.Header.Get("Dg-Request-Id")
}

// open opens a live stream with a callback by WebSocket to s.
func (l *loop) open(s *service, scheme string, query ...string) *stream {
	l.t.Helper()
	speaker, id := l.speak(append(query, "callback", l.callback(scheme, login, "/live?room=7"))...)
	return &stream{id, speaker, take(l.t, s.streams)}
}

// say sends audio in pieces.
func say(t testing.TB, speaker *websocket.Conn, seconds float64) {
	t.Helper()
	for piece := range slices.Chunk(sound(seconds), 3200) {
		require.NoError(t, speaker.WriteMessage(websocket.BinaryMessage, piece))
	}
}

// sayUntilTheEnd is say for a stream that may end meanwhile.
func sayUntilTheEnd(speaker *websocket.Conn, seconds float64) {
	for piece := range slices.Chunk(sound(seconds), 3200) {
		if speaker.WriteMessage(websocket.BinaryMessage, piece) != nil {
			return
		}
	}
}

func finish(t testing.TB, speaker *websocket.Conn) {
	t.Helper()
	require.NoError(t, speaker.WriteMessage(websocket.TextMessage, []byte(`{"type":"CloseStream"}`)))
}

// heard is what has come over a WebSocket, and how it has ended.
type heard struct {
	messages []map[string]any
	code     int // 1006 where no Close frame came
	reason   string
}

// listen reads a WebSocket to its end, and then closes the connection.
func listen(conn *websocket.Conn, within time.Duration) (h heard) {
	defer func() { _ = conn.Close() }()
	_ = conn.SetReadDeadline(time.Now().Add(within))
	for {
		kind, body, err := conn.ReadMessage()
		if err != nil {
			h.code, h.reason = ending(err)
			return h
		}
		var message map[string]any
		if kind != websocket.TextMessage || json.Unmarshal(body, &message) != nil {
			message = map[string]any{"type": "no text message in JSON"}
		}
		h.messages = append(h.messages, message)
	}
}

func ending(err error) (code int, reason string) {
	var closed *websocket.CloseError
	if errors.As(err, &closed) {
		return closed.Code, closed.Text
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return 0, "still open"
	}
	return websocket.CloseAbnormalClosure, err.Error()
}

// listening is listen in the background.
func listening(conn *websocket.Conn, within time.Duration) <-chan heard {
	came := make(chan heard, 1)
	go func() { came <- listen(conn, within) }()
	return came
}

func types(messages []map[string]any) []string {
	names := make([]string, len(messages))
	for i, message := range messages {
		names[i], _ = message["type"].(string)
	}
	return names
}

// withoutIDs removes from messages what differs between two streams of the same audio.
func withoutIDs(messages []map[string]any) []map[string]any {
	var same []map[string]any
	for _, message := range messages {
		message = maps.Clone(message)
		delete(message, "request_id")
		delete(message, "created")
		if metadata, ok := message["metadata"].(map[string]any); ok {
			metadata = maps.Clone(metadata)
			delete(metadata, "request_id")
			message["metadata"] = metadata
		}
		same = append(same, message)
	}
	return same
}

// expected is what the speaker hears of so much audio without a callback.
func (l *loop) expected(seconds float64, query ...string) []map[string]any {
	l.t.Helper()
	speaker, _ := l.speak(query...)
	came := listening(speaker, patience)
	say(l.t, speaker, seconds)
	finish(l.t, speaker)
	h := <-came
	require.Equal(l.t, websocket.CloseNormalClosure, h.code, h.reason)
	return withoutIDs(h.messages)
}

// An authority is a self-signed certificate for 127.0.0.1.
type authority struct {
	certFile, keyFile string
	certificate       tls.Certificate
}

func newAuthority(t testing.TB) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		Subject:               pkix.Name{CommonName: "test"},
		NotBefore:             time.Now().Add(-time.Hour),
		NotAfter:              time.Now().Add(time.Hour),
		IPAddresses:           []net.IP{net.IPv4(127, 0, 0, 1)},
		IsCA:                  true,
		BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	require.NoError(t, err)
	encodedKey, err := x509.MarshalPKCS8PrivateKey(key)
	require.NoError(t, err)
	certPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	keyPEM := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: encodedKey})
	a := &authority{
		certFile: filepath.Join(t.TempDir(), "cert.pem"),
		keyFile:  filepath.Join(t.TempDir(), "key.pem"),
	}
	require.NoError(t, os.WriteFile(a.certFile, certPEM, 0o600))
	require.NoError(t, os.WriteFile(a.keyFile, keyPEM, 0o600))
	a.certificate, err = tls.X509KeyPair(certPEM, keyPEM)
	require.NoError(t, err)
	return a
}

// directive is the directive by which a site uses the certificate.
func (a *authority) directive() string { return "tls " + a.certFile + " " + a.keyFile }

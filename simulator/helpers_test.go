package simulator

// What the tests share: a provisioned simulator behind a real socket, and
// receivers that record what they get.

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-deepgram/deepgram-callback/internal/caddytest"
	"github.com/caddy-deepgram/deepgram-callback/simulator/audio"
)

// patience is how long a test waits for something that should come at once.
const patience = 20 * time.Second

func TestMain(m *testing.M) { caddytest.MainWithoutLeaks(m) }

// provision loads a configuration and returns the function that unloads it.
func provision(t *testing.T, s *Simulator) (unload func()) {
	t.Helper()
	ctx, cancel := caddy.NewContext(caddy.Context{Context: context.Background()})
	t.Cleanup(cancel)
	err := s.Provision(ctx)
	if err != nil {
		require.NoError(t, s.Cleanup())
	}
	require.NoError(t, err)
	return sync.OnceFunc(func() { require.NoError(t, s.Cleanup()) })
}

// builtInStory is the built-in text.
func builtInStory(t *testing.T) *story {
	t.Helper()
	b, err := loadBodies("")
	require.NoError(t, err)
	return b.text
}

// env is a simulator in service.
type env struct {
	t    *testing.T
	sim  *Simulator
	url  string
	dial func(ctx context.Context, network, address string) (net.Conn, error) // nil: as usual
	logs *observer.ObservedLogs
}

// serve provisions a simulator and puts it behind a socket. Unless the test sets these, it
// may call any port, and has no latency.
func serve(t *testing.T, s *Simulator) *env {
	t.Helper()
	s.AnyPort = len(s.Ports) == 0
	if s.Latency == nil {
		s.Latency = new(caddy.Duration)
	}
	if s.RetryDelay == nil {
		s.RetryDelay = new(caddy.Duration(time.Millisecond))
	}
	unload := provision(t, s)
	t.Cleanup(unload)
	core, logs := observer.New(zapcore.DebugLevel)
	s.sender.logger.Store(zap.New(core))
	t.Cleanup(func() { requireNoFieldTwice(t, logs) })

	next := caddyhttp.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) error {
		w.WriteHeader(http.StatusTeapot)
		return nil
	})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := s.ServeHTTP(onlyUnwraps{w}, r, next); err != nil {
			t.Errorf("%s %s: %v", r.Method, r.URL.Path, err)
		}
	}))
	t.Cleanup(server.Close)
	return &env{t: t, sim: s, url: server.URL, logs: logs}
}

// requireNoFieldTwice requires that no log line has two fields of the same name: in JSON, the
// second would hide the first.
func requireNoFieldTwice(t *testing.T, logs *observer.ObservedLogs) {
	t.Helper()
	for _, entry := range logs.All() {
		seen := make(map[string]bool)
		for _, field := range entry.Context {
			require.False(t, seen[field.Key], "%q has %s twice", entry.Message, field.Key)
			seen[field.Key] = true
		}
	}
}

// onlyUnwraps is like Caddy's response writers: no Hijacker, but Unwrap.
type onlyUnwraps struct{ w http.ResponseWriter }

func (o onlyUnwraps) Header() http.Header         { return o.w.Header() }
func (o onlyUnwraps) Write(b []byte) (int, error) { return o.w.Write(b) }
func (o onlyUnwraps) WriteHeader(status int)      { o.w.WriteHeader(status) }
func (o onlyUnwraps) Unwrap() http.ResponseWriter { return o.w }

// answer is what the simulator answered.
type answer struct {
	status int
	header http.Header
	body   []byte
}

func (a answer) json(t *testing.T) map[string]any {
	t.Helper()
	var decoded map[string]any
	require.NoError(t, json.Unmarshal(a.body, &decoded), "%s", a.body)
	return decoded
}

// post sends a request with a key. query holds pairs of name and value.
func (e *env) post(path, contentType string, body io.Reader, query ...string) answer {
	e.t.Helper()
	req, err := http.NewRequest(http.MethodPost, e.url+path+"?"+pairs(query).Encode(), body)
	require.NoError(e.t, err)
	req.Header.Set("Authorization", "Token a-key")
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	return e.do(req)
}

func (e *env) do(req *http.Request) answer {
	e.t.Helper()
	client := http.Client{Transport: &http.Transport{DialContext: e.dial, DisableKeepAlives: true}}
	resp, err := client.Do(req)
	require.NoError(e.t, err)
	defer func() { require.NoError(e.t, resp.Body.Close()) }()
	body, err := io.ReadAll(resp.Body)
	require.NoError(e.t, err)
	return answer{resp.StatusCode, resp.Header, body}
}

func pairs(query []string) url.Values {
	values := url.Values{}
	for i := 0; i < len(query); i += 2 {
		values.Add(query[i], query[i+1])
	}
	return values
}

// wav returns a WAV file of silence, with 16 bits per sample and so many channels and seconds.
func wav(channels, sampleRate int, seconds float64) []byte {
	size := int(seconds*float64(sampleRate)) * channels * 2
	return append(audio.AppendWAVHeader(nil, 1, channels, sampleRate, 16, size), make([]byte, size)...)
}

// received is a request that a receiver got.
type received struct {
	method string
	uri    string
	header http.Header
	body   []byte
}

func (r received) json(t *testing.T) map[string]any {
	t.Helper()
	return answer{body: r.body}.json(t)
}

// receiver is a callback server. It answers with the given statuses in turn,
// the last one again and again.
type receiver struct {
	*httptest.Server
	got chan received
}

func newReceiver(t *testing.T, statuses ...int) *receiver {
	t.Helper()
	r := &receiver{got: make(chan received, 1000)}
	var mu sync.Mutex
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		body, err := io.ReadAll(req.Body)
		if err != nil {
			return
		}
		r.got <- received{req.Method, req.RequestURI, req.Header, body}
		mu.Lock()
		status := http.StatusOK
		if len(statuses) > 0 {
			status = statuses[0]
		}
		if len(statuses) > 1 {
			statuses = statuses[1:]
		}
		mu.Unlock()
		if status == http.StatusFound {
			w.Header().Set("Location", "/elsewhere")
		}
		w.WriteHeader(status)
	}))
	t.Cleanup(r.Close)
	return r
}

// next returns the next request.
func (r *receiver) next(t *testing.T) received {
	t.Helper()
	return take(t, r.got)
}

// with returns the receiver's URL with other credentials, path and query.
func (r *receiver) with(userinfo, pathAndQuery string) string {
	return strings.Replace(r.URL, "://", "://"+userinfo, 1) + pathAndQuery
}

func take[T any](t *testing.T, from <-chan T) T {
	t.Helper()
	select {
	case value := <-from:
		return value
	case <-time.After(patience):
		require.FailNow(t, "nothing came")
		panic("unreachable")
	}
}

// speak opens a live stream.
func (e *env) speak(query ...string) (*websocket.Conn, *http.Response) {
	e.t.Helper()
	conn, resp, err := e.dialStream(query...)
	require.NoError(e.t, err)
	e.t.Cleanup(func() { _ = conn.Close() })
	return conn, resp
}

func (e *env) dialStream(query ...string) (*websocket.Conn, *http.Response, error) {
	target := strings.Replace(e.url, "http", "ws", 1) + "/v1/listen?" + pairs(query).Encode()
	dialer := websocket.Dialer{NetDialContext: e.dial}
	return dialer.Dial(target, http.Header{"Authorization": {"token a-key"}})
}

// sayLinear16 sends so many seconds of raw audio at 8000 Hz, mono, in pieces.
func sayLinear16(t *testing.T, conn *websocket.Conn, seconds float64, piece int) {
	t.Helper()
	sound := make([]byte, int(seconds*16000))
	for len(sound) > 0 {
		n := min(piece, len(sound))
		require.NoError(t, conn.WriteMessage(websocket.BinaryMessage, sound[:n]))
		sound = sound[n:]
	}
}

func say(t *testing.T, conn *websocket.Conn, text string) {
	t.Helper()
	require.NoError(t, conn.WriteMessage(websocket.TextMessage, []byte(text)))
}

// heard is what came over a WebSocket until it ended.
type heard struct {
	messages []map[string]any
	raw      []string
	err      error // how it ended
}

func (h heard) types() []string {
	var types []string
	for _, m := range h.messages {
		types = append(types, m["type"].(string))
	}
	return types
}

// transcript joins the final results of the first channel.
func (h heard) transcript() string {
	var said []string
	for _, m := range h.messages {
		if m["type"] != "Results" || m["is_final"] != true || m["channel_index"].([]any)[0] != 0.0 {
			continue
		}
		if text := transcriptIn(m); text != "" {
			said = append(said, text)
		}
	}
	return strings.Join(said, " ")
}

func transcriptIn(results map[string]any) string {
	channel := results["channel"].(map[string]any)
	return channel["alternatives"].([]any)[0].(map[string]any)["transcript"].(string)
}

// listenTo reads a WebSocket to its end.
func listenTo(conn *websocket.Conn) heard {
	var h heard
	_ = conn.SetReadDeadline(time.Now().Add(patience))
	for {
		kind, body, err := conn.ReadMessage()
		if err != nil {
			h.err = err
			return h
		}
		var m map[string]any
		if kind != websocket.TextMessage || json.Unmarshal(body, &m) != nil {
			m = map[string]any{"type": "no text message in JSON"}
		}
		h.messages = append(h.messages, m)
		h.raw = append(h.raw, string(body))
	}
}

// socketReceiver is a callback server for WebSockets. Every connection is
// handed to the test.
type socketReceiver struct {
	*httptest.Server
	got chan accepted
}

type accepted struct {
	conn   *websocket.Conn
	uri    string
	header http.Header
}

func newSocketReceiver(t *testing.T) *socketReceiver {
	t.Helper()
	r := &socketReceiver{got: make(chan accepted, 10)}
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		conn, err := new(websocket.Upgrader).Upgrade(w, req, nil)
		if err != nil {
			return
		}
		t.Cleanup(func() { _ = conn.Close() })
		r.got <- accepted{conn, req.RequestURI, req.Header}
	}))
	t.Cleanup(r.Close)
	return r
}

func (r *socketReceiver) with(userinfo, pathAndQuery string) string {
	return strings.Replace(r.URL, "http://", "ws://"+userinfo, 1) + pathAndQuery
}

func requireClosed(t *testing.T, err error, code int) {
	t.Helper()
	var closed *websocket.CloseError
	require.ErrorAs(t, err, &closed)
	require.Equal(t, code, closed.Code, closed.Text)
}

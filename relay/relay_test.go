package relay

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
	_ "github.com/caddyserver/caddy/v2/modules/standard"
	"github.com/stretchr/testify/require"
)

const patience = 20 * time.Second

// Round trips are made by http1 or, with an option that http1 does not know, by
// net/http's transport.
var transports = map[string]string{
	"own":        `{"protocol":"http"}`,
	"net/http's": `{"protocol":"http","read_buffer_size":8192}`,
}

// eachTransport runs a test with proxies of both kinds in front of addr.
func eachTransport(
	t *testing.T, addr func(t *testing.T) string, test func(t *testing.T, p *Proxy),
) {
	for name, transport := range transports {
		t.Run(name, func(t *testing.T) {
			test(t, newTestProxy(t, addr(t), transport))
		})
	}
}

// quietContext is a context for modules, whose log goes nowhere.
func quietContext(t testing.TB) caddy.Context {
	t.Helper()
	discard := &caddy.CustomLog{
		BaseLog: caddy.BaseLog{WriterRaw: json.RawMessage(`{"output":"discard"}`)},
	}
	ctx, err := caddy.ProvisionContext(&caddy.Config{
		Logging: &caddy.Logging{Logs: map[string]*caddy.CustomLog{"default": discard}},
	})
	require.NoError(t, err)
	return ctx
}

func newTestProxy(t testing.TB, addr, transport string) *Proxy {
	t.Helper()
	ctx := quietContext(t)
	p, err := NewProxy(ctx, &reverseproxy.Handler{
		Upstreams:    reverseproxy.UpstreamPool{{Dial: addr}},
		TransportRaw: json.RawMessage(transport),
	})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, p.Cleanup()) })
	return p
}

// prepared is a request as a Caddy server hands it to its handlers.
func prepared(
	ctx context.Context, w http.ResponseWriter, method, target string, body io.Reader,
) *http.Request {
	r := httptest.NewRequest(method, target, body).WithContext(ctx)
	return caddyhttp.PrepareRequest(r, caddy.NewReplacer(), w, &caddyhttp.Server{})
}

func handshake(ctx context.Context, w http.ResponseWriter) *http.Request {
	r := prepared(ctx, w, "GET", "/live", nil)
	r.Header.Set("Connection", "Upgrade")
	r.Header.Set("Upgrade", "websocket")
	r.Header.Set("Sec-WebSocket-Version", "13")
	r.Header.Set("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==")
	return r
}

// serve runs a service that calls each with its connections.
func serve(t *testing.T, each func(conn net.Conn)) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	accept(t, listener, each)
	return listener.Addr().String()
}

// accept calls each with the connections to a listener.
func accept(t *testing.T, listener net.Listener, each func(conn net.Conn)) {
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer func() { _ = conn.Close() }()
				each(conn)
			}()
		}
	}()
}

func requireStatus(t *testing.T, want int, err error) {
	t.Helper()
	var handlerError caddyhttp.HandlerError
	require.ErrorAs(t, err, &handlerError)
	require.Equal(t, want, handlerError.StatusCode)
}

func TestServiceThatNeverAnswersAHandshake(t *testing.T) {
	closed := make(chan struct{}, 2)
	silent := func(t *testing.T) string {
		return serve(t, func(conn net.Conn) {
			_, _ = io.Copy(io.Discard, conn)
			closed <- struct{}{}
		})
	}
	eachTransport(t, silent, func(t *testing.T, p *Proxy) {
		p.transport.handshakes.timeout = 50 * time.Millisecond
		w := httptest.NewRecorder()
		backend, err := p.Dial(w, handshake(context.Background(), w))
		require.Nil(t, backend)
		requireStatus(t, 504, err)
		select {
		case <-closed:
		case <-time.After(patience):
			require.Fail(t, "the connection to the service stays open")
		}
	})
}

func TestCallerThatGoesWhileTheBackendIsDialled(t *testing.T) {
	arrived := make(chan struct{}, 2)
	silent := func(t *testing.T) string {
		return serve(t, func(conn net.Conn) {
			arrived <- struct{}{}
			_, _ = io.Copy(io.Discard, conn)
		})
	}
	eachTransport(t, silent, func(t *testing.T, p *Proxy) {
		ctx, cancel := context.WithCancel(context.Background())
		go func() {
			<-arrived
			cancel()
		}()
		w := httptest.NewRecorder()
		backend, err := p.Dial(w, handshake(ctx, w))
		require.Nil(t, backend)
		if err != nil {
			requireStatus(t, 499, err)
			return
		}
		require.Equal(t, 499, w.Code)
	})
}

// A pair uses the connection for hours, while the request that has opened it is over
// at once.
func TestDialledConnectionOutlivesItsRequest(t *testing.T) {
	service := func(t *testing.T) string {
		return serve(t, func(conn net.Conn) {
			reader := bufio.NewReader(conn)
			if _, err := http.ReadRequest(reader); err != nil {
				return
			}
			_, _ = io.WriteString(conn,
				"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\n"+
					"Upgrade: WebSocket\r\nX-Y: z\r\n\r\nearly")
			_, _ = io.Copy(conn, reader)
		})
	}
	eachTransport(t, service, func(t *testing.T, p *Proxy) {
		ctx, cancel := context.WithCancel(context.Background())
		w := httptest.NewRecorder()
		backend, err := p.Dial(w, handshake(ctx, w))
		require.NoError(t, err)
		defer func() { _ = backend.Conn.Close() }()
		require.Equal(t, "z", backend.Header.Get("X-Y"))
		cancel()

		require.NoError(t, backend.Conn.SetReadDeadline(time.Now().Add(patience)))
		early := make([]byte, 5-len(backend.Buffered))
		_, err = io.ReadFull(backend.Conn, early)
		require.NoError(t, err)
		require.Equal(t, "early", string(backend.Buffered)+string(early))
		_, err = io.WriteString(backend.Conn, "late")
		require.NoError(t, err)
		late := make([]byte, 4)
		_, err = io.ReadFull(backend.Conn, late)
		require.NoError(t, err)
		require.Equal(t, "late", string(late))
	})
}

func TestConnectionThatTheServiceClosedIsNotUsedAgain(t *testing.T) {
	closed := make(chan struct{})
	service := func(t *testing.T) string {
		return serve(t, func(conn net.Conn) {
			r, err := http.ReadRequest(bufio.NewReader(conn))
			if err != nil {
				return
			}
			_, _ = io.Copy(io.Discard, r.Body)
			_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
			_ = conn.Close() // without having said so
			closed <- struct{}{}
		})
	}
	p := newTestProxy(t, service(t), transports["own"])
	for range 20 {
		w := httptest.NewRecorder()
		require.NoError(t,
			p.Forward(w, prepared(context.Background(), w, "POST", "/", strings.NewReader("body"))))
		require.Equal(t, "ok", w.Body.String())
		<-closed
	}
}

func TestConnectionsAreUsedAgain(t *testing.T) {
	opened := make(chan struct{}, 100)
	handler := func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(w, r.Body)
	}
	service := httptest.NewUnstartedServer(http.HandlerFunc(handler))
	service.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			opened <- struct{}{}
		}
	}
	service.Start()
	defer service.Close()
	eachTransport(t, func(*testing.T) string {
		return service.Listener.Addr().String()
	}, func(t *testing.T, p *Proxy) {
		for range 20 {
			w := httptest.NewRecorder()
			require.NoError(t, p.Forward(w,
				prepared(context.Background(), w, "POST", "/", strings.NewReader("body"))))
			require.Equal(t, "body", w.Body.String())
		}
		require.Len(t, opened, 1)
		<-opened
	})
}

var errBroken = errors.New("the sender is gone")

// brokenBody is a body that fails in the middle.
type brokenBody struct{ io.Reader }

func (b *brokenBody) Read(p []byte) (int, error) {
	n, err := b.Reader.Read(p)
	if err == io.EOF {
		err = errBroken
	}
	return n, err
}

func TestBodyThatBreaksOffDoesNotArriveAsWhole(t *testing.T) {
	arrived := make(chan error, 2)
	service := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		_, err := io.Copy(io.Discard, r.Body)
		arrived <- err
	}))
	defer service.Close()
	eachTransport(t, func(*testing.T) string {
		return service.Listener.Addr().String()
	}, func(t *testing.T, p *Proxy) {
		w := httptest.NewRecorder()
		r := prepared(context.Background(), w, "POST", "/", &brokenBody{strings.NewReader("half")})
		r.ContentLength = 8
		err := p.Forward(w, r)
		require.ErrorIs(t, err, errBroken)
	})
	service.Close() // waits for its requests
	close(arrived)
	for err := range arrived {
		require.Error(t, err)
	}
}

func TestTokenIsSentButNotLeftToBeLogged(t *testing.T) {
	w := httptest.NewRecorder()
	r := prepared(context.Background(), w, "POST", "/", nil)
	require.Same(t, r, redactToken(r))

	r.Header.Set("dg-token", "key")
	r.Header.Set("X-Other", "stays")
	for range 3 { // attempts
		sent := redactToken(r)
		require.Equal(t, http.Header{"Dg-Token": {"key"}, "X-Other": {"stays"}}, sent.Header)
		require.Equal(t, http.Header{"Dg-Token": {"REDACTED"}, "X-Other": {"stays"}}, r.Header)
	}
}

func BenchmarkForward(b *testing.B) {
	service := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
	}))
	defer service.Close()
	for _, size := range []int{16 << 10, 1 << 20} {
		body := strings.Repeat("x", size)
		for name, transport := range transports {
			b.Run(fmt.Sprintf("%s, %d KiB", name, size>>10), func(b *testing.B) {
				p := newTestProxy(b, service.Listener.Addr().String(), transport)
				b.ReportAllocs()
				for b.Loop() {
					w := httptest.NewRecorder()
					if err := p.Forward(w, prepared(context.Background(), w, "POST", "/",
						strings.NewReader(body))); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

package relay

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// shortLimit is the limit that a test waits for. It must not have to wait for the
// others.
const (
	shortLimit = 200 * time.Millisecond
	longLimits = `"read_timeout":"20s","write_timeout":"20s"`
	tooLong    = patience / 2
)

// services are the ways in which a service is reached, each with the settings of the
// transport for it.
var services = map[string]struct {
	settings string
	serve    func(t *testing.T, each func(conn net.Conn)) (addr string)
}{
	"plain": {``, serve},
	"TLS":   {`,"tls":{"insecure_skip_verify":true}`, serveTLS},
	"TLS with a name by placeholder": {
		`,"tls":{"insecure_skip_verify":true,"server_name":"{http.request.host}"}`, serveTLS,
	},
	"net/http's transport": {`,"read_buffer_size":8192`, serve},
	"Unix socket":          {``, serveUnix},
}

func serveTLS(t *testing.T, each func(conn net.Conn)) string {
	certificate := httptest.NewUnstartedServer(nil)
	certificate.StartTLS()
	t.Cleanup(certificate.Close)
	return serve(t, func(conn net.Conn) {
		each(tls.Server(conn, certificate.TLS))
	})
}

func serveUnix(t *testing.T, each func(conn net.Conn)) string {
	dir, err := os.MkdirTemp("", "relay") // t.TempDir is too long for a socket's path
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	path := filepath.Join(dir, "s")
	listener, err := net.Listen("unix", path)
	require.NoError(t, err)
	accept(t, listener, each)
	return "unix/" + path
}

// eachService runs a test with a service that is reached in each of these ways,
// through a transport with long limits and these settings.
func eachService(
	t *testing.T, settings string, each func(conn net.Conn), test func(t *testing.T, p *Proxy),
) {
	for name, service := range services {
		t.Run(name, func(t *testing.T) {
			addr := service.serve(t, each)
			test(t, newTestProxy(t, addr, `{"protocol":"http",`+longLimits+service.settings+settings+`}`))
		})
	}
}

func TestServiceThatSaysNothing(t *testing.T) {
	settings := fmt.Sprintf(`,"response_header_timeout":%d`, shortLimit)
	silent := func(conn net.Conn) { _, _ = io.Copy(io.Discard, conn) }
	eachService(t, settings, silent, func(t *testing.T, p *Proxy) {
		began := time.Now()
		w := httptest.NewRecorder()
		err := p.Forward(w, prepared(context.Background(), w, "POST", "/", strings.NewReader("body")))
		requireStatus(t, 504, err)
		require.Less(t, time.Since(began), tooLong)

		began = time.Now()
		_, err = p.Dial(w, handshake(context.Background(), w))
		requireStatus(t, 504, err)
		require.Less(t, time.Since(began), tooLong)
	})
}

func TestServiceThatAcceptsAStreamAtOnce(t *testing.T) {
	for name, says := range map[string]func(conn net.Conn){
		"and is quiet": func(conn net.Conn) { _, _ = io.Copy(io.Discard, conn) },
		"and talks on": func(conn net.Conn) {
			for {
				if _, err := conn.Write([]byte("\x81\x02ok")); err != nil {
					return
				}
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			service := func(conn net.Conn) {
				if _, err := http.ReadRequest(bufio.NewReader(conn)); err != nil {
					return
				}
				_, _ = io.WriteString(conn,
					"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n")
				says(conn)
			}
			eachService(t, ``, service, func(t *testing.T, p *Proxy) {
				began := time.Now()
				w := httptest.NewRecorder()
				backend, err := p.Dial(w, handshake(context.Background(), w))
				require.NoError(t, err)
				defer func() { _ = backend.Conn.Close() }()
				require.Less(t, time.Since(began), tooLong)

				if name == "and is quiet" { // a limit of the pair's own
					require.NoError(t, backend.Conn.SetReadDeadline(time.Now().Add(shortLimit)))
					_, err = backend.Conn.Read(make([]byte, 1))
					require.ErrorIs(t, err, os.ErrDeadlineExceeded)
					require.Less(t, time.Since(began), tooLong)
				}
				require.NoError(t, backend.Conn.SetWriteDeadline(time.Now().Add(shortLimit)))
				for err == nil || !isTimeout(err) { // until the service's buffers are full
					_, err = backend.Conn.Write(make([]byte, 64<<10))
					if name == "and is quiet" {
						break // it takes everything
					}
				}
				require.Less(t, time.Since(began), tooLong)
			})
		})
	}
}

func isTimeout(err error) bool {
	timeout, ok := err.(net.Error) //nolint:errorlint // as the proxy asks
	return ok && timeout.Timeout()
}

// The limits of the transport hold for pairs too. A pair keeps them itself, and its
// connection has none.
func TestStreamHasTheLimitsOfItsTransport(t *testing.T) {
	for name, service := range services {
		t.Run(name, func(t *testing.T) {
			addr := service.serve(t, func(conn net.Conn) {
				if _, err := http.ReadRequest(bufio.NewReader(conn)); err != nil {
					return
				}
				_, _ = io.WriteString(conn,
					"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n")
				_, _ = conn.Read(make([]byte, 1))
				<-t.Context().Done()
			})
			p := newTestProxy(t, addr,
				fmt.Sprintf(`{"protocol":"http","read_timeout":%d,"write_timeout":%d%s}`, shortLimit,
					2*shortLimit, service.settings))
			w := httptest.NewRecorder()
			backend, err := p.Dial(w, handshake(context.Background(), w))
			require.NoError(t, err)
			defer func() { _ = backend.Conn.Close() }()
			require.Equal(t, shortLimit, backend.ReadTimeout)
			require.Equal(t, 2*shortLimit, backend.WriteTimeout)

			began := time.Now()
			require.NoError(t, backend.Conn.SetReadDeadline(began.Add(3*shortLimit)))
			_, err = backend.Conn.Read(make([]byte, 1))
			require.True(t, isTimeout(err), "%v", err)
			require.GreaterOrEqual(t, time.Since(began), 3*shortLimit)
		})
	}
}

// A service may close a connection that was used before at the very moment of the
// handshake.
func TestEachHandshakeHasAFreshConnection(t *testing.T) {
	for name, service := range services {
		t.Run(name, func(t *testing.T) {
			addr := service.serve(t, func(conn net.Conn) {
				reader := bufio.NewReader(conn)
				r, err := http.ReadRequest(reader)
				if err != nil {
					return
				}
				_, _ = io.Copy(io.Discard, r.Body)
				if r.Method == http.MethodGet && r.Header.Get("X-Refuse") == "" {
					_, _ = io.WriteString(conn,
						"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n")
					return
				}
				_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
				_, _ = http.ReadRequest(reader) // and closes at the sight of it
			})
			p := newTestProxy(t, addr, `{"protocol":"http"`+service.settings+`}`)
			w := httptest.NewRecorder()
			require.NoError(t, p.Forward(w,
				prepared(context.Background(), w, "POST", "/", strings.NewReader("body"))))
			require.Equal(t, "ok", w.Body.String())
			for range 5 {
				w = httptest.NewRecorder()
				refused := handshake(context.Background(), w)
				refused.Header.Set("X-Refuse", "yes")
				backend, err := p.Dial(w, refused)
				require.NoError(t, err)
				require.Nil(t, backend)
				require.Equal(t, "ok", w.Body.String())

				w = httptest.NewRecorder()
				backend, err = p.Dial(w, handshake(context.Background(), w))
				require.NoError(t, err)
				require.NoError(t, backend.Conn.Close())
			}
		})
	}
}

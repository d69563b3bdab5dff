package relay

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/headers"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
	"github.com/stretchr/testify/require"
)

// guarded is a proxy that does not use an upstream any more after one failure.
func guarded(t *testing.T, addr, transport string, change func(h *reverseproxy.Handler)) *Proxy {
	t.Helper()
	ctx := quietContext(t)
	handler := &reverseproxy.Handler{
		Upstreams:    reverseproxy.UpstreamPool{{Dial: addr}},
		TransportRaw: json.RawMessage(transport),
		HealthChecks: &reverseproxy.HealthChecks{Passive: &reverseproxy.PassiveHealthChecks{
			FailDuration: caddy.Duration(time.Hour), MaxFails: 1, UnhealthyStatus: []int{4, 5},
		}},
	}
	if change != nil {
		change(handler)
	}
	p, err := NewProxy(ctx, handler)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, p.Cleanup()) })
	return p
}

// echoes answers each request with its body.
func echoes(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err == nil {
		_, _ = w.Write(body)
	}
}

// An upstream that is well stays in use, whatever the senders do wrong.
func TestErrorsOfARequestCountAgainstNoUpstream(t *testing.T) {
	tooLong := caddyhttp.Error(http.StatusRequestEntityTooLarge, &http.MaxBytesError{Limit: 4})
	post := func(w http.ResponseWriter, body io.Reader, length int64) *http.Request {
		r := prepared(context.Background(), w, "POST", "/", body)
		r.ContentLength = length
		return r
	}
	large := strings.Repeat("x", 200<<10)
	field := func(name, value string) func(w http.ResponseWriter) *http.Request {
		return func(w http.ResponseWriter) *http.Request {
			r := post(w, strings.NewReader("body"), 4)
			r.Header[name] = []string{value}
			return r
		}
	}
	for name, bad := range map[string]func(w http.ResponseWriter) *http.Request{
		"a body that breaks off": func(w http.ResponseWriter) *http.Request {
			return post(w, broken("half", errBroken), 8)
		},
		"chunks that break off": func(w http.ResponseWriter) *http.Request {
			return post(w, broken("half", errBroken), -1)
		},
		"a large body that breaks off": func(w http.ResponseWriter) *http.Request {
			return post(w, broken(large, errBroken), 1<<20)
		},
		"large chunks that break off": func(w http.ResponseWriter) *http.Request {
			return post(w, broken(large, errBroken), -1)
		},
		"a body over the limit": func(w http.ResponseWriter) *http.Request {
			return post(w, broken("half", tooLong), -1)
		},
		"a large body over the limit": func(w http.ResponseWriter) *http.Request {
			return post(w, broken(large, tooLong), -1)
		},
		"a body that takes too long": func(w http.ResponseWriter) *http.Request {
			return post(w, broken("half", context.DeadlineExceeded), 8)
		},
		"a line break in a field":         field("X-Odd", "a\r\nDg-Token: stolen"),
		"a NUL in a field":                field("X-Odd", "a\x00"),
		"a field with a name that is not": field("X Odd", "a"),
		"a method that is none": func(w http.ResponseWriter) *http.Request {
			r := post(w, strings.NewReader("body"), 4)
			r.Method = "PO ST"
			return r
		},
		"a host that is none": func(w http.ResponseWriter) *http.Request {
			r := post(w, strings.NewReader("body"), 4)
			r.Host = "a b"
			return r
		},
		"a query with a line break": func(w http.ResponseWriter) *http.Request {
			r := post(w, strings.NewReader("body"), 4)
			r.URL.RawQuery = "a=\r\n"
			return r
		},
	} {
		t.Run(name, func(t *testing.T) {
			service := httptest.NewServer(http.HandlerFunc(echoes))
			defer service.Close()
			for kind, transport := range transports {
				p := guarded(t, service.Listener.Addr().String(), transport, nil)
				w := httptest.NewRecorder()
				err := p.Forward(w, bad(w))
				require.ErrorAs(t, err, new(*RequestError), kind)
				require.False(t, errors.Is(err, context.Canceled))
				require.Empty(t, w.Body.String())
				require.False(t, w.Flushed)
				// The recorder has 200 where nothing was answered.
				require.Equal(t, 200, w.Code, "an answer of the proxy's own reached the sender")

				w = httptest.NewRecorder()
				require.NoError(t, p.Forward(w, post(w, strings.NewReader("good"), 4)), kind)
				require.Equal(t, "good", w.Body.String())
			}
		})
	}
}

func broken(beginning string, err error) io.Reader {
	reader, writer := io.Pipe()
	_ = writer.CloseWithError(err)
	return io.MultiReader(strings.NewReader(beginning), reader)
}

func TestErrorsOfAnUpstreamCount(t *testing.T) {
	for _, transport := range transports {
		addr := serve(t, func(conn net.Conn) { _, _ = http.ReadRequest(bufio.NewReader(conn)) })
		p := guarded(t, addr, transport, nil)
		w := httptest.NewRecorder()
		requireStatus(t, 502,
			p.Forward(w, prepared(context.Background(), w, "POST", "/", strings.NewReader("body"))))
		requireStatus(t, 503,
			p.Forward(w, prepared(context.Background(), w, "POST", "/", strings.NewReader("body"))))
	}
}

func TestHandshakeThatCannotBeWrittenCountsAgainstNoUpstream(t *testing.T) {
	for _, transport := range transports {
		addr := serve(t, func(conn net.Conn) {
			if _, err := http.ReadRequest(bufio.NewReader(conn)); err == nil {
				_, _ = io.WriteString(conn,
					"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n")
			}
		})
		p := guarded(t, addr, transport, func(h *reverseproxy.Handler) {
			h.Headers = &headers.Handler{
				Request: &headers.HeaderOps{Set: http.Header{"X-Caller": {"{http.request.uri.query.caller}"}}},
			}
		})
		w := httptest.NewRecorder()
		r := handshake(context.Background(), w)
		r.URL.RawQuery = "caller=a%0d%0aX-Forged:%20yes"
		backend, err := p.Dial(w, r)
		require.Nil(t, backend)
		require.ErrorAs(t, err, new(*RequestError))
		require.NotContains(t, err.Error(), "Forged") // it may be a secret

		backend, err = p.Dial(w, handshake(context.Background(), w))
		require.NoError(t, err)
		require.NoError(t, backend.Conn.Close())
	}
}

// The body, which is read before there is a connection, has to be there for the next
// upstream too.
func TestNextUpstreamGetsTheWholeBody(t *testing.T) {
	dead, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, dead.Close())
	service := httptest.NewServer(http.HandlerFunc(echoes))
	defer service.Close()
	for kind, transport := range transports {
		for _, size := range []int{1, 16 << 10, keptBody - 1, keptBody, keptBody + 1, 300 << 10} {
			for _, chunked := range []bool{false, true} {
				p := guarded(t, dead.Addr().String(), transport, func(h *reverseproxy.Handler) {
					h.Upstreams = append(h.Upstreams,
						&reverseproxy.Upstream{Dial: service.Listener.Addr().String()})
					h.LoadBalancing = &reverseproxy.LoadBalancing{
						Retries:            3,
						SelectionPolicyRaw: json.RawMessage(`{"policy":"first"}`),
					}
				})
				body := strings.Repeat("x", size-1) + "y"
				w := httptest.NewRecorder()
				r := prepared(context.Background(), w, "POST", "/", strings.NewReader(body))
				if chunked {
					r.ContentLength = -1
				}
				require.NoError(t, p.Forward(w, r), kind)
				require.True(t, body == w.Body.String(), "%s, %d bytes: got %d", kind, size, w.Body.Len())
			}
		}
	}
}

// After an answer that asks for another attempt, a small body is sent again. A large
// one cannot be: only its beginning is left.
func TestAnotherAttemptAfterAnAnswer(t *testing.T) {
	var asked atomic.Int64
	service := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if asked.Add(1)%2 == 0 {
			echoes(w, r)
			return
		}
		_, _ = io.Copy(io.Discard, r.Body)
		w.WriteHeader(http.StatusServiceUnavailable)
	}))
	defer service.Close()
	for kind, transport := range transports {
		for _, buffered := range []bool{false, true} {
			p := guarded(t, service.Listener.Addr().String(), transport, func(h *reverseproxy.Handler) {
				h.HealthChecks = nil
				h.LoadBalancing = &reverseproxy.LoadBalancing{
					Retries: 3,
					RetryMatchRaw: caddyhttp.RawMatcherSets{
						{"expression": json.RawMessage(`"{http.reverse_proxy.status_code} == 503"`)},
					},
				}
				if buffered {
					h.RequestBuffers = -1
				}
			})
			for size, whole := range map[int]bool{16 << 10: true, 300 << 10: buffered} {
				asked.Store(0)
				body := strings.Repeat("x", size)
				w := httptest.NewRecorder()
				err := p.Forward(w, prepared(context.Background(), w, "POST", "/", strings.NewReader(body)))
				if !whole {
					requireStatus(t, 502, err)
					continue
				}
				require.NoError(t, err, "%s, %d bytes, buffered %v", kind, size, buffered)
				require.True(t, body == w.Body.String(), kind)
			}
		}
	}
}

func TestInterimAnswersOfAServiceAreLimited(t *testing.T) {
	endless := func(t *testing.T) string {
		return serve(t, func(conn net.Conn) {
			if _, err := http.ReadRequest(bufio.NewReader(conn)); err != nil {
				return
			}
			for {
				if _, err := io.WriteString(conn, "HTTP/1.1 103 Early Hints\r\n\r\n"); err != nil {
					return
				}
			}
		})
	}
	eachTransport(t, endless, func(t *testing.T, p *Proxy) {
		w := httptest.NewRecorder()
		err := p.Forward(w, prepared(context.Background(), w, "POST", "/", strings.NewReader("body")))
		requireStatus(t, 502, err)
		require.ErrorContains(t, err, "interim answers")
		backend, err := p.Dial(w, handshake(context.Background(), w))
		require.Nil(t, backend)
		requireStatus(t, 502, err)
		require.ErrorContains(t, err, "interim answers")
	})
}

// A sender that has sent only its header does not occupy a service that serves one
// connection at a time.
func TestServiceIsNotTroubledBeforeTheBodyIsThere(t *testing.T) {
	arrived := make(chan struct{}, 8)
	service := func(t *testing.T) string {
		return serve(t, func(conn net.Conn) {
			arrived <- struct{}{}
			reader := bufio.NewReader(conn)
			for {
				r, err := http.ReadRequest(reader)
				if err != nil {
					return
				}
				_, _ = io.Copy(io.Discard, r.Body)
				_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
			}
		})
	}
	eachTransport(t, service, func(t *testing.T, p *Proxy) {
		body, sender := io.Pipe()
		done := make(chan error)
		w := httptest.NewRecorder()
		r := prepared(context.Background(), w, "POST", "/", body)
		go func() { done <- p.Forward(w, r) }()
		_, err := io.WriteString(sender, "half")
		require.NoError(t, err)
		_, err = io.WriteString(sender, "half") // so that the first one has been read
		require.NoError(t, err)
		require.Empty(t, arrived)
		require.NoError(t, sender.Close())
		require.NoError(t, <-done)
		<-arrived
	})
}

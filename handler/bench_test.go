package handler_test

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/gorilla/websocket"
	"github.com/stretchr/testify/require"
)

func init() { caddy.RegisterModule(instantTransport{}) }

// instantTransport answers 200 without a service.
type instantTransport struct{}

func (instantTransport) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.reverse_proxy.transport.instant",
		New: func() caddy.Module { return new(instantTransport) },
	}
}

func (instantTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Body != nil {
		_ = r.Body.Close()
	}
	return &http.Response{
		StatusCode: 200,
		Proto:      "HTTP/1.1",
		ProtoMajor: 1,
		ProtoMinor: 1,
		Header:     http.Header{},
		Body:       http.NoBody,
		Request:    r,
	}, nil
}

// BenchmarkAdmission measures a callback from ServeHTTP to the transport that
// would send it on.
func BenchmarkAdmission(b *testing.B) {
	const relay = `"relay":{"upstreams":[{"dial":"127.0.0.1:9"}],"transport":{"protocol":"instant"}}`
	const header = `"basic_auth_plain":{"accounts":[{"username":"deepgram","password":"` + password +
		`"}]},` +
		`"dg_token":{"key_ids":["key"]},"query_secret":{"parameter":"token",` +
		`"secrets":["query-0123456789"]},`
	const metadataFirst = `{"metadata":{"extra":{"callback_secret":"body-secret-2025"}},"results":"`
	for _, test := range []struct {
		name, config string
		credentials  bool
		want         int
	}{
		{"anonymous", `"anonymous":true,`, false, 200},
		{"credentials in header and query", header, true, 200},
		{"all credentials", header + `"callback_secret":["body-secret-2025"],`, true, 200},
		{"refused", header, false, 401},
	} {
		b.Run(test.name, func(b *testing.B) {
			ctx, err := caddy.ProvisionContext(parse(b,
				`{"logging":{"logs":{"default":{"writer":{"output":"discard"}}}}}`))
			require.NoError(b, err)
			loaded, err := ctx.LoadModuleByID("http.handlers.deepgram_callback",
				[]byte("{"+test.config+relay+"}"))
			require.NoError(b, err)
			h := loaded.(caddyhttp.MiddlewareHandler)

			fields := http.Header{"Content-Type": {"application/json"}, "User-Agent": {"benchmark"}}
			target := "/path"
			if test.credentials {
				fields.Set("Authorization", withPassword().Get("Authorization"))
				fields.Set("dg-token", "key")
				target += "?token=query-0123456789&a=1"
			}
			body := metadataFirst + strings.Repeat("x", 16<<10) + `"}`
			local := context.WithValue(context.Background(), http.LocalAddrContextKey,
				&net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 443})
			server := &caddyhttp.Server{}
			b.ReportAllocs()
			for b.Loop() {
				w := httptest.NewRecorder()
				r := httptest.NewRequest("POST", target, strings.NewReader(body)).WithContext(local)
				r.Header = fields.Clone()
				r = caddyhttp.PrepareRequest(r, caddy.NewReplacer(), w, server)
				status := 200
				if err := h.ServeHTTP(w, r, nil); err != nil {
					status = err.(caddyhttp.HandlerError).StatusCode
				}
				if status != test.want {
					b.Fatal(status)
				}
			}
		})
	}
}

// BenchmarkHandshake measures opening and closing a stream, with both connections.
func BenchmarkHandshake(b *testing.B) {
	live := newEcho(b, echoOptions{silent: true})
	g := start(b, callback(live.addr, plainAuth))
	header := withPassword()
	dialer := &websocket.Dialer{}
	b.ReportAllocs()
	for b.Loop() {
		conn, _, err := dialer.Dial("ws://"+g.addr, header)
		if err != nil {
			b.Fatal(err)
		}
		_ = conn.Close()
		if err := <-(<-live.conns).ended; err == nil {
			b.Fatal("the backend was not told of the end")
		}
	}
}

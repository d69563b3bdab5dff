// Package relay hands callbacks on through Caddy's own reverse_proxy, so that
// balancing, health checks, dynamic upstreams, transports and header operations
// are those that every user of Caddy knows. It adds one thing: Dial has the
// connection behind a WebSocket handshake, which the proxy would keep to itself.
package relay

import (
	"errors"
	"net/http"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
)

// A Proxy is a provisioned reverse_proxy.
type Proxy struct {
	handler   *reverseproxy.Handler
	transport *transport
}

// NewProxy provisions handler, which is the proxy's from then on.
func NewProxy(ctx caddy.Context, handler *reverseproxy.Handler) (*Proxy, error) {
	if len(handler.Upstreams) == 0 && handler.DynamicUpstreamsRaw == nil {
		return nil, errors.New("no upstreams")
	}
	transport, err := newTransport(ctx, handler)
	if err != nil {
		return nil, err
	}
	handler.Transport = transport // before Provision, whose goroutines use it
	if err := handler.Provision(ctx); err != nil {
		// What is half provisioned is cleaned up, as Caddy does with the
		// modules that it loads itself.
		return nil, errors.Join(err, handler.Cleanup())
	}
	return &Proxy{handler, transport}, nil
}

// Cleanup releases what the proxy holds. It is safe on nil.
func (p *Proxy) Cleanup() error {
	if p == nil {
		return nil
	}
	p.transport.close()
	return p.handler.Cleanup()
}

// Forward relays one request. The upstream's answer is the answer; without
// one the error is a [caddyhttp.HandlerError] with 502, 503 or 504.
func (p *Proxy) Forward(w http.ResponseWriter, r *http.Request) error {
	return p.handler.ServeHTTP(w, r, nothing)
}

// nothing is what comes after a callback's service, for handle_response routes
// that hand a request on.
var nothing = caddyhttp.HandlerFunc(func(http.ResponseWriter, *http.Request) error { return nil })

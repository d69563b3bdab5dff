// Package relay hands callbacks on through Caddy's own reverse_proxy, so that
// balancing, health checks, dynamic upstreams, transports and header operations
// are those that every user of Caddy knows. It adds what that one has not: the
// connection behind a WebSocket handshake, time limits that hold beside each
// other, upstreams that are not blamed for errors of a request, and a leaner
// client for most of the requests.
//
//	relay.go      what there is to do with a callback: read this first
//	passage.go    one callback's way through the proxy, its body and its errors
//	dial.go       the handshake of a stream
//	transport.go  what stands between the proxy and the upstreams
//	plain.go      which transports package http1 stands in for
//	timeouts.go   read_timeout and write_timeout
//	writable.go   what cannot be written as HTTP
//	redact.go     keeping a token out of the proxy's logs
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
// one the error is a [caddyhttp.HandlerError] with 502, 503 or 504, or a
// [RequestError], which counts against no upstream.
func (p *Proxy) Forward(w http.ResponseWriter, r *http.Request) error {
	g := &passage{ResponseWriter: w}
	return p.through(g, g, r)
}

// nothing is what comes after a callback's service, for handle_response routes
// that hand a request on.
var nothing = caddyhttp.HandlerFunc(func(http.ResponseWriter, *http.Request) error { return nil })

// Package relay hands callbacks on through Caddy's own reverse_proxy, so that
// balancing, health checks, dynamic upstreams, transports and header operations
// are those that every user of Caddy knows. It adds what reverse_proxy has not:
// it gives out the connection behind a WebSocket handshake, time limits hold
// beside each other, upstreams are not blamed for errors of a request, and most
// requests go through a client that costs less.
//
//	relay.go      relaying a callback: read this first
//	passage.go    one callback's way through the proxy, its body and its errors
//	dial.go       the handshake of a stream
//	transport.go  the transport between the proxy and the upstreams
//	plain.go      for which transports the client of package http1 is used
//	timeouts.go   read_timeout and write_timeout
//	writable.go   what cannot be written as HTTP
//	redact.go     keeping dg-token out of the proxy's logs
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

// NewProxy provisions handler, which belongs to the proxy from then on. Cleanup must
// be called in the end, unless there is an error.
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
		// The half-provisioned handler is cleaned up, as Caddy does with modules
		// that it loads itself.
		return nil, errors.Join(err, handler.Cleanup())
	}
	return &Proxy{handler, transport}, nil
}

// Cleanup closes idle connections and stops health checks. It is safe on nil.
func (p *Proxy) Cleanup() error {
	if p == nil {
		return nil
	}
	p.transport.close()
	return p.handler.Cleanup()
}

// Forward relays one request, and blocks until the upstream's answer is written to w. Without an
// answer the error is a [caddyhttp.HandlerError] with 502, 503 or 504, or a [RequestError], which
// counts against no upstream. Forward panics with [http.ErrAbortHandler] where an answer breaks
// off.
func (p *Proxy) Forward(w http.ResponseWriter, r *http.Request) error {
	g := &passage{ResponseWriter: w}
	return p.through(g, g, r)
}

// nothing is the next handler, which handle_response routes may call.
var nothing = caddyhttp.HandlerFunc(func(http.ResponseWriter, *http.Request) error { return nil })

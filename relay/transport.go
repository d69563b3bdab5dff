package relay

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/headers"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
)

// transport is the proxy's own transport with a way out for WebSocket
// handshakes.
type transport struct {
	http.RoundTripper
	handshakes *handshakes
	plain      *http1 // nil unless the transport is for plain HTTP/1.1
}

// newTransport loads the transport that handler is configured with, by default
// Caddy's for HTTP, and wraps it.
func newTransport(ctx caddy.Context, handler *reverseproxy.Handler) (*transport, error) {
	var (
		loaded any
		err    error
	)
	if handler.TransportRaw != nil {
		loaded, err = ctx.LoadModule(handler, "TransportRaw")
	} else {
		loaded, err = ctx.LoadModuleByID("http.reverse_proxy.transport.http", nil)
	}
	if err != nil {
		return nil, fmt.Errorf("loading transport: %w", err)
	}
	inner, ok := loaded.(http.RoundTripper)
	if !ok {
		return nil, fmt.Errorf("loading transport: %T is no http.RoundTripper", loaded)
	}
	if sized, ok := inner.(reverseproxy.BufferedTransport); ok {
		requests, responses := sized.DefaultBufferSizes()
		if handler.RequestBuffers == 0 {
			handler.RequestBuffers = requests
		}
		if handler.ResponseBuffers == 0 {
			handler.ResponseBuffers = responses
		}
	}
	wrapped := &transport{RoundTripper: inner}
	settings, ok := inner.(*reverseproxy.HTTPTransport)
	if ok {
		takeOverTimeouts(settings)
		wrapped.plain = newHTTP1(settings)
	}
	wrapped.handshakes = newHandshakes(inner, settings)
	return wrapped, nil
}

// RoundTrip does what the wrapped transport does, but where Dial is behind the
// request it keeps the connection of an accepted handshake for Dial.
func (t *transport) RoundTrip(r *http.Request) (res *http.Response, err error) {
	r = redactToken(r)
	if dial, ok := r.Context().Value(dialKey{}).(*dial); ok {
		return dial.roundTrip(t.handshakes, r)
	}
	if to, ok := t.plain.target(r); ok {
		res, err = t.plain.roundTrip(r, to, time.Duration(t.plain.settings.ResponseHeaderTimeout))
	} else {
		res, err = t.RoundTripper.RoundTrip(r)
	}
	if err == nil && res.StatusCode == http.StatusSwitchingProtocols {
		// The proxy would drop it and leave the sender with a 200.
		res.Body.Close()
		return nil, errNotAsked
	}
	if answered, ok := r.Context().Value(answerKey{}).(func(*http.Response)); ok && err == nil {
		answered(res)
	}
	return res, err
}

// answerKey is the context's key of what WithAnswer has.
type answerKey struct{}

// WithAnswer has f see the answer of the service to a request with this context, before the proxy
// does anything with it. f may take its body away.
func WithAnswer(ctx context.Context, f func(*http.Response)) context.Context {
	return context.WithValue(ctx, answerKey{}, f)
}

var errNotAsked = errors.New("the service answered 101 to what was no handshake")

// close closes what no request uses.
func (t *transport) close() {
	if t.plain != nil {
		t.plain.idle.close()
	}
}

// What the proxy asks of its transport besides, and would not find behind an
// embedded interface.

// RequestHeaderOps implements [reverseproxy.RequestHeaderOpsTransport].
func (t *transport) RequestHeaderOps() *headers.HeaderOps {
	if inner, ok := t.RoundTripper.(reverseproxy.RequestHeaderOpsTransport); ok {
		return inner.RequestHeaderOps()
	}
	return nil
}

// ProxyProtocolEnabled implements [reverseproxy.ProxyProtocolTransport].
func (t *transport) ProxyProtocolEnabled() bool {
	inner, ok := t.RoundTripper.(reverseproxy.ProxyProtocolTransport)
	return ok && inner.ProxyProtocolEnabled()
}

// RequiresContentLength implements [reverseproxy.ContentLengthRequiredTransport].
func (t *transport) RequiresContentLength() bool {
	inner, ok := t.RoundTripper.(reverseproxy.ContentLengthRequiredTransport)
	return ok && inner.RequiresContentLength()
}

// OverrideHealthCheckScheme implements [reverseproxy.HealthCheckSchemeOverriderTransport].
func (t *transport) OverrideHealthCheckScheme(base *url.URL, port string) {
	if inner, ok := t.RoundTripper.(reverseproxy.HealthCheckSchemeOverriderTransport); ok {
		inner.OverrideHealthCheckScheme(base, port)
	}
}

// Interface guards
var (
	_ http.RoundTripper                                = (*transport)(nil)
	_ reverseproxy.RequestHeaderOpsTransport           = (*transport)(nil)
	_ reverseproxy.ProxyProtocolTransport              = (*transport)(nil)
	_ reverseproxy.ContentLengthRequiredTransport      = (*transport)(nil)
	_ reverseproxy.HealthCheckSchemeOverriderTransport = (*transport)(nil)
)

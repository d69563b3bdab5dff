package relay

import (
	"fmt"
	"net/http"
	"net/url"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/headers"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
)

// transport is the proxy's own transport with a way out for WebSocket
// handshakes.
type transport struct {
	http.RoundTripper
}

// wrapTransport loads the transport that handler is configured with and gives
// it to handler wrapped. That is done before handler is provisioned, as
// provisioning starts goroutines that use the transport.
func wrapTransport(ctx caddy.Context, handler *reverseproxy.Handler) error {
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
		return fmt.Errorf("loading transport: %w", err)
	}
	inner, ok := loaded.(http.RoundTripper)
	if !ok {
		return fmt.Errorf("loading transport: %T is no http.RoundTripper", loaded)
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
	handler.Transport = &transport{inner}
	return nil
}

// RoundTrip does what the wrapped transport does, but where Dial is behind the
// request it keeps the connection of an accepted handshake for Dial.
func (t *transport) RoundTrip(r *http.Request) (*http.Response, error) {
	if dial, ok := r.Context().Value(dialKey{}).(*dial); ok {
		return dial.roundTrip(t.RoundTripper, r)
	}
	return t.RoundTripper.RoundTrip(r)
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

// The transport between the proxy and the upstreams.

package relay

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"net/url"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/headers"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/caddy-deepgram/deepgram-callback/relay/http1"
)

// transport wraps the transport that the proxy is configured with. It keeps the
// connections of WebSocket handshakes, and errors of requests from the proxy.
type transport struct {
	http.RoundTripper
	handshakes *handshakes
	plain      *plain // nil unless the transport is for plain HTTP/1.1
}

// newTransport loads the transport that handler is configured with, by default
// Caddy's for HTTP, and wraps it.
func newTransport(ctx caddy.Context, handler *reverseproxy.Handler) (*transport, error) {
	var (
		loaded any
		err    error
	)
	var proxied struct {
		NetworkProxy json.RawMessage `json:"network_proxy"`
	}
	if handler.TransportRaw != nil {
		// LoadModule empties TransportRaw, and says what is wrong with it.
		_ = json.Unmarshal(handler.TransportRaw, &proxied)
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
		if proxied.NetworkProxy == nil {
			wrapped.plain = newPlain(settings)
		}
	}
	wrapped.handshakes = newHandshakes(wrapped.plain, inner, settings)
	return wrapped, nil
}

// RoundTrip implements [http.RoundTripper] by the wrapped transport. For a request of Dial it keeps
// the connection of an accepted handshake. An error of the request itself is kept in its passage.
func (t *transport) RoundTrip(r *http.Request) (*http.Response, error) {
	g := passageOf(r.Context())
	if err := checkWritable(r); err != nil {
		return nil, g.fail(err)
	}
	r = redactToken(r)
	if g != nil && g.dial != nil {
		return g.dial.roundTrip(t.handshakes, r)
	}
	if g != nil && g.body.sender != nil && r.Body != nil {
		if err := g.body.load(r.ContentLength); err != nil {
			return nil, g.fail(err)
		}
	}
	res, err := t.send(r)
	if err != nil {
		return nil, g.blame(err)
	}
	if res.StatusCode == http.StatusSwitchingProtocols {
		// The proxy would drop the connection, and answer the sender with 200.
		res.Body.Close()
		return nil, errNotAsked
	}
	if answered, ok := r.Context().Value(answerKey{}).(func(*http.Response)); ok {
		answered(res)
	}
	return res, nil
}

// answerKey is the context's key for the function of WithAnswer.
type answerKey struct{}

// WithAnswer makes a context with which f is called for each answer of a service, before the proxy
// does anything with the answer. f may replace its body.
func WithAnswer(ctx context.Context, f func(*http.Response)) context.Context {
	return context.WithValue(ctx, answerKey{}, f)
}

var errNotAsked = errors.New("the service answered 101 to what was no handshake")

// send makes the round trip of a request that is no handshake.
func (t *transport) send(r *http.Request) (*http.Response, error) {
	if to, ok := t.plain.target(r); ok {
		return t.plain.client.RoundTrip(r, to)
	}
	ctx, _ := limitInterim(r.Context())
	res, err := t.RoundTripper.RoundTrip(r.WithContext(ctx))
	return res, causeOf(ctx, err)
}

// limitInterim makes a context that ends when a service sends more interim answers than make sense.
// net/http has no limit for a request whose trace asks for them, as the proxy's does, and the proxy
// has none either.
func limitInterim(parent context.Context) (context.Context, context.CancelCauseFunc) {
	ctx, cancel := context.WithCancelCause(parent)
	interim := 0
	return httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		Got1xxResponse: func(int, textproto.MIMEHeader) error {
			if interim++; interim > http1.MaxInterim {
				cancel(errTooManyInterim)
			}
			return nil
		},
	}), cancel
}

var errTooManyInterim = fmt.Errorf("the service sent more than %d interim answers",
	http1.MaxInterim)

// causeOf is err, or errTooManyInterim where that is why ctx ended.
func causeOf(ctx context.Context, err error) error {
	if err != nil && errors.Is(context.Cause(ctx), errTooManyInterim) {
		return errTooManyInterim
	}
	return err
}

// close closes the connections that no request uses.
func (t *transport) close() { t.plain.close() }

// The proxy looks for the following methods, which embedding an
// http.RoundTripper does not provide.

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

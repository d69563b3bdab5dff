// For which transports the client of package http1 is used.

package relay

import (
	"net/http"
	"slices"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/caddy-deepgram/deepgram-callback/relay/http1"
)

// plain makes the round trips to services that speak plain HTTP/1.1, as most of them do, instead of
// net/http's transport; see package http1.
type plain struct {
	client   *http1.Client
	settings *reverseproxy.HTTPTransport
}

// newPlain makes a plain with the settings of a provisioned transport, if it can honour all of
// them. Otherwise it returns nil, and all requests go through net/http's transport. It is never
// both, so that limits such as max_idle_conns do not hold for each of two clients.
func newPlain(t *reverseproxy.HTTPTransport) *plain {
	knows := http1.Supported &&
		t.TLS == nil && t.ProxyProtocol == "" &&
		slices.Contains(t.Versions, "1.1") && !slices.Contains(t.Versions, "h2c") &&
		t.MaxConnsPerHost == 0 && t.ExpectContinueTimeout == 0 &&
		t.ReadBufferSize == 0 && t.WriteBufferSize == 0 &&
		t.ForwardProxyURL == "" && // newTransport looks for a network_proxy
		(t.KeepAlive.Enabled == nil || *t.KeepAlive.Enabled)
	if !knows {
		return nil
	}
	// Caddy's dialler honours the other settings: resolver, local_address,
	// dial_timeout, dial_fallback_delay, keepalive's probes, read_timeout and
	// write_timeout.
	return &plain{settings: t, client: &http1.Client{
		Dial:              t.Transport.DialContext,
		HeadTimeout:       time.Duration(t.ResponseHeaderTimeout),
		MaxHead:           t.MaxResponseHeaderSize,
		Compress:          t.Compression == nil || *t.Compression,
		MaxIdle:           t.KeepAlive.MaxIdleConns,
		MaxIdlePerAddress: t.KeepAlive.MaxIdleConnsPerHost,
		IdleTimeout:       time.Duration(t.KeepAlive.IdleConnTimeout),
	}}
}

// target returns the address that r goes to. ok is false where r is to go through
// net/http's transport, such as to a proxy that the environment names.
func (p *plain) target(r *http.Request) (to http1.Address, ok bool) {
	if p == nil {
		return to, false
	}
	dial, ok := reverseproxy.GetDialInfo(r.Context())
	if !ok {
		return to, false
	}
	p.settings.SetScheme(r)
	if proxy, err := p.settings.Transport.Proxy(r); proxy != nil || err != nil {
		return to, false
	}
	return http1.Address{Network: dial.Network, Address: dial.Address}, true
}

// close closes the connections that no request uses. It is safe on nil.
func (p *plain) close() {
	if p != nil {
		p.client.Close()
	}
}

package relay

import (
	"net/http"
	"slices"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/caddy-deepgram/deepgram-callback/relay/http1"
)

// plain makes the round trips to services that speak plain HTTP/1.1, as most
// do, in the place of net/http's transport; see package http1.
type plain struct {
	client   *http1.Client
	settings *reverseproxy.HTTPTransport
}

// newPlain makes a plain with the settings of a provisioned transport, where
// all of them are among those that it knows how to honour; else it returns nil,
// and everything goes through net/http's transport. It is one or the other, so
// that no limit holds twice.
func newPlain(t *reverseproxy.HTTPTransport) *plain {
	knows := http1.Supported &&
		t.TLS == nil && t.ProxyProtocol == "" &&
		slices.Contains(t.Versions, "1.1") && !slices.Contains(t.Versions, "h2c") &&
		t.MaxConnsPerHost == 0 && t.ExpectContinueTimeout == 0 &&
		t.ReadBufferSize == 0 && t.WriteBufferSize == 0 &&
		t.ForwardProxyURL == "" && // a network_proxy is found out by newTransport
		(t.KeepAlive.Enabled == nil || *t.KeepAlive.Enabled)
	if !knows {
		return nil
	}
	// Caddy's dialler has the rest: resolver, local_address, dial_timeout,
	// dial_fallback_delay, the probes of keepalive, read_timeout and
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

// target says where r goes, unless it is nothing for plain: the environment
// may name a proxy for it.
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

// close closes what no request uses.
func (p *plain) close() {
	if p != nil {
		p.client.Close()
	}
}

// Package sender is what is known of who sends a request before any credential is
// looked at: the address, and whether a trusted proxy is in front.
package sender

import (
	"context"
	"net/http"
	"net/netip"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// TokenHeader is the name of the dg-token header, in the canonical form that
// net/http stores. In it Deepgram names the API key that a request was submitted
// with.
const TokenHeader = "Dg-Token"

// IP is the address of the client as Caddy has determined it, which looks through
// trusted proxies; empty where it has not.
func IP(r *http.Request) string {
	ip, _ := caddyhttp.GetVar(r.Context(), caddyhttp.ClientIPVarKey).(string)
	return ip
}

// FromTrustedProxy reports whether the peer is a proxy that is configured as
// trusted, so that what it says of the client counts.
func FromTrustedProxy(r *http.Request) bool {
	trusted, _ := caddyhttp.GetVar(r.Context(), caddyhttp.TrustedProxyVarKey).(bool)
	return trusted
}

// Set sets what IP and FromTrustedProxy return, for a request that did not come
// through a server of Caddy's.
func Set(ctx context.Context, ip string, fromTrustedProxy bool) {
	caddyhttp.SetVar(ctx, caddyhttp.ClientIPVarKey, ip)
	caddyhttp.SetVar(ctx, caddyhttp.TrustedProxyVarKey, fromTrustedProxy)
}

// Network is what counts as one sender where limits are kept: the client's IPv4 address, or the /64
// of its IPv6 address, since a client can have all of one; the peer's where Caddy has determined
// none. All peers without an IP address, such as those on Unix sockets, have the zero Prefix.
func Network(r *http.Request) netip.Prefix {
	address, err := netip.ParseAddr(IP(r))
	if err != nil {
		peer, err := netip.ParseAddrPort(r.RemoteAddr)
		if err != nil {
			return netip.Prefix{}
		}
		address = peer.Addr()
	}
	address = address.Unmap().WithZone("")
	bits := 32
	if address.Is6() {
		bits = 64
	}
	prefix, _ := address.Prefix(bits) // fails only for a wrong number of bits
	return prefix
}

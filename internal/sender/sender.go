// Package sender is what is known of who calls before any credential is looked
// at, in one place for all who ask.
package sender

import (
	"context"
	"net/http"
	"net/netip"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// TokenHeader is the dg-token header, in which Deepgram names the API key that a
// request was submitted with, in the canonical form that net/http stores.
const TokenHeader = "Dg-Token"

// IP is whom Caddy takes for the client, behind trusted proxies too.
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

// Set makes what IP and FromTrustedProxy say known to Caddy's handlers, for a
// request that no server took.
func Set(ctx context.Context, ip string, fromTrustedProxy bool) {
	caddyhttp.SetVar(ctx, caddyhttp.ClientIPVarKey, ip)
	caddyhttp.SetVar(ctx, caddyhttp.TrustedProxyVarKey, fromTrustedProxy)
}

// Network is what a sender is counted by: the client's address, or the peer's
// where Caddy determined none. An IPv6 client has a whole /64 at its hands, so
// that is what counts as one. Peers that have no IP address, as on a Unix socket,
// count as one too.
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

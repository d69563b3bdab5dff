// Who calls: the client's address, and what a trusted proxy says of it.

package auth

import (
	"net/http"
	"net/netip"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

// ClientIP is whom Caddy takes for the client, behind trusted proxies too.
func ClientIP(r *http.Request) string {
	ip, _ := caddyhttp.GetVar(r.Context(), caddyhttp.ClientIPVarKey).(string)
	return ip
}

// FromTrustedProxy reports whether the peer is a proxy that is configured as
// trusted, so that what it says of the client counts.
func FromTrustedProxy(r *http.Request) bool {
	trusted, _ := caddyhttp.GetVar(r.Context(), caddyhttp.TrustedProxyVarKey).(bool)
	return trusted
}

// clientAddress is what guesses and the room for bodies are counted for: the
// client's address, or the peer's where Caddy determined none. An IPv6 client has
// a whole /64 at its hands, so that is what counts as one. Peers that have no IP
// address, as on a Unix socket, count as one too.
func clientAddress(r *http.Request) netip.Prefix {
	address, err := netip.ParseAddr(ClientIP(r))
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

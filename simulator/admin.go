package simulator

// Where Caddy's admin endpoint listens, so that no callback goes there.

import (
	"net/netip"
	"reflect"

	"github.com/caddyserver/caddy/v2"
)

// adminEndpoint is where an admin endpoint listens for TCP connections: at a
// port, on loopback alone or on more addresses. The zero value listens nowhere.
//
// No callback URL can lead to an endpoint on a Unix socket. The address of one on
// an inherited file descriptor (`fd/3`) is known only to the system, so it is not
// recognised. The endpoint for remote administration does not matter: it asks for
// a client certificate, and a callback has none.
type adminEndpoint struct {
	port     uint16
	loopback bool
}

// defaultAdminEndpoint is where a Caddy listens whose configuration does not say,
// be it this one or another on the same machine.
func defaultAdminEndpoint() adminEndpoint { return parseAdminEndpoint("") }

// newAdminEndpoint returns the admin endpoint of a context's configuration.
// Caddy does not export this part of a configuration, so it is read by
// reflection; a test fails when Caddy has changed it.
func newAdminEndpoint(ctx caddy.Context) adminEndpoint {
	config := reflect.ValueOf(ctx).FieldByName("cfg")
	if !config.IsValid() || config.Type() != reflect.TypeFor[*caddy.Config]() || config.IsNil() {
		return adminEndpoint{}
	}
	admin := config.Elem().FieldByName("Admin")
	switch {
	case admin.IsNil():
		return defaultAdminEndpoint()
	case admin.Elem().FieldByName("Disabled").Bool():
		return adminEndpoint{}
	default:
		return parseAdminEndpoint(admin.Elem().FieldByName("Listen").String())
	}
}

func parseAdminEndpoint(listen string) adminEndpoint {
	listen = caddy.NewReplacer().ReplaceAll(listen, "")
	if listen == "" {
		listen = caddy.DefaultAdminListen
	}
	parsed, err := caddy.ParseNetworkAddress(listen)
	if err != nil || parsed.IsUnixNetwork() || parsed.IsFdNetwork() {
		return adminEndpoint{}
	}
	addr, err := netip.ParseAddr(parsed.Host)
	return adminEndpoint{
		port:     uint16(parsed.StartPort),
		loopback: parsed.Host == "localhost" || err == nil && addr.Unmap().IsLoopback(),
	}
}

// listensOn reports whether dialling an address may reach the endpoint. Where that
// listens on more than loopback, the port decides: which addresses lead to this
// machine is not known here.
func (e adminEndpoint) listensOn(addr netip.Addr, port uint16) bool {
	return e.port != 0 && e.port == port &&
		(!e.loopback || addr.IsLoopback() || addr.IsUnspecified()) // 0.0.0.0 leads to loopback
}

package simulator

// Where Caddy's admin endpoint listens, so that no callback goes there.

import (
	"net/netip"
	"reflect"

	"github.com/caddyserver/caddy/v2"
)

// adminEndpoint is where an admin endpoint listens for TCP connections: at a
// port, of loopback alone or of more than that. The zero value listens nowhere.
//
// Endpoints on unix sockets cannot be called. Of one on an inherited file
// descriptor (`fd/3`) only the system knows the address, so it is not
// recognised. The endpoint for remote administration is not in here: it takes
// nobody without a client certificate, and a callback has none.
type adminEndpoint struct {
	port     uint16
	loopback bool
}

// defaultAdminEndpoint is where Caddy listens that was told nothing, be it this
// one or another on the same machine.
func defaultAdminEndpoint() adminEndpoint { return parseAdminEndpoint("") }

// newAdminEndpoint returns the admin endpoint of a context's configuration.
// Caddy shows this part of a configuration to no module, so it is read by
// reflection; a test fails where Caddy has changed what is read here.
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

// listensOn tells whether dialling an address may reach the endpoint. Where it
// listens on more than loopback, the port is enough to tell: which addresses
// lead to this machine is not known here.
func (e adminEndpoint) listensOn(addr netip.Addr, port uint16) bool {
	return e.port != 0 && e.port == port &&
		(!e.loopback || addr.IsLoopback() || addr.IsUnspecified()) // which connects to loopback
}

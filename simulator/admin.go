package simulator

// Where Caddy's admin endpoint listens, so that no callback goes there.

import (
	"net"
	"net/netip"
	"reflect"

	"github.com/caddyserver/caddy/v2"
)

// adminEndpoint is where an admin endpoint listens for TCP connections. The
// zero value listens nowhere.
//
// Endpoints on unix sockets cannot be called. Of one on an inherited file
// descriptor (`fd/3`) only the system knows the address, so it is not
// recognised. The endpoint for remote administration is not in here: it takes
// nobody without a client certificate, and a callback has none.
type adminEndpoint struct {
	port uint16
	// addr is invalid where the configuration has a name, or nothing.
	addr netip.Addr
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
	endpoint := adminEndpoint{port: uint16(parsed.StartPort)}
	if addr, err := netip.ParseAddr(parsed.Host); err == nil {
		endpoint.addr = addr.Unmap().WithZone("")
	}
	return endpoint
}

// listensOn tells whether dialling an address can reach the endpoint.
func (e adminEndpoint) listensOn(addr netip.Addr, port uint16) bool {
	switch {
	case e.port == 0 || e.port != port:
		return false
	case addr == e.addr || addr.IsUnspecified(): // which connects to this machine
		return true
	case e.addr.IsLoopback():
		return addr.IsLoopback()
	case !e.addr.IsValid() || e.addr.IsUnspecified():
		return addr.IsLoopback() || ofThisMachine(addr)
	default:
		return false
	}
}

func ofThisMachine(addr netip.Addr) bool {
	// Without the list, no address is known to be another machine's.
	interfaces, err := net.InterfaceAddrs()
	if err != nil {
		return true
	}
	for _, each := range interfaces {
		prefix, err := netip.ParsePrefix(each.String())
		if err == nil && prefix.Addr().Unmap() == addr {
			return true
		}
	}
	return false
}

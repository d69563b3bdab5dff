package simulator

// Which addresses are dialled for callbacks, and how fast callbacks are sent to them.

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/caddyserver/caddy/v2"
)

// addressPolicy decides which addresses are dialled: loopback, and those that the
// configuration allows; but never Caddy's admin endpoint, where a callback could stop
// Caddy or load another configuration.
type addressPolicy struct {
	allowed []netip.Prefix
	admin   adminEndpoint // of the configuration that the policy belongs to
}

// errAddress is the error of dialling an address that must not be dialled. Trying
// again is of no use.
var errAddress = errors.New("address not allowed")

func (p addressPolicy) check(target netip.AddrPort) error {
	addr := target.Addr().Unmap().WithZone("")
	allows := func(prefix netip.Prefix) bool { return prefix.Contains(addr) }
	if !addr.IsLoopback() && !slices.ContainsFunc(p.allowed, allows) {
		return fmt.Errorf("%w: the simulator may not call %s, "+
			"which is neither loopback nor listed by `allow`", errAddress, addr)
	}
	// A callback may be sent after a reload, which may have moved the endpoint.
	for _, admin := range []adminEndpoint{p.admin, newAdminEndpoint(caddy.ActiveContext()),
		defaultAdminEndpoint()} {
		if admin.listensOn(addr, target.Port()) {
			return fmt.Errorf("%w: the simulator may not call %s, the address of Caddy's admin endpoint",
				errAddress, netip.AddrPortFrom(addr, target.Port()))
		}
	}
	return nil
}

// control checks the very address that is connected to, after names were resolved, so
// that no name gets around the policy.
func (p addressPolicy) control(_ context.Context, _, address string, _ syscall.RawConn) error {
	resolved, err := netip.ParseAddrPort(address)
	if err != nil {
		return fmt.Errorf("%w: %s is no address", errAddress, address)
	}
	return p.check(resolved)
}

func parseAllowed(values []string) ([]netip.Prefix, error) {
	var allowed []netip.Prefix
	for _, value := range values {
		prefix, err := parsePrefix(value)
		if err != nil {
			return nil, fmt.Errorf("allow: %w", err)
		}
		allowed = append(allowed, prefix)
	}
	return allowed, nil
}

// parsePrefix reads an IP address or a CIDR range.
func parsePrefix(value string) (netip.Prefix, error) {
	if strings.Contains(value, "/") {
		prefix, err := netip.ParsePrefix(value)
		if err != nil {
			return netip.Prefix{}, fmt.Errorf("%q is not a CIDR range", value)
		}
		return prefix.Masked(), nil
	}
	addr, err := netip.ParseAddr(value)
	if err != nil || addr.Zone() != "" {
		return netip.Prefix{}, fmt.Errorf("%q is not an IP address", value)
	}
	addr = addr.Unmap()
	return netip.PrefixFrom(addr, addr.BitLen()), nil
}

type dialFunc = func(ctx context.Context, network, address string) (net.Conn, error)

// dialer dials the addresses that the policy permits. If rate is not zero, its
// connections send no more than so many bytes per second.
func dialer(policy addressPolicy, timeout time.Duration, rate int64) dialFunc {
	d := &net.Dialer{Timeout: timeout, ControlContext: policy.control}
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := d.DialContext(ctx, network, address)
		if err != nil || rate <= 0 {
			return conn, err
		}
		return &slowConn{Conn: conn, rate: rate}, nil
	}
}

// slowConn sends no more than rate bytes per second.
type slowConn struct {
	net.Conn
	rate int64
}

// slowStep is how often a slow connection sends a piece. A write ends so soon after
// the connection was closed.
const slowStep = 50 * time.Millisecond

func (c *slowConn) Write(b []byte) (int, error) {
	piece := max(1, int(c.rate*int64(slowStep)/int64(time.Second)))
	written := 0
	for written < len(b) {
		end := min(written+piece, len(b))
		n, err := c.Conn.Write(b[written:end])
		written += n
		if err != nil {
			return written, err
		}
		time.Sleep(time.Duration(int64(n) * int64(time.Second) / c.rate))
	}
	return written, nil
}

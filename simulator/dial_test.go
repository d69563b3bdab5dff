package simulator

import (
	"context"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddyserver/caddy/v2"
)

func TestOnlyLoopbackAndAllowedAddressesAreDialled(t *testing.T) {
	allowed, err := parseAllowed([]string{"192.0.2.7", "2001:db8::/32", "::ffff:198.51.100.1"})
	require.NoError(t, err)
	policy := addressPolicy{allowed: allowed}
	for address, want := range map[string]bool{
		"127.0.0.1:80": true, "127.9.9.9:80": true, "[::1]:80": true, "[::ffff:127.0.0.1]:80": true,
		"192.0.2.7:80": true, "[::ffff:192.0.2.7]:80": true, "192.0.2.8:80": false,
		"[2001:db8:1::1]:80": true, "[2001:db9::1]:80": false, "198.51.100.1:1": true,
		"0.0.0.0:80": false, "[::]:80": false, "169.254.169.254:80": false, "[fe80::1%lo]:80": false,
		"10.0.0.1:80": false, "not an address": false,
	} {
		err := policy.control(context.Background(), "tcp", address, nil)
		if want {
			require.NoError(t, err, address)
		} else {
			require.ErrorIs(t, err, errAddress, address)
		}
	}
	for _, wrong := range []string{"localhost", "10.0.0.0/40", "fe80::1%lo", ""} {
		_, err := parseAllowed([]string{wrong})
		require.Error(t, err, wrong)
	}
}

// An address of this machine that is not loopback is refused between the resolver and the
// socket.
func TestDialerChecksTheResolvedAddress(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { _ = listener.Close() }()
	_, port, err := net.SplitHostPort(listener.Addr().String())
	require.NoError(t, err)

	conn, err := dialer(addressPolicy{}, patience, 0)(context.Background(), "tcp", "localhost:"+port)
	require.NoError(t, err)
	require.NoError(t, conn.Close())

	_, err = dialer(addressPolicy{}, patience, 0)(context.Background(), "tcp", "192.0.2.1:"+port)
	require.ErrorIs(t, err, errAddress)
}

func TestTheAdminEndpointIsNotDialledUnderAnyOfItsAddresses(t *testing.T) {
	allowed, err := parseAllowed([]string{"0.0.0.0/0", "::/0"})
	require.NoError(t, err)
	for listen, addresses := range map[string]map[string]bool{
		"localhost:3019": {
			"127.0.0.1:3019": false, "127.9.9.9:3019": false, "[::1]:3019": false,
			"[::ffff:127.0.0.1]:3019": false,
			"0.0.0.0:3019":            false, "[::]:3019": false, "127.0.0.1:3020": true,
			"192.0.2.1:3019": true,
		},
		"127.0.0.1:3019": {"[::1]:3019": false, "0.0.0.0:3019": false, "192.0.2.1:3019": true,
			"127.0.0.1:80": true},
		"[::1]:3019":          {"[::1]:3019": false, "127.0.0.1:3019": false, "192.0.2.1:3019": true},
		":3019":               {"127.0.0.1:3019": false, "192.0.2.1:3019": false, "192.0.2.1:80": true},
		"0.0.0.0:3019":        {"127.0.0.1:3019": false, "192.0.2.1:3019": false},
		"[::]:3019":           {"127.0.0.1:3019": false, "[2001:db8::1]:3019": false},
		"192.0.2.1:3019":      {"192.0.2.1:3019": false, "[::ffff:192.0.2.1]:3019": false},
		"unix//run/admin":     {"127.0.0.1:3019": true},
		"fd/3":                {"127.0.0.1:3019": true},
		"{env.NOT_SET}:3019":  {"127.0.0.1:3019": false},
		"a.name.example:3019": {"127.0.0.1:3019": false, "192.0.2.1:3019": false},
	} {
		policy := addressPolicy{allowed: allowed, admin: parseAdminEndpoint(listen)}
		addresses["127.0.0.1:2019"] = false // where another Caddy of this machine listens by default
		for address, want := range addresses {
			err := policy.control(t.Context(), "tcp", address, nil)
			if want {
				require.NoError(t, err, "admin %s, dialled %s", listen, address)
				continue
			}
			require.ErrorIs(t, err, errAddress, "admin %s, dialled %s", listen, address)
			require.ErrorContains(t, err, "admin endpoint")
		}
	}
}

// What newAdminEndpoint reads by reflection is still there in Caddy's configuration.
func TestTheAdminEndpointIsReadFromTheConfiguration(t *testing.T) {
	for name, test := range map[string]struct {
		admin *caddy.AdminConfig
		want  adminEndpoint
	}{
		"none":     {nil, defaultAdminEndpoint()},
		"empty":    {&caddy.AdminConfig{}, defaultAdminEndpoint()},
		"disabled": {&caddy.AdminConfig{Disabled: true, Listen: ":3019"}, adminEndpoint{}},
		"address":  {&caddy.AdminConfig{Listen: "127.0.0.1:3019"}, adminEndpoint{3019, true}},
		"name":     {&caddy.AdminConfig{Listen: "localhost:3019"}, adminEndpoint{3019, true}},
		"anywhere": {&caddy.AdminConfig{Listen: ":3019"}, adminEndpoint{3019, false}},
		"socket":   {&caddy.AdminConfig{Listen: "unix//run/admin"}, adminEndpoint{}},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, err := caddy.ProvisionContext(&caddy.Config{Admin: test.admin})
			require.NoError(t, err)
			require.Equal(t, test.want, newAdminEndpoint(ctx))
		})
	}
	require.EqualValues(t, 2019, defaultAdminEndpoint().port)
	require.Zero(t, newAdminEndpoint(caddy.Context{}))
}

func TestSlowConnectionKeepsToItsRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		defer func() { _ = near.Close() }()
		defer func() { _ = far.Close() }()
		go func() {
			buffer := make([]byte, 1<<10)
			for {
				if _, err := far.Read(buffer); err != nil {
					return
				}
			}
		}()
		for rate, want := range map[int64]time.Duration{
			1:    10 * time.Second,
			5:    2 * time.Second,
			1000: 10 * time.Millisecond,
		} {
			start := time.Now()
			n, err := (&slowConn{near, rate}).Write(make([]byte, 10))
			require.NoError(t, err)
			require.Equal(t, 10, n)
			require.InDelta(t, want, time.Since(start), float64(time.Millisecond))
		}
	})
}

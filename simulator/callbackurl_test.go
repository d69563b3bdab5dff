package simulator

import (
	"context"
	"net"
	"net/netip"
	"net/url"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

func TestCallbackURLsAreTakenAsTheVendorTakesThem(t *testing.T) {
	vendor := urlPolicy{ports: defaultPorts}
	for _, raw := range []string{
		"http://localhost/cb", "https://localhost", "http://127.0.0.1:8080/a?b=c", "https://[::1]:8443/", "http://localhost:80", "http://localhost:/",
		"https://example.com:443/x", // a name is checked when it is dialled
	} {
		_, err := vendor.parse(raw, batchSchemes)
		require.NoError(t, err, raw)
	}
	for _, raw := range []string{"ws://localhost/", "wss://localhost:8443/s", "http://localhost/"} {
		_, err := vendor.parse(raw, streamSchemes)
		require.NoError(t, err, raw)
	}
}

func TestCallbackURLsAreRefusedAsTheVendorRefusesThem(t *testing.T) {
	policies := map[string]urlPolicy{"vendor": {ports: defaultPorts}, "any": {anyPort: true}, "8444": {ports: []int{8444}}}
	for _, test := range []struct{ policy, raw, message string }{
		{"vendor", "ws://localhost/", "scheme must be one of http, https"},
		{"vendor", "ftp://localhost/", "scheme"},
		{"vendor", "http://localhost:3000/", "port 3000 is not allowed; use one of 80 443 8080 8443"},
		{"8444", "http://localhost/", "port 80 is not allowed"},
		{"8444", "https://localhost/", "port 443 is not allowed"},
		{"any", "http://localhost:0/", "0 is not a port"},
		{"any", "http://localhost:65536/", "65536 is not a port"},
		{"any", "http://192.0.2.1/", "may not call 192.0.2.1"},
		{"any", "http://[::ffff:192.0.2.1]/", "may not call"},
		{"any", "http://0.0.0.0/", "may not call"},
		{"any", "/relative", "not an absolute URL"},
		{"any", "http:opaque", "not an absolute URL"},
		{"any", "http:///no-host", "not an absolute URL"},
		{"any", "http://user:hunter2@local host/", "not an absolute URL"},
		{"any", "http://localhost:port/", "not an absolute URL"},
	} {
		_, err := policies[test.policy].parse(test.raw, batchSchemes)
		require.ErrorContains(t, err, test.message, test.raw)
		require.NotContains(t, err.Error(), "hunter2")
	}
}

func TestCredentialsLeaveTheCallbackURL(t *testing.T) {
	for raw, want := range map[string]string{
		"http://user:pass@localhost/x?y=z#frag": "Basic dXNlcjpwYXNz",
		"http://us%3Aer:p%40ss@localhost/x?y=z": "Basic dXM6ZXI6cEBzcw==",
		"http://user@localhost/x?y=z":           "Basic dXNlcjo=",
		"http://@localhost/x?y=z":               "",
		"http://localhost/x?y=z":                "",
	} {
		target, err := urlPolicy{anyPort: true}.parse(raw, batchSchemes)
		require.NoError(t, err)
		require.Equal(t, want, target.header("").Get("Authorization"), raw)
		require.Equal(t, "http://localhost/x?y=z", target.url.String())
	}
}

func TestCallbackMethodIsPostOrPut(t *testing.T) {
	for value, want := range map[string]string{"": "POST", "post": "POST", "PUT": "PUT", "put": "PUT"} {
		method, err := callbackMethod(url.Values{"callback_method": {value}})
		require.NoError(t, err)
		require.Equal(t, want, method)
	}
	_, err := callbackMethod(url.Values{"callback_method": {"delete"}})
	require.Error(t, err)
}

func TestOnlyLoopbackAndAllowedAddressesAreDialled(t *testing.T) {
	policy, err := parseAllowed([]string{"192.0.2.7", "2001:db8::/32", "::ffff:198.51.100.1"})
	require.NoError(t, err)
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

// The address of the machine itself, but not its loopback one, is refused on
// the way from the resolver to the socket.
func TestDialerChecksTheResolvedAddress(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { _ = listener.Close() }()
	_, port, err := net.SplitHostPort(listener.Addr().String())
	require.NoError(t, err)

	conn, err := dialer(nil, patience, 0)(context.Background(), "tcp", "localhost:"+port)
	require.NoError(t, err)
	require.NoError(t, conn.Close())

	_, err = dialer(nil, patience, 0)(context.Background(), "tcp", "192.0.2.1:"+port)
	require.ErrorIs(t, err, errAddress)
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
		for rate, want := range map[int64]time.Duration{1: 10 * time.Second, 5: 2 * time.Second, 1000: 10 * time.Millisecond} {
			start := time.Now()
			n, err := (&slowConn{near, rate}).Write(make([]byte, 10))
			require.NoError(t, err)
			require.Equal(t, 10, n)
			require.InDelta(t, want, time.Since(start), float64(time.Millisecond))
		}
	})
}

// No callback URL makes the policy panic, lets through what it must not, or
// keeps credentials in the URL.
func FuzzCallbackURL(f *testing.F) {
	f.Add("https://user:pass@localhost:8443/x?y#z")
	f.Add("ws://[::1]:80")
	f.Add("http://[fe80::1%25lo]/")
	f.Fuzz(func(t *testing.T, raw string) {
		target, err := urlPolicy{ports: defaultPorts}.parse(raw, streamSchemes)
		if err != nil {
			return
		}
		require.Contains(t, streamSchemes, target.url.Scheme)
		require.Nil(t, target.url.User)
		require.NotEmpty(t, target.url.Hostname())
		if addr, err := netip.ParseAddr(target.url.Hostname()); err == nil {
			require.True(t, addr.Unmap().IsLoopback() || addr.Zone() != "")
		}
	})
}

package simulator

import (
	"net/netip"
	"net/url"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestCallbackURLsAreTakenAsTheVendorTakesThem(t *testing.T) {
	vendor := urlPolicy{ports: defaultPorts}
	for _, raw := range []string{
		"http://localhost/cb", "https://localhost", "http://127.0.0.1:8080/a?b=c",
		"https://[::1]:8443/", "http://localhost:80", "http://localhost:/",
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
	policies := map[string]urlPolicy{
		"vendor": {ports: defaultPorts},
		"any":    {anyPort: true},
		"8444":   {ports: []int{8444}},
	}
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
	for value, want := range map[string]string{
		"":     "POST",
		"post": "POST",
		"PUT":  "PUT",
		"put":  "PUT",
	} {
		method, err := callbackMethod(url.Values{"callback_method": {value}})
		require.NoError(t, err)
		require.Equal(t, want, method)
	}
	_, err := callbackMethod(url.Values{"callback_method": {"delete"}})
	require.Error(t, err)
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

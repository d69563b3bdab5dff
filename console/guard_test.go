package console

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/stretchr/testify/require"

	"github.com/caddy-deepgram/deepgram-callback/internal/sender"
)

func over(local, host string) *http.Request {
	r := httptest.NewRequest("GET", "/", nil)
	r.Host = host
	ctx := context.WithValue(r.Context(), caddyhttp.VarsCtxKey, make(map[string]any))
	return r.WithContext(context.WithValue(ctx, http.LocalAddrContextKey,
		&net.TCPAddr{IP: net.ParseIP(local), Port: 9090}))
}

// A page of another site can have its own name point to loopback.
func TestNamesThatAnybodyCanHaveAreRefusedOnLoopback(t *testing.T) {
	for _, host := range []string{
		"127.0.0.1", "127.0.0.1:9090", "[::1]:9090", "[::1]", "localhost", "LOCALHOST:9090",
		"console.localhost:9090",
	} {
		require.NoError(t, checkHost(over("127.0.0.1", host)), host)
		require.NoError(t, checkHost(over("::1", host)), host)
	}
	for _, host := range []string{
		"evil.example", "evil.example:9090", "localhost.evil.example", "127.0.0.1.evil.example:9090", "",
		"notlocalhost", "localhost.",
	} {
		require.ErrorContains(t, checkHost(over("127.0.0.1", host)), "anonymous", host)
		require.Error(t, checkHost(over("::1", host)), host)
		require.NoError(t, checkHost(over("192.0.2.1", host)), "the site's address has the host")
		encrypted := over("127.0.0.1", host)
		encrypted.TLS = new(tls.ConnectionState)
		require.NoError(t, checkHost(encrypted), "there is no certificate for it")
		proxied := over("127.0.0.1", host)
		sender.Set(proxied.Context(), "192.0.2.7", true)
		require.NoError(t, checkHost(proxied), "a trusted proxy is in front")
	}
}

func TestEveryPageIsEmbeddedWithAType(t *testing.T) {
	total := 0
	for path, page := range pages {
		require.NotEmpty(t, page.contentType, path)
		require.NotEmpty(t, page.content, path)
		if path != "/" {
			total += len(page.content)
		}
	}
	require.Greater(t, len(pages), 10)
	require.Less(t, total, 150_000)
}

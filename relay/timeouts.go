// read_timeout and write_timeout of a transport, beside other deadlines.

package relay

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/caddy-deepgram/deepgram-callback/relay/deadline"
)

// takeOverTimeouts makes the connections of a provisioned transport keep read_timeout and
// write_timeout by package deadline. Caddy's own connections would replace any deadline that was
// set before.
func takeOverTimeouts(settings *reverseproxy.HTTPTransport) {
	read, write := time.Duration(settings.ReadTimeout), time.Duration(settings.WriteTimeout)
	if read <= 0 && write <= 0 {
		return
	}
	settings.ReadTimeout, settings.WriteTimeout = 0, 0 // Caddy's dialler reads them each time
	transport := settings.Transport
	dial := transport.DialContext
	transport.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := dial(ctx, network, address)
		if err != nil {
			return nil, err
		}
		return deadline.New(conn, read, write), nil
	}
	if transport.DialTLSContext != nil {
		transport.DialTLSContext = dialTLS(transport)
	}
}

// dialTLS replaces the dialler that Caddy makes where net/http's own does not do, which is for a
// server name with placeholders and for the PROXY protocol: Caddy's uses a dialler without the
// limits.
func dialTLS(
	transport *http.Transport,
) func(ctx context.Context, network, address string) (net.Conn, error) {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := transport.DialContext(ctx, network, address)
		if err != nil {
			return nil, err
		}
		config := new(tls.Config)
		if transport.TLSClientConfig != nil {
			config = transport.TLSClientConfig.Clone()
		}
		if strings.Contains(config.ServerName, "{") {
			if repl, ok := ctx.Value(caddy.ReplacerCtxKey).(*caddy.Replacer); ok {
				config.ServerName = repl.ReplaceAll(config.ServerName, "")
			}
		}
		if info, ok := reverseproxy.GetDialInfo(ctx); ok && config.ServerName == "" {
			config.ServerName = info.Host
		}
		if g := passageOf(ctx); g != nil && g.dial != nil {
			config.NextProtos = nil // WebSockets open by HTTP/1.1
		}
		if limit := transport.TLSHandshakeTimeout; limit > 0 {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeoutCause(ctx, limit,
				fmt.Errorf("no TLS handshake within %s", limit))
			defer cancel()
		}
		secure := tls.Client(conn, config)
		if err := secure.HandshakeContext(ctx); err != nil {
			_ = secure.Close()
			return nil, err
		}
		return secure, nil
	}
}

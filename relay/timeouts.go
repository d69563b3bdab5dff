package relay

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/caddy-deepgram/deepgram-callback/relay/deadline"
)

// takeOverTimeouts makes the connections of a provisioned transport keep its
// read_timeout and write_timeout beside other deadlines, as package deadline
// does, instead of replacing these by Caddy's own way of keeping them.
func takeOverTimeouts(settings *reverseproxy.HTTPTransport) {
	read, write := time.Duration(settings.ReadTimeout), time.Duration(settings.WriteTimeout)
	if read <= 0 && write <= 0 {
		return
	}
	// Caddy's dialler looks at them for each connection
	settings.ReadTimeout, settings.WriteTimeout = 0, 0
	dial := settings.Transport.DialContext
	settings.Transport.DialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := dial(ctx, network, address)
		if err != nil {
			return nil, err
		}
		return deadline.New(conn, read, write), nil
	}
	if settings.Transport.DialTLSContext != nil {
		settings.Transport.DialTLSContext = dialTLS(settings)
	}
}

// dialTLS stands in for the dialler that Caddy makes where net/http's own does
// not do: for a server name with placeholders, and behind a PROXY protocol
// header. Caddy's is bound to a dialler without the limits.
func dialTLS(
	settings *reverseproxy.HTTPTransport,
) func(ctx context.Context, network, address string) (net.Conn, error) {
	transport := settings.Transport
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
			config.NextProtos = nil // a WebSocket's handshake is one of HTTP/1.1
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

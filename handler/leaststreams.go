// The selection policy least_streams.

package handler

import (
	"context"
	"net/http"
	"slices"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/caddy-deepgram/deepgram-callback/app"
)

// LeastStreams is a policy that selects the available upstream with the fewest
// live streams through this Caddy, of all its deepgram_callback handlers; of
// several with as few, one at random. Streams are counted over reloads, and one
// that is being opened counts already.
//
// The policies of reverse_proxy cannot do that: for them, a stream is over when
// its handshake is.
type LeastStreams struct {
	app *app.App
}

// CaddyModule returns the Caddy module information.
func (*LeastStreams) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.reverse_proxy.selection_policies.least_streams",
		New: func() caddy.Module { return new(LeastStreams) },
	}
}

// Provision implements [caddy.Provisioner].
func (l *LeastStreams) Provision(ctx caddy.Context) (err error) {
	l.app, err = app.Of(ctx)
	return err
}

// UnmarshalCaddyfile sets up the policy from Caddyfile tokens: it has no
// arguments.
func (*LeastStreams) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // the policy's name
	if d.NextArg() {
		return d.ArgErr()
	}
	return nil
}

// Select implements [reverseproxy.Selector].
func (l *LeastStreams) Select(
	pool reverseproxy.UpstreamPool, r *http.Request, _ http.ResponseWriter,
) *reverseproxy.Upstream {
	of, _ := r.Context().Value(choiceKey{}).(*choice)
	of.release() // the upstream that was chosen before has failed

	// An upstream that fails has few streams, so the others come first.
	candidates, addresses := available(pool, r, of.tries())
	if len(candidates) == 0 {
		candidates, addresses = available(pool, r, nil)
	}
	if len(candidates) == 0 {
		return nil
	}
	chosen, release := l.app.Process().Streams.Pick(addresses)
	of.make(addresses[chosen], release)
	return candidates[chosen]
}

// available returns the upstreams that can be selected, and their addresses,
// without those at the excepted addresses.
func available(
	pool reverseproxy.UpstreamPool, r *http.Request, except []string,
) (candidates []*reverseproxy.Upstream, addresses []string) {
	for _, upstream := range pool {
		if !upstream.Available() {
			continue
		}
		if address := dialAddress(upstream, r); !slices.Contains(except, address) {
			candidates, addresses = append(candidates, upstream), append(addresses, address)
		}
	}
	return candidates, addresses
}

// dialAddress is the address that reverse_proxy dials for an upstream, by which
// streams are counted.
func dialAddress(upstream *reverseproxy.Upstream, r *http.Request) string {
	dial := upstream.Dial
	if repl, ok := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer); ok {
		dial = repl.ReplaceAll(dial, "")
	}
	address, err := caddy.ParseNetworkAddress(dial)
	if err != nil {
		return dial // which reverse_proxy refuses to dial
	}
	return address.JoinHostPort(0)
}

type choiceKey struct{}

// choice is what LeastStreams has chosen for one handshake. The handshake counts as a stream to
// that upstream until it has become a stream, or has failed. A nil choice, which every request has
// that is no handshake, counts nothing.
type choice struct {
	tried []string // the addresses that were chosen so far
	free  func()   // ends the counting of the latest one
}

// withChoice gives a handshake a choice, to be released when the stream is counted
// itself, or has failed.
func withChoice(r *http.Request) (*http.Request, *choice) {
	c := new(choice)
	return r.WithContext(context.WithValue(r.Context(), choiceKey{}, c)), c
}

func (c *choice) make(address string, free func()) {
	if c == nil {
		free()
		return
	}
	c.tried, c.free = append(c.tried, address), free
}

func (c *choice) tries() []string {
	if c == nil {
		return nil
	}
	return c.tried
}

func (c *choice) release() {
	if c != nil && c.free != nil {
		c.free()
		c.free = nil
	}
}

// Interface guards
var (
	_ caddy.Provisioner     = (*LeastStreams)(nil)
	_ reverseproxy.Selector = (*LeastStreams)(nil)
	_ caddyfile.Unmarshaler = (*LeastStreams)(nil)
)

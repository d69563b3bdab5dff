// relay and stream.

package caddyfile

import (
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/caddy-deepgram/deepgram-callback/handler"
)

func (p *parser) relay() error {
	name := p.Token()
	upstreams := p.RemainingArgsAsTokens()
	if len(upstreams) > 0 && len(p.upstreams) > 0 {
		return p.Errf("relay: there are upstreams here and behind %s; put all of them in one place",
			Directive)
	}
	start := name // errors with the upstreams name its line
	if len(upstreams) == 0 {
		start, upstreams = p.name, p.upstreams
	}
	relay, err := p.proxy(start, upstreams, p.blockTokens())
	if err != nil {
		return err
	}
	if !hasUpstreams(relay) {
		return p.noUpstreams(name)
	}
	p.config.Relay = relay
	return nil
}

func hasUpstreams(proxy *reverseproxy.Handler) bool {
	return len(proxy.Upstreams) > 0 || proxy.DynamicUpstreamsRaw != nil
}

func (p *parser) noUpstreams(at caddyfile.Token) error {
	return p.errAt(at, "no upstreams: name the service behind this gateway, as in `%s 127.0.0.1:9000`",
		Directive)
}

func (p *parser) stream() (err error) {
	config := &handler.Stream{}
	p.config.Stream = config
	name := p.Token()
	upstreams := p.RemainingArgsAsTokens()
	if len(upstreams) > 0 && upstreams[0].Text == "off" {
		if len(upstreams) > 1 {
			return p.Errf("stream: off, but with upstreams; it is one or the other")
		}
		config.Off = true
		return p.noBlock("stream off")
	}

	var proxyBlock []caddyfile.Token
	err = p.block("stream", p.streamOptions(config, &proxyBlock))
	if err != nil {
		return err
	}
	if len(upstreams) > 0 || len(proxyBlock) > 0 {
		config.Proxy, err = p.proxy(name, upstreams, proxyBlock)
	}
	return err
}

// streamOptions are the parsers of the options of stream, by name. The tokens of
// proxy's block are left in proxyBlock.
func (p *parser) streamOptions(
	config *handler.Stream, proxyBlock *[]caddyfile.Token,
) map[string]func() error {
	return map[string]func() error{
		"max_message":   func() (err error) { config.MaxMessage, err = p.size(); return err },
		"max_streams":   func() (err error) { config.MaxStreams, err = p.count(); return err },
		"ping_interval": func() (err error) { config.PingInterval, err = p.duration(); return err },
		"pong_timeout":  func() (err error) { config.PongTimeout, err = p.duration(); return err },
		"write_timeout": func() (err error) { config.WriteTimeout, err = p.duration(); return err },
		"close_timeout": func() (err error) { config.CloseTimeout, err = p.duration(); return err },
		"drain":         func() (err error) { config.Drain, err = p.duration(); return err },
		"allow_binary":  func() error { config.AllowBinary = true; return p.flag() },
		"spool":         func() error { config.Spool = true; return p.flag() },
		"proxy": func() error {
			if args := p.RemainingArgs(); len(args) > 0 {
				return p.Errf("proxy takes only a block; the upstreams stand behind stream")
			}
			name := p.Token()
			*proxyBlock = p.blockTokens()
			if len(*proxyBlock) == 0 {
				return p.errAt(name, "proxy needs a block with subdirectives of reverse_proxy")
			}
			return nil
		},
	}
}

// blockTokens takes the block that follows, if there is one, with its braces.
func (p *parser) blockTokens() []caddyfile.Token {
	// NextSegment returns the current token and everything that belongs to it.
	return p.NextSegment()[1:]
}

// proxy reads upstreams and a block by reverse_proxy's own parser, as if they stood
// together in a Caddyfile, in the line of name. The tokens in the block keep their
// lines, which errors name.
func (p *parser) proxy(
	name caddyfile.Token, upstreams, block []caddyfile.Token,
) (*reverseproxy.Handler, error) {
	tokens := []caddyfile.Token{name}
	sameLine := func(t caddyfile.Token) caddyfile.Token {
		t.File, t.Line = name.File, name.Line
		return t
	}
	for _, upstream := range upstreams {
		tokens = append(tokens, sameLine(upstream))
	}
	if len(block) > 0 {
		tokens = append(tokens, sameLine(block[0]))
		tokens = append(tokens, block[1:]...)
	}
	proxy := new(reverseproxy.Handler)
	d := caddyfile.NewDispenser(tokens)
	if err := proxy.UnmarshalCaddyfile(d); err != nil {
		return nil, err
	}
	if err := proxy.FinalizeUnmarshalCaddyfile(p.WithDispenser(d)); err != nil {
		return nil, err
	}
	return proxy, nil
}

// Package caddyfile is the grammar of the directives deepgram_callback and
// deepgram_console: it turns Caddyfile tokens into their handlers' configuration.
//
//	caddyfile.go  the directive deepgram_callback: read this first
//	console.go    the directive deepgram_console
//	auth.go       the options for who may call
//	proxy.go      relay and stream
//	spool.go      spool: the inbox
//	values.go     ports, methods, sizes, numbers and durations
package caddyfile

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-deepgram/deepgram-callback/auth"
	"github.com/caddy-deepgram/deepgram-callback/handler"
)

// Directive is the name under which Parse is registered.
const Directive = "deepgram_callback"

// Parse sets up the handler from Caddyfile tokens:
//
//	deepgram_callback [<matcher>] [<upstreams...>] {
//		basic_auth [<hash_algorithm> [<realm>]] {
//			<username> <hashed_password>
//		}
//		basic_auth plain [<realm>] {
//			<username> <password>
//		}
//		dg_token <api_key_id...> {
//			if_present
//		}
//		callback_secret <secret...>
//		query_secret <parameter> <secret...>
//		require all|any
//		anonymous
//		guess_limit <n> <window>
//
//		ports <port...>
//		methods <method...>
//		max_body <size>
//
//		relay [<upstreams...>] {
//			<any subdirective of reverse_proxy>
//		}
//		stream [<upstreams...>] {
//			max_message <size>
//			max_streams <n>
//			ping_interval <duration>
//			pong_timeout <duration>
//			write_timeout <duration>
//			close_timeout <duration>
//			drain <duration>
//			allow_binary
//			spool
//			proxy {
//				<any subdirective of reverse_proxy>
//			}
//		}
//		stream off
//		spool {
//			path <dir>
//			store <engine> [<arguments...>] {
//				<options of the engine>
//			}
//			route <name>
//			retry_delays <d...>
//			retry_for <duration>
//			concurrency <n>
//			max_size <size>
//			dedupe_window <duration> | off
//			order_by request_id | uri | none
//			keep <duration>
//			rate <n>/s | <n>/m
//			encrypt <key...>
//			dead_letter_keep <duration>
//			sign <whsec_secret...>
//		}
//	}
func Parse(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
	p := newParser(h)
	if err := p.directive(); err != nil {
		return nil, err
	}
	return p.config, nil
}

// Options are the names of all options, by the block that they stand in: those of the
// directive under "", those of stream under "stream", and so on; and those of the console
// under its directive's name.
func Options() map[string][]string {
	p := newParser(httpcaddyfile.Helper{})
	names := func(parsers map[string]func() error) []string {
		return slices.Sorted(maps.Keys(parsers))
	}
	return map[string][]string{
		"":         names(p.subdirectives()),
		"dg_token": {ifPresent},
		"stream":   names(p.streamOptions(nil, nil)),
		"spool":    names(p.spoolOptions(nil)),

		ConsoleDirective: names(p.consoleOptions(nil)),
	}
}

// parser reads one directive.
type parser struct {
	httpcaddyfile.Helper
	config    *handler.Handler
	policy    *auth.Policy                   // who may call
	options   func() map[string]func() error // the parsers of the directive's own options, by name
	seen      map[string]bool
	name      caddyfile.Token
	upstreams []caddyfile.Token
}

func newParser(h httpcaddyfile.Helper) *parser {
	p := &parser{Helper: h, config: new(handler.Handler), seen: make(map[string]bool)}
	p.policy, p.options = &p.config.Policy, p.subdirectives
	return p
}

func (p *parser) directive() error {
	p.Next() // the directive's name
	p.name = p.Token()
	p.upstreams = p.RemainingArgsAsTokens()

	for p.NextBlock(0) {
		if err := p.subdirective(); err != nil {
			return err
		}
	}

	// Errors that concern the directive as a whole name the line of its name.
	p.Reset()
	p.Next()
	if p.config.Relay == nil && len(p.upstreams) > 0 {
		relay, err := p.proxy(p.name, p.upstreams, nil)
		if err != nil {
			return err
		}
		p.config.Relay = relay
	}
	if p.config.Relay == nil &&
		(p.config.Stream == nil || p.config.Stream.Proxy == nil || !hasUpstreams(p.config.Stream.Proxy)) {
		return p.noUpstreams(p.name)
	}
	if p.config.Spool != nil && p.config.Relay == nil {
		return p.Errf("spool: there are no upstreams for batch callbacks, which alone go through it")
	}
	if err := p.config.Policy.Check(); err != nil {
		return p.WrapErr(err)
	}
	return nil
}

// subdirective reads one subdirective, with the block that belongs to it.
func (p *parser) subdirective() error {
	name := p.Val()
	if name == "basic_auth" && p.plainFollows() {
		name = "basic_auth plain"
	}
	parse, ok := p.options()[name]
	if !ok {
		return p.Errf("unrecognized subdirective %s", name)
	}
	if p.seen[name] {
		return p.Errf("%s stands here a second time; put all of it in one place", name)
	}
	p.seen[name] = true
	return parse()
}

// subdirectives are the options of deepgram_callback.
func (p *parser) subdirectives() map[string]func() error {
	return map[string]func() error{
		"basic_auth":       p.basicAuth,
		"basic_auth plain": p.basicAuthPlain,
		"dg_token":         p.dgToken,
		"callback_secret":  p.callbackSecret,
		"query_secret":     p.querySecret,
		"require":          p.require,
		"anonymous":        p.anonymous,
		"guess_limit":      p.guessLimit,
		"ports":            p.ports,
		"methods":          p.methods,
		"max_body":         p.maxBody,
		"relay":            p.relay,
		"stream":           p.stream,
		"spool":            p.spool,
	}
}

// errAt is Errf for an earlier token.
func (p *parser) errAt(token caddyfile.Token, format string, args ...any) error {
	d := caddyfile.NewDispenser([]caddyfile.Token{token})
	d.Next()
	return d.Errf(format, args...)
}

// noBlock refuses a block behind a subdirective that takes none.
func (p *parser) noBlock(name string) error {
	last := p.Token()
	if p.NextBlock(p.Nesting()) {
		return p.errAt(last, "%s takes no block", name)
	}
	return nil
}

// atLeastOne returns the arguments of the current subdirective, which has to have at
// least one.
func (p *parser) atLeastOne(what string) ([]string, error) {
	name := p.Val()
	args := p.RemainingArgs()
	if len(args) == 0 {
		return nil, p.Errf("%s needs %s", name, what)
	}
	for _, arg := range args {
		if strings.TrimSpace(arg) == "" {
			return nil, p.Errf("%s: an empty value", name)
		}
	}
	return args, p.noBlock(name)
}

// exactlyOne returns the one argument of the current subdirective.
func (p *parser) exactlyOne(what string) (string, error) {
	name := p.Val()
	args := p.RemainingArgs()
	if len(args) != 1 {
		return "", p.Errf("%s needs %s, and nothing else", name, what)
	}
	return args[0], p.noBlock(name)
}

// flag reads a subdirective that takes neither arguments nor a block.
func (p *parser) flag() error {
	name := p.Val()
	if args := p.RemainingArgs(); len(args) > 0 {
		return p.Errf("%s takes no arguments", name)
	}
	return p.noBlock(name)
}

// block reads a block of options, each at most once.
func (p *parser) block(of string, options map[string]func() error) error {
	seen := make(map[string]bool)
	for nesting := p.Nesting(); p.NextBlock(nesting); {
		name := p.Val()
		parse, ok := options[name]
		if !ok {
			return p.Errf("%s: unrecognized subdirective %s", of, name)
		}
		if seen[name] {
			return p.Errf("%s: %s stands here a second time", of, name)
		}
		seen[name] = true
		if err := parse(); err != nil {
			return fmt.Errorf("%s: %w", of, err)
		}
	}
	return nil
}

package caddyfile

import (
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-deepgram/deepgram-callback/console"
)

// ConsoleDirective is the name under which ParseConsole is registered.
const ConsoleDirective = "deepgram_console"

// ParseConsole sets up the console from Caddyfile tokens:
//
//	deepgram_console [<matcher>] {
//		basic_auth [<hash_algorithm> [<realm>]] {
//			<username> <hashed_password>
//		}
//		basic_auth plain [<realm>] {
//			<username> <password>
//		}
//		anonymous
//		read_only
//	}
func ParseConsole(h httpcaddyfile.Helper) (caddyhttp.MiddlewareHandler, error) {
	p, config := newParser(h), new(console.Console)
	p.options = func() map[string]func() error { return p.consoleOptions(config) }
	p.Next() // the directive's name
	if p.NextArg() {
		return nil, p.Errf("%s takes no arguments but a matcher", ConsoleDirective)
	}
	for p.NextBlock(0) {
		if err := p.subdirective(); err != nil {
			return nil, err
		}
	}
	// An error that concerns the directive as a whole names the line of its name.
	p.Reset()
	p.Next()
	config.BasicAuth, config.BasicAuthPlain = p.policy.BasicAuth, p.policy.BasicAuthPlain
	config.Anonymous = p.policy.Anonymous
	if err := config.Check(); err != nil {
		return nil, p.WrapErr(err)
	}
	return config, nil
}

func (p *parser) consoleOptions(config *console.Console) map[string]func() error {
	return map[string]func() error{
		"basic_auth":       p.basicAuth,
		"basic_auth plain": p.basicAuthPlain,
		"anonymous":        p.anonymous,
		"read_only": func() error {
			config.ReadOnly = true
			return p.flag()
		},
	}
}

package caddyfile

import (
	"errors"
	"strings"

	"github.com/caddy-deepgram/deepgram-callback/handler"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
)

func (p *parser) spool() error {
	if args := p.RemainingArgs(); len(args) > 0 {
		return p.Errf("spool takes no arguments; its directory is named by path in its block")
	}
	config := &handler.Spool{}
	p.config.Spool = config
	return p.block("spool", p.spoolOptions(config))
}

// spoolOptions are the parsers of the options of spool, by name.
func (p *parser) spoolOptions(config *handler.Spool) map[string]func() error {
	return map[string]func() error{
		"path":             func() (err error) { config.Path, err = p.text("a directory"); return err },
		"route":            func() (err error) { config.Route, err = p.text("a name"); return err },
		"retry_delays":     p.retryDelays,
		"retry_for":        func() (err error) { config.RetryFor, err = p.duration(); return err },
		"concurrency":      func() (err error) { config.Concurrency, err = p.count(); return err },
		"max_size":         func() (err error) { config.MaxSize, err = p.size(); return err },
		"dedupe_window":    p.dedupeWindow,
		"order_by":         p.orderBy,
		"dead_letter_keep": func() (err error) { config.DeadLetterKeep, err = p.duration(); return err },
		"sign":             p.sign,
	}
}

// text reads the one argument of the current subdirective, which is not to be
// empty: that would mean the default.
func (p *parser) text(what string) (string, error) {
	name := p.Val()
	arg, err := p.exactlyOne(what)
	if err == nil && strings.TrimSpace(arg) == "" {
		err = p.Errf("%s: an empty value", name)
	}
	return arg, err
}

func (p *parser) retryDelays() error {
	args, err := p.atLeastOne("one duration or more, such as 1s 30s 10m")
	if err != nil {
		return err
	}
	for _, arg := range args {
		delay, err := p.parseDuration("retry_delays", arg)
		if err != nil {
			return err
		}
		p.config.Spool.RetryDelays = append(p.config.Spool.RetryDelays, delay)
	}
	return nil
}

// dedupeWindow reads a duration, or `off`.
func (p *parser) dedupeWindow() (err error) {
	arg, err := p.exactlyOne("a duration such as 24h, or off")
	if err != nil {
		return err
	}
	if arg == "off" {
		p.config.Spool.DedupeWindow = handler.DedupeOff
		return nil
	}
	p.config.Spool.DedupeWindow, err = p.parseDuration("dedupe_window", arg)
	return err
}

func (p *parser) orderBy() error {
	arg, err := p.exactlyOne("request_id, uri or none")
	if err != nil {
		return err
	}
	order := spool.OrderBy(arg)
	if err := order.Check(); err != nil || arg == "" {
		return p.Errf("order_by: it is request_id, uri or none, not %q", arg)
	}
	p.config.Spool.OrderBy = order
	return nil
}

func (p *parser) sign() (err error) {
	secrets, err := p.atLeastOne("a secret that begins with whsec_, or several")
	if err != nil {
		return err
	}
	p.config.Spool.Sign = secrets
	for i, secret := range secrets {
		if strings.Contains(secret, "{") {
			continue // what a placeholder stands for is not known before the configuration is loaded
		}
		if _, err := spool.NewSigner(secret); err != nil {
			return p.Errf("sign: secret %d of %d: %w", i+1, len(secrets), errors.Unwrap(err))
		}
	}
	return nil
}

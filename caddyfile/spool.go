// spool: the inbox.

package caddyfile

import (
	"errors"
	"fmt"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddy-deepgram/deepgram-callback/handler"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/identity"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/seal"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/webhook"
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
		"path":             p.path,
		"store":            p.store,
		"route":            func() (err error) { config.Route, err = p.text("a name"); return err },
		"retry_delays":     p.retryDelays,
		"retry_for":        func() (err error) { config.RetryFor, err = p.duration(); return err },
		"concurrency":      func() (err error) { config.Concurrency, err = p.count(); return err },
		"max_size":         func() (err error) { config.MaxSize, err = p.size(); return err },
		"dedupe_window":    p.dedupeWindow,
		"order_by":         p.orderBy,
		"keep":             func() (err error) { config.Keep, err = p.duration(); return err },
		"rate":             p.rate,
		"encrypt":          p.encrypt,
		"dead_letter_keep": func() (err error) { config.DeadLetterKeep, err = p.duration(); return err },
		"sign":             p.sign,
	}
}

// storeNamespace is where the modules of stores are registered.
const storeNamespace = "deepgram_callback.stores"

// store reads the name of an engine. The module of the engine reads what follows.
func (p *parser) store() error {
	if !p.NextArg() {
		return p.Errf("store needs the name of an engine: %s", engines())
	}
	engine := p.Val()
	if _, err := caddy.GetModule(storeNamespace + "." + engine); err != nil {
		return p.Errf("store: there is no engine %q in this build, but %s", engine, engines())
	}
	module, err := caddyfile.UnmarshalModule(p.Dispenser, storeNamespace+"."+engine)
	if err != nil {
		return fmt.Errorf("store %s: %w", engine, err)
	}
	if p.config.Spool.Path != "" {
		return p.Err("store: there is a path already, which is the short form of `store disk`")
	}
	p.config.Spool.StoreRaw = caddyconfig.JSONModuleObject(module, "engine", engine, nil)
	return nil
}

// engines are the names of all stores that are built in.
func engines() string {
	var names []string
	for _, module := range caddy.GetModules(storeNamespace) {
		names = append(names, module.ID.Name())
	}
	return strings.Join(names, ", ")
}

// path reads the short form of `store disk`.
func (p *parser) path() (err error) {
	if p.config.Spool.StoreRaw != nil {
		return p.Err("path: there is a store already, of which this is the short form")
	}
	p.config.Spool.Path, err = p.text("a directory")
	return err
}

// text reads the one argument of the current subdirective. It must not be empty,
// which would stand for the default.
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
	order := identity.OrderBy(arg)
	if err := order.Check(); err != nil || arg == "" {
		return p.Errf("order_by: it is request_id, uri or none, not %q", arg)
	}
	p.config.Spool.OrderBy = order
	return nil
}

func (p *parser) rate() (err error) {
	arg, err := p.exactlyOne("a number of deliveries in a second or a minute, such as 10/s")
	if err != nil {
		return err
	}
	if _, err := handler.ParseRate(arg); err != nil || arg == "" {
		return p.Errf("rate: %q is not a number of deliveries in a second or a minute, such as 10/s or 300/m", arg)
	}
	p.config.Spool.Rate = arg
	return nil
}

func (p *parser) encrypt() (err error) {
	keys, err := p.atLeastOne("a key of 32 bytes in base64, or several")
	if err != nil {
		return err
	}
	p.config.Spool.Encrypt = keys
	for i, key := range keys {
		if strings.Contains(key, "{") {
			continue // what a placeholder stands for is not known before the configuration is loaded
		}
		if _, err := seal.NewKeys(key); err != nil {
			return p.Errf("encrypt: key %d of %d: %w", i+1, len(keys), errors.Unwrap(err))
		}
	}
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
			continue // the value of a placeholder is not known before the configuration is loaded
		}
		if _, err := webhook.NewSigner(secret); err != nil {
			return p.Errf("sign: secret %d of %d: %w", i+1, len(secrets), errors.Unwrap(err))
		}
	}
	return nil
}

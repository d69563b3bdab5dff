// What a port, a method, a size, a number or a duration may be.

package caddyfile

import (
	"slices"
	"strconv"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/dustin/go-humanize"

	"github.com/caddy-deepgram/deepgram-callback/handler"
)

func (p *parser) ports() error {
	args, err := p.atLeastOne("one port or more, such as 443")
	if err != nil {
		return err
	}
	for _, arg := range args {
		port, err := strconv.Atoi(arg)
		if err != nil || port < 1 || port > 65535 {
			return p.Errf("ports: %q is no port; it has to be a number from 1 to 65535", arg)
		}
		if slices.Contains(p.config.Ports, port) {
			return p.Errf("ports: %d stands there twice", port)
		}
		p.config.Ports = append(p.config.Ports, port)
	}
	return nil
}

func (p *parser) methods() error {
	args, err := p.atLeastOne("one method or more, such as POST")
	if err != nil {
		return err
	}
	for _, arg := range args {
		method := strings.ToUpper(arg)
		if err := handler.CheckMethod(method); err != nil {
			return p.Errf("methods: %w", err)
		}
		if slices.Contains(p.config.Methods, method) {
			return p.Errf("methods: %s stands there twice", method)
		}
		p.config.Methods = append(p.config.Methods, method)
	}
	return nil
}

func (p *parser) maxBody() error {
	size, err := p.size()
	p.config.MaxBody = size
	return err
}

// size reads the one argument of the current subdirective as a size in bytes.
func (p *parser) size() (int64, error) {
	name := p.Val()
	arg, err := p.exactlyOne("a size, such as 64MiB")
	if err != nil {
		return 0, err
	}
	size, err := humanize.ParseBytes(arg)
	if err != nil || size == 0 {
		return 0, p.Errf("%s: %q is no size; it has to be more than zero, such as 64MiB", name, arg)
	}
	if size > handler.MaxSize {
		return 0, p.Errf("%s: %q is over 1EiB", name, arg)
	}
	return int64(size), nil
}

// count reads the one argument of the current subdirective as a number from 1.
func (p *parser) count() (int, error) {
	name := p.Val()
	arg, err := p.exactlyOne("a number")
	if err != nil {
		return 0, err
	}
	n, err := strconv.Atoi(arg)
	if err != nil || n < 1 {
		return 0, p.Errf("%s: %q is no number from 1 up", name, arg)
	}
	return n, nil
}

// duration reads the one argument of the current subdirective as a duration.
func (p *parser) duration() (caddy.Duration, error) {
	name := p.Val()
	arg, err := p.exactlyOne("a duration, such as 10s")
	if err != nil {
		return 0, err
	}
	return p.parseDuration(name, arg)
}

func (p *parser) parseDuration(name, arg string) (caddy.Duration, error) {
	d, err := caddy.ParseDuration(arg)
	if err != nil || d <= 0 {
		return 0, p.Errf("%s: %q is no duration; it has to be more than zero, such as 10s", name, arg)
	}
	if d > handler.MaxDuration {
		return 0, p.Errf("%s: %q is over 100 years", name, arg)
	}
	return caddy.Duration(d), nil
}

// The options for who may call.

package caddyfile

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/caddyauth"

	"github.com/caddy-deepgram/deepgram-callback/auth"
)

// plain, in the place of a hash algorithm, says that passwords are not hashed.
const plain = "plain"

// plainFollows looks ahead whether basic_auth is followed by plain.
func (p *parser) plainFollows() bool {
	if !p.NextArg() {
		return false
	}
	defer p.Prev()
	return p.Val() == plain
}

func (p *parser) basicAuth() error {
	config := &auth.BasicAuth{}
	args := p.RemainingArgs()
	if len(args) > 2 {
		return p.Errf("basic_auth takes a hash algorithm and a realm, got %d arguments", len(args))
	}
	if len(args) > 1 {
		config.Realm = args[1]
	}
	if len(args) > 0 {
		algorithm := args[0]
		if _, err := caddy.GetModule("http.authentication.hashes." + algorithm); err != nil {
			return p.Errf("basic_auth: unrecognized hash algorithm %q; "+
				"it has to be bcrypt, argon2id or plain", algorithm)
		}
		config.HashRaw = caddyconfig.JSON(map[string]string{"algorithm": algorithm}, nil)
	}
	err := p.accounts("basic_auth", func(username, password string) error {
		config.Accounts = append(config.Accounts,
			caddyauth.Account{Username: username, Password: password})
		return nil
	})
	p.policy.BasicAuth = config
	return err
}

func (p *parser) basicAuthPlain() error {
	config := &auth.BasicAuthPlain{}
	args := p.RemainingArgs() // the first is "plain"
	if len(args) > 2 {
		return p.Errf("basic_auth plain takes a realm, got %d arguments", len(args)-1)
	}
	if len(args) > 1 {
		config.Realm = args[1]
	}
	err := p.accounts("basic_auth plain", func(username, password string) error {
		// The value of a placeholder is not known before the configuration is loaded.
		n := utf8.RuneCountInString(password)
		if n < auth.MinPlainPassword && !strings.Contains(password, "{") {
			return p.Errf("basic_auth plain: the password of %q has %d characters; it has to be "+
				"a random one of at least %d, such as `openssl rand -hex 16` prints",
				username, n, auth.MinPlainPassword)
		}
		config.Accounts = append(config.Accounts,
			auth.PlainAccount{Username: username, Password: password})
		return nil
	})
	p.policy.BasicAuthPlain = config
	return err
}

// accounts reads a block with a username and a password in each line. Errors never
// repeat what stands in the place of a password.
func (p *parser) accounts(of string, add func(username, password string) error) error {
	count, last := 0, p.Token()
	for nesting := p.Nesting(); p.NextBlock(nesting); count++ {
		username := p.Val()
		args := p.RemainingArgs()
		if username == "" || len(args) != 1 || args[0] == "" {
			return p.Errf("%s: a line of its block has to be a username and a password", of)
		}
		if err := add(username, args[0]); err != nil {
			return err
		}
		if err := p.noBlock(of + ": an account"); err != nil {
			return err
		}
	}
	if count == 0 {
		return p.errAt(last, "%s needs a block with a username and a password", of)
	}
	return nil
}

// ifPresent is the one option of dg_token.
const ifPresent = "if_present"

func (p *parser) dgToken() error {
	config := &auth.DGToken{KeyIDs: p.RemainingArgs()}
	if len(config.KeyIDs) == 0 || slices.Contains(config.KeyIDs, "") {
		return p.Errf("dg_token needs the identifier of an API key, or several")
	}
	p.policy.DGToken = config
	for nesting := p.Nesting(); p.NextBlock(nesting); {
		if p.Val() != ifPresent || config.IfPresent {
			// The error does not repeat what stands here, as it may be an identifier.
			return p.Errf("dg_token: its block takes if_present, once, and nothing else")
		}
		config.IfPresent = true
		if err := p.flag(); err != nil {
			return fmt.Errorf("dg_token: %w", err)
		}
	}
	return nil
}

func (p *parser) callbackSecret() error {
	secrets, err := p.atLeastOne("a secret, or several")
	if err != nil {
		return err
	}
	p.policy.CallbackSecret = secrets
	return p.secrets("callback_secret", secrets)
}

// secrets returns an error if one of the secrets is too short.
func (p *parser) secrets(of string, secrets []string) error {
	for i, secret := range secrets {
		// The value of a placeholder is not known before the configuration is loaded.
		if n := utf8.RuneCountInString(secret); n < auth.MinSecret && !strings.Contains(secret, "{") {
			return p.Errf("%s: secret %d has %d characters; it has to be a random one of at "+
				"least %d, such as `openssl rand -hex 16` prints", of, i+1, n, auth.MinSecret)
		}
	}
	return nil
}

func (p *parser) querySecret() error {
	args, err := p.atLeastOne("the name of a URL parameter and a secret, or several")
	if err != nil {
		return err
	}
	if len(args) < 2 {
		return p.Errf("query_secret needs the name of a URL parameter and a secret, or several")
	}
	p.policy.QuerySecret = &auth.QuerySecret{Parameter: args[0], Secrets: args[1:]}
	return p.secrets("query_secret", args[1:])
}

func (p *parser) require() error {
	arg, err := p.exactlyOne("all or any")
	if err != nil {
		return err
	}
	if arg != "all" && arg != "any" {
		return p.Errf("require: %q is neither all nor any", arg)
	}
	p.policy.Require = arg
	return nil
}

func (p *parser) anonymous() error {
	p.policy.Anonymous = true
	return p.flag()
}

func (p *parser) guessLimit() error {
	args := p.RemainingArgs()
	if len(args) != 2 {
		return p.Errf("guess_limit needs a number and a window, such as 20 1m")
	}
	n, err := strconv.Atoi(args[0])
	if err != nil || n < 1 {
		return p.Errf("guess_limit: %q is no number from 1 up", args[0])
	}
	window, err := p.parseDuration("guess_limit", args[1])
	if err != nil {
		return err
	}
	p.policy.GuessLimit = &auth.GuessLimit{Guesses: n, Window: window}
	return p.noBlock("guess_limit")
}

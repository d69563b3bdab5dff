// Package auth decides who may call the gateway: Basic Auth with hashed or with
// long random passwords, Deepgram's dg-token header, a secret in the callback's
// JSON body, a secret in the query; all of them or any of them.
//
// A [Policy] is the configuration and, once provisioned, what decides. The
// gateway's handler embeds it; [Provider] makes the same checks for Caddy's
// `authentication` handler.
//
// Reading order: policy.go (what can be configured), admit.go (the decision),
// then one file per credential: basic.go with hashes.go and hashqueue.go,
// token.go, query.go, bodysecret.go with replay.go and bounds.go; guesses.go for
// all of them, and strip.go for what must not go on to the service.
package auth

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/caddyauth"
	"go.uber.org/zap"
)

// Policy says which credentials a caller has to carry. At least one credential
// must be configured, or Anonymous be set.
//
// Placeholders that are known when the configuration is loaded, such as
// `{env.NAME}` and `{file./path}`, work in every username, password, hash,
// identifier and secret. One that is unknown or empty is an error.
type Policy struct {
	// Accounts with hashed passwords (bcrypt, argon2id), for passwords that exist
	// already. A password is hashed when it is first seen, then recognised.
	BasicAuth *BasicAuth `json:"basic_auth,omitempty"`

	// Accounts whose passwords are long random secrets, which are compared and
	// never hashed. Recommended: nobody can keep the processor busy with guesses.
	// Together with `basic_auth` the two are one credential: an account of either
	// satisfies it.
	BasicAuthPlain *BasicAuthPlain `json:"basic_auth_plain,omitempty"`

	// Identifiers of the Deepgram API keys whose callbacks are let in, as the
	// `dg-token` header carries them.
	DGToken *DGToken `json:"dg_token,omitempty"`

	// Secrets of which one must stand in the callback's JSON body, as the string
	// at `metadata.extra.callback_secret` or at `extra.callback_secret`. Deepgram
	// puts it there when the request was submitted with
	// `extra=callback_secret:VALUE`. Each has at least 16 characters.
	CallbackSecret []string `json:"callback_secret,omitempty"`

	// Secrets of which one must be the value of a parameter of the callback URL.
	QuerySecret *QuerySecret `json:"query_secret,omitempty"`

	// Whether `all` of the configured credentials must be right, or `any` one of
	// them suffices. Default: `all`.
	Require string `json:"require,omitempty"`

	// Lets everyone in. It cannot stand beside a credential that is required.
	Anonymous bool `json:"anonymous,omitempty"`

	// How many wrong guesses a client address may make: so many at passwords of
	// `basic_auth`, and as many at `dg_token`, `query_secret` and
	// `callback_secret` together. Default: 20 in a minute.
	GuessLimit *GuessLimit `json:"guess_limit,omitempty"`

	judge *judge
}

// BasicAuth configures accounts with hashed passwords.
type BasicAuth struct {
	// The algorithm with which the passwords are hashed. Default: bcrypt.
	HashRaw json.RawMessage `json:"hash,omitempty" caddy:"namespace=http.authentication.hashes inline_key=algorithm"`

	// The accounts. Usernames must be unique. A password is a hash in Modular
	// Crypt Format, as `caddy hash-password` prints it, or that in base64.
	Accounts []caddyauth.Account `json:"accounts,omitempty"`

	// The name of the realm. Default: `restricted`.
	Realm string `json:"realm,omitempty"`
}

// BasicAuthPlain configures accounts whose passwords are compared, not hashed.
type BasicAuthPlain struct {
	// The accounts. A username may stand more than once, such as with an old and
	// a new password while it is being changed.
	Accounts []PlainAccount `json:"accounts,omitempty"`

	// The name of the realm. Default: `restricted`. Where `basic_auth` names a
	// realm too, it must be the same.
	Realm string `json:"realm,omitempty"`
}

// PlainAccount is a username with its password in the clear.
type PlainAccount struct {
	// The username; no colon.
	Username string `json:"username,omitempty"`

	// The password, of at least 32 characters: long enough that it cannot be
	// guessed, which is what spares hashing it.
	Password string `json:"password,omitempty"` //nolint:gosec // a configuration field
}

// DGToken configures the check of the `dg-token` header.
type DGToken struct {
	// The identifiers (not the keys) of the API keys whose callbacks are let in.
	// They are UUIDs; anything else is taken with a warning.
	KeyIDs []string `json:"key_ids,omitempty"`

	// Tolerates callbacks without the header. A wrong value is refused
	// nevertheless, and an absent one satisfies nothing.
	IfPresent bool `json:"if_present,omitempty"`
}

// QuerySecret configures the check of a parameter of the URL's query.
type QuerySecret struct {
	// The name of the parameter.
	Parameter string `json:"parameter,omitempty"`

	// The secrets, one of which must be the parameter's value. Each has at least
	// 16 characters.
	Secrets []string `json:"secrets,omitempty"`
}

// GuessLimit limits how often one client address (of IPv6, a /64) may try a
// password or a secret that was not seen before. A password that is recognised,
// and a secret that is right, do not count and are never refused for it.
type GuessLimit struct {
	// How many wrong guesses an address has within a window, from 1 to 100000.
	Guesses int `json:"guesses,omitempty"`

	// The length of the window. Must be positive.
	Window caddy.Duration `json:"window,omitempty"`
}

const (
	requireAll = "all"
	requireAny = "any"

	defaultRealm       = "restricted"
	defaultGuesses     = 20
	defaultGuessWindow = time.Minute

	// MinPlainPassword is how many characters a password needs that is not hashed.
	MinPlainPassword = 32

	// MinSecret is how many characters a secret needs in a body or a query.
	MinSecret = 16
)

// Provision checks the configuration, resolves its placeholders, and builds what
// Admit, VerifyBody and VerifyMessage need. Its errors name the credential, and
// never show its value.
func (p *Policy) Provision(ctx caddy.Context) error {
	if err := p.Check(); err != nil {
		return err
	}
	repl := caddy.NewReplacer()
	limit := p.GuessLimit
	if limit == nil {
		limit = &GuessLimit{Guesses: defaultGuesses, Window: caddy.Duration(defaultGuessWindow)}
	}
	j := &judge{requireAny: p.Require == requireAny, anonymous: p.Anonymous}
	var err error
	if j.basic, err = p.provisionBasic(ctx, repl, limit); err != nil {
		return err
	}
	if j.secrets, err = newSecretGuesses(limit); err != nil {
		return err
	}
	if p.DGToken != nil {
		if j.token, err = newTokenCheck(repl, p.DGToken); err != nil {
			return fmt.Errorf("dg_token: %w", err)
		}
	}
	if p.QuerySecret != nil {
		if j.query, err = newQueryCheck(repl, p.QuerySecret); err != nil {
			return fmt.Errorf("query_secret: %w", err)
		}
	}
	if p.CallbackSecret != nil {
		if j.body, err = resolveSecrets(repl, purposeBody, p.CallbackSecret); err != nil {
			return fmt.Errorf("callback_secret: %w", err)
		}
	}
	j.challenges, err = p.challenges(j)
	if err != nil {
		return err
	}
	p.judge = j
	j.warn(ctx.Logger())
	return nil
}

// warn logs what is allowed but hardly meant.
func (j *judge) warn(logger *zap.Logger) {
	if j.token != nil && len(j.token.strange) > 0 {
		logger.Warn("dg_token: not what the identifier of a Deepgram API key looks like, "+
			"which is a UUID; it is neither the key nor its name, and a short one can be guessed",
			zap.Ints("which", j.token.strange))
	}
	if j.basic == nil || j.basic.hashed == nil {
		return
	}
	if takes := j.basic.hashed.duration(); takes > slowHash {
		logger.Warn("basic_auth: a password that was not seen before takes long to hash on "+
			"this machine; callbacks wait for it, and their sender may give up: use hashes of "+
			"a lower cost, or basic_auth plain",
			zap.Duration("takes", takes), zap.Duration("more_than", slowHash))
	}
}

// Check returns what is wrong with the configuration, as far as that can be told
// without resolving the credentials. Provision calls it, and checks them too.
func (p *Policy) Check() error {
	switch p.Require {
	case "", requireAll, requireAny:
	default:
		return fmt.Errorf("require: %q is neither %q nor %q", p.Require, requireAll, requireAny)
	}
	if err := p.GuessLimit.check(); err != nil {
		return fmt.Errorf("guess_limit: %w", err)
	}
	required := p.BasicAuth != nil || p.BasicAuthPlain != nil ||
		p.CallbackSecret != nil || p.QuerySecret != nil ||
		(p.DGToken != nil && !p.DGToken.IfPresent)
	switch {
	case p.Anonymous && required:
		return errors.New("anonymous: it lets everyone in, so it cannot stand beside a credential " +
			"that is required; remove one of them")
	case p.Anonymous || required:
		return nil
	case p.DGToken != nil:
		return errors.New("dg_token: with if_present as the only credential, " +
			"a caller that carries nothing would be let in; remove if_present, or configure " +
			"another credential (basic_auth, callback_secret, query_secret), or say anonymous")
	default:
		return errors.New("no credential is configured: configure at least one of " +
			"basic_auth, dg_token, callback_secret, query_secret, or say anonymous")
	}
}

func (l *GuessLimit) check() error {
	switch {
	case l == nil:
		return nil
	case l.Guesses <= 0 || l.Window <= 0:
		return fmt.Errorf("the number of guesses (%d) and the window (%s) must both be positive",
			l.Guesses, time.Duration(l.Window))
	case l.Guesses > maxGuesses:
		return fmt.Errorf("%d guesses are no limit; it can be %d at most", l.Guesses, maxGuesses)
	}
	return nil
}

func (p *Policy) provisionBasic(
	ctx caddy.Context, repl *caddy.Replacer, limit *GuessLimit,
) (*basicCheck, error) {
	if p.BasicAuth == nil && p.BasicAuthPlain == nil {
		return nil, nil
	}
	check := new(basicCheck)
	var err error
	if p.BasicAuthPlain != nil {
		if check.plain, err = resolvePlainAccounts(repl, p.BasicAuthPlain.Accounts); err != nil {
			return nil, fmt.Errorf("basic_auth_plain: %w", err)
		}
	}
	if p.BasicAuth != nil {
		if check.hashed, err = newHashedAccounts(ctx, repl, p.BasicAuth, limit); err != nil {
			return nil, fmt.Errorf("basic_auth: %w", err)
		}
	}
	return check, nil
}

// challenges are the values of WWW-Authenticate, which every 401 must have (RFC 9110, section
// 11.6.1). That of Basic has RFC 7617's parameter charset. The other credentials belong to no
// registered scheme: the scheme for them is our own, and does not tell which of them are
// configured.
func (p *Policy) challenges(j *judge) ([]string, error) {
	realm := ""
	if p.BasicAuth != nil {
		realm = p.BasicAuth.Realm
	}
	if p.BasicAuthPlain != nil && p.BasicAuthPlain.Realm != "" {
		if realm != "" && realm != p.BasicAuthPlain.Realm {
			return nil, errors.New("basic_auth_plain: realm: it differs from that of basic_auth, " +
				"but a caller is asked for one")
		}
		realm = p.BasicAuthPlain.Realm
	}
	if realm == "" {
		realm = defaultRealm
	}
	if strings.ContainsFunc(realm, unicode.IsControl) {
		return nil, errors.New("basic_auth: realm: a control character cannot be sent")
	}
	quoted := quotedString(realm)
	var challenges []string
	if j.basic != nil {
		challenges = append(challenges, `Basic realm=`+quoted+`, charset="UTF-8"`)
	}
	if j.token != nil || j.query != nil || j.body != nil {
		challenges = append(challenges, `DeepgramCallback realm=`+quoted)
	}
	return challenges, nil
}

// quotedString quotes s as RFC 9110, section 5.6.4, has it.
func quotedString(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) + `"`
}

func resolvePlainAccounts(repl *caddy.Replacer, accounts []PlainAccount) (digestSet, error) {
	if len(accounts) == 0 {
		return nil, errors.New("no account is configured")
	}
	set := make(digestSet, 0, len(accounts))
	for i, account := range accounts {
		username, err := resolveUsername(repl, i, account.Username)
		if err != nil {
			return nil, err
		}
		password, err := resolve(repl, account.Password)
		if err != nil {
			return nil, fmt.Errorf("account %q: password: %w", username, err)
		}
		if n := utf8.RuneCountInString(password); n < MinPlainPassword {
			return nil, fmt.Errorf("account %q: password: it has %d characters, "+
				"but what is not hashed needs at least %d random ones", username, n, MinPlainPassword)
		}
		set = append(set, digestOf(purposePlain, username, password))
	}
	return set, nil
}

func resolveUsername(repl *caddy.Replacer, index int, configured string) (string, error) {
	username, err := resolve(repl, configured)
	if err != nil {
		return "", fmt.Errorf("account %d: username: %w", index+1, err)
	}
	// The first colon ends the user-id (RFC 7617, section 2).
	if strings.Contains(username, ":") {
		return "", fmt.Errorf("account %d: username: Basic Auth cannot carry a colon in it", index+1)
	}
	return username, nil
}

// resolveSecrets turns a list of secrets into the digests that are compared.
func resolveSecrets(repl *caddy.Replacer, purpose string, configured []string) (digestSet, error) {
	if len(configured) == 0 {
		return nil, errors.New("no secret is configured")
	}
	set := make(digestSet, 0, len(configured))
	for i, secret := range configured {
		value, err := resolve(repl, secret)
		if err != nil {
			return nil, fmt.Errorf("secret %d: %w", i+1, err)
		}
		if n := utf8.RuneCountInString(value); n < MinSecret {
			return nil, fmt.Errorf("secret %d: it has %d characters, but needs at least %d random "+
				"ones, such as `openssl rand -hex 16` prints", i+1, n, MinSecret)
		}
		set = append(set, digestOf(purpose, value))
	}
	return set, nil
}

// resolve replaces the placeholders of a credential. Its errors quote nothing of what is
// configured, which may be the secret itself with a stray brace in it; except where that is nothing
// but one placeholder.
func resolve(repl *caddy.Replacer, configured string) (string, error) {
	if configured == "" {
		return "", errors.New("it is empty")
	}
	subject := "a placeholder in it"
	if isPlaceholder(configured) {
		subject = "the placeholder " + configured
	}
	if _, err := repl.ReplaceOrErr(configured, false, true); err != nil {
		return "", errors.New(subject +
			` is not known when the configuration is loaded; write a brace of the value itself as \{ or \}`)
	}
	value, err := repl.ReplaceOrErr(configured, true, true)
	if err != nil {
		return "", errors.New(subject +
			" is empty: is the environment variable set, can the file be read?")
	}
	switch {
	case value == "":
		return "", errors.New("it is empty")
	case len(value) > maxCredential:
		return "", fmt.Errorf("it has more than %d bytes", maxCredential)
	case !utf8.ValidString(value):
		return "", errors.New("it is not valid UTF-8")
	case strings.ContainsFunc(value, unicode.IsControl):
		return "", errors.New(
			"it has a control character in it, such as a line break at the end of a file",
		)
	}
	return value, nil
}

// isPlaceholder reports whether s is one `{env.…}` or `{file.…}` and nothing else.
func isPlaceholder(s string) bool {
	inner, found := strings.CutPrefix(s, "{")
	if !found {
		return false
	}
	inner, found = strings.CutSuffix(inner, "}")
	if !found || strings.ContainsAny(inner, `{}\`) {
		return false
	}
	return strings.HasPrefix(inner, "env.") || strings.HasPrefix(inner, "file.")
}

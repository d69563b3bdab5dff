// Basic Auth (RFC 7617). Passwords of plain accounts are compared. Passwords of
// hashed accounts are hashed once, under limits, and recognised from then on.

package auth

import (
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/caddyauth"
	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/sync/singleflight"

	"github.com/caddy-deepgram/deepgram-callback/internal/sender"
)

// login is who a caller says it is, and the password for that.
type login struct {
	username, password string
}

type basicCheck struct {
	plain  digestSet
	hashed *hashedAccounts
}

// check decides as far as comparing can. Several Authorization fields are wrong, and so is one of
// another scheme than Basic. The login is empty where the verdict needs none.
func (c *basicCheck) check(header http.Header) (login, verdict) {
	if c == nil {
		return login{}, notConfigured
	}
	values := header["Authorization"]
	switch {
	case len(values) == 0:
		return login{}, absent
	case len(values) > 1 || len(values[0]) > 2*maxCredential:
		return login{}, wrong
	}
	request := http.Request{Header: header}
	username, password, ok := request.BasicAuth()
	if !ok {
		return login{}, wrong
	}
	who := login{username: username, password: password}
	switch {
	case c.plain.contains(digestOf(purposePlain, username, password)):
		return who, right
	case c.hashed == nil:
		return login{}, wrong
	}
	return who, undecided
}

const maxRecognised = 65_536

// recognised holds the digests of logins that were hashed and found right. It belongs to the
// process, so that they are not hashed anew after a reload. The stored hash is a part of the
// digest: where the configured hash has changed, nothing is recognised.
var recognised = mustCache(maxRecognised)

func mustCache(size int) *lru.Cache[digest, struct{}] {
	cache, err := lru.New[digest, struct{}](size)
	if err != nil {
		panic(err) // the size is not positive
	}
	return cache
}

// hashedAccount is an account with its stored hash.
type hashedAccount struct {
	configured string // the hash as it is configured, which is a part of digests
	stored     []byte // the hash as the module takes it
	effort     int    // the index of the effort that it takes
}

// hashedAccounts are the accounts with hashed passwords. A password that was not
// seen before is hashed, and the outcome remembered.
type hashedAccounts struct {
	algorithm string
	comparer  caddyauth.Comparer
	accounts  map[string]hashedAccount

	// efforts has one hash for each effort that the accounts' hashes take. Every password is
	// compared with one hash of each effort, so that the time tells nothing of the username, not
	// even whether it exists.
	efforts []effort

	queue   *hashQueue
	guesses *guessLimiter

	// wrong holds the digests of logins that were hashed and found wrong.
	wrong *lru.Cache[digest, struct{}]

	// flights make requests with the same login, at the same time, wait for one
	// hashing.
	flights singleflight.Group
}

// outcome is what hashing has decided about a login. Where reason is "", the
// password is right.
type outcome struct {
	reason     string
	retryAfter time.Duration
	cause      error

	// refused says that the password was not hashed because of the limits of an
	// address. Requests from another address may still have it hashed.
	address netip.Prefix
	refused bool
}

func newHashedAccounts(
	ctx caddy.Context, repl *caddy.Replacer, config *BasicAuth, limit *GuessLimit,
) (*hashedAccounts, error) {
	if len(config.Accounts) == 0 {
		return nil, errors.New("no account is configured")
	}
	if config.HashRaw == nil {
		config.HashRaw = []byte(`{"algorithm": "bcrypt"}`)
	}
	module, err := ctx.LoadModule(config, "HashRaw")
	if err != nil {
		return nil, fmt.Errorf("hash: %w", err)
	}
	comparer, ok := module.(caddyauth.Comparer)
	if !ok {
		return nil, fmt.Errorf("hash: %T cannot compare passwords", module)
	}
	h := &hashedAccounts{
		algorithm: string(module.(caddy.Module).CaddyModule().ID),
		comparer:  comparer,
		accounts:  make(map[string]hashedAccount, len(config.Accounts)),
		queue:     processHashes,
		wrong:     mustCache(maxRememberedWrong),
	}
	h.guesses, err = newGuessLimiter(limit.Guesses, time.Duration(limit.Window), maxGuessAddresses)
	if err != nil {
		return nil, err
	}
	for i, account := range config.Accounts {
		if err := h.add(repl, i, account); err != nil {
			return nil, err
		}
	}
	return h, nil
}

func (h *hashedAccounts) add(repl *caddy.Replacer, index int, configured caddyauth.Account) error {
	username, err := resolveUsername(repl, index, configured.Username)
	if err != nil {
		return err
	}
	if _, exists := h.accounts[username]; exists {
		return fmt.Errorf("account %q: there are two of that name", username)
	}
	text, err := resolve(repl, configured.Password)
	if err != nil {
		return fmt.Errorf("account %q: password: %w", username, err)
	}
	account := hashedAccount{configured: text, stored: []byte(text)}
	if !strings.HasPrefix(text, "$") {
		// Caddy's own basic_auth takes hashes in base64 too.
		if account.stored, err = base64.StdEncoding.DecodeString(text); err != nil {
			return fmt.Errorf(
				"account %q: password: it is not a hash; make one with caddy hash-password", username,
			)
		}
	}
	if err := validateHash(h.algorithm, account.stored); err != nil {
		return fmt.Errorf("account %q: password: %w", username, err)
	}
	account.effort = h.effortOf(account.stored)
	h.accounts[username] = account
	return nil
}

// check returns whether a login is right. It blocks while the password is hashed,
// and before that for its turn, unless the login is remembered.
func (h *hashedAccounts) check(r *http.Request, who login) outcome {
	if !h.possible(who.password) {
		return outcome{reason: ReasonBasicAuthWrong}
	}
	known, exists := h.accounts[who.username]
	purpose := purposeHashed
	if !exists {
		purpose = purposeUnknown
	}
	key := digestOf(purpose, h.algorithm, known.configured, who.username, who.password)
	address := sender.Network(r)
	for {
		if seen, result := h.remembered(key); seen {
			return result
		}
		flight := h.flights.DoChan(string(key[:]), func() (any, error) {
			return h.decide(address, key, who), nil
		})
		select {
		case landed := <-flight:
			if result := landed.Val.(outcome); !result.refused || result.address == address {
				return result
			}
		case <-r.Context().Done():
			return outcome{reason: ReasonHashQueue, retryAfter: time.Second}
		}
	}
}

// possible reports whether a password can be right at all. bcrypt ignores what
// exceeds 72 bytes and, since it repeats the password together with a final NUL,
// takes some passwords with a NUL in them for others.
func (h *hashedAccounts) possible(password string) bool {
	if h.algorithm != bcryptAlgorithm {
		return true
	}
	return len(password) <= maxBcryptPassword && !strings.Contains(password, "\x00")
}

// remembered returns the outcome for a login that was hashed before.
func (h *hashedAccounts) remembered(key digest) (seen bool, result outcome) {
	if _, found := recognised.Get(key); found {
		return true, outcome{}
	}
	if _, found := h.wrong.Get(key); found {
		return true, outcome{reason: ReasonBasicAuthWrong}
	}
	return false, outcome{}
}

// decide waits for a turn, hashes the password of a login, and remembers the outcome. It runs on a
// goroutine of its own for all requests that wait for this login, so it does not end with the
// request that was the first.
func (h *hashedAccounts) decide(address netip.Prefix, key digest, who login) outcome {
	// Between check's look and this flight, an earlier one may have landed.
	if seen, result := h.remembered(key); seen {
		return result
	}
	name := digestOf(purposeUsername, who.username)
	reserved, retryAfter, ok := h.guesses.reserve(address, binary.BigEndian.Uint64(name[:]))
	if !ok {
		return outcome{reason: ReasonGuessLimit, retryAfter: retryAfter, address: address, refused: true}
	}
	if !h.queue.acquire(address, account{h, who.username}) {
		h.guesses.refund(reserved)
		return outcome{reason: ReasonHashQueue, retryAfter: h.queue.wait, address: address, refused: true}
	}
	result := h.compare(who)
	switch result.reason {
	case "":
		h.guesses.refund(reserved)
		recognised.Add(key, struct{}{})
	case ReasonBasicAuthWrong:
		h.wrong.Add(key, struct{}{})
		h.queue.wrong(address)
	}
	return result
}

// compare hashes a password once for each effort. The caller has a turn for that,
// which compare gives back.
func (h *hashedAccounts) compare(who login) (result outcome) {
	defer h.queue.release()
	defer func() {
		// On this goroutine nobody else recovers, and the process would end.
		if bug := recover(); bug != nil {
			result = outcome{
				reason: ReasonBasicAuthError,
				cause:  fmt.Errorf("the hash module panicked: %v", bug),
			}
		}
	}()
	known, exists := h.accounts[who.username]
	result.reason = ReasonBasicAuthWrong
	for i, effort := range h.efforts {
		stored, own := effort.hash, exists && known.effort == i
		if own {
			stored = known.stored
		}
		same, err := h.comparer.Compare(stored, []byte(who.password))
		switch {
		case !own:
		case err != nil:
			result = outcome{reason: ReasonBasicAuthError, cause: err}
		case same:
			result.reason = ""
		}
	}
	return result
}

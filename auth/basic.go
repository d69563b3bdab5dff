// Basic Auth (RFC 7617): plain accounts are compared, hashed ones recognised or,
// when they are not, hashed under limits.

package auth

import (
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/caddyauth"
	lru "github.com/hashicorp/golang-lru/v2"
)

// login is what a caller says who it is.
type login struct {
	username, password string
}

type basicCheck struct {
	plain  digestSet
	hashed *hashedAccounts
}

// check decides as far as comparing can. Several Authorization fields are wrong,
// as is one of another scheme.
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

const (
	maxRecognised      = 65_536
	maxRememberedWrong = 16_384
)

// recognised holds the digests of logins that were hashed and found right. It
// belongs to the process, so that a new configuration does not hash them anew;
// the stored hash is a part of the digest, so that a changed one is.
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
	configured string // the hash as text, which is a part of the digests
	stored     []byte
}

// hashedAccounts hashes passwords that it has not seen, and remembers the outcome.
type hashedAccounts struct {
	algorithm string
	comparer  caddyauth.Comparer
	accounts  map[string]hashedAccount

	// decoy is what the passwords of unknown usernames are compared with. It is
	// one of the accounts' own hashes, so that it takes the time that those take.
	decoy []byte

	queue   *hashQueue
	guesses *guessLimiter

	// wrong holds the digests of logins that were hashed and found wrong.
	wrong *lru.Cache[digest, struct{}]

	mu      sync.Mutex
	flights map[digest]*flight
}

// flight is the hashing of one login, which everyone who brings the same one in
// the meantime waits for.
type flight struct {
	done      chan struct{}
	outcome   outcome
	abandoned bool // whoever hashed it went away before its turn
}

// outcome is "" for a right login.
type outcome struct {
	reason     string
	retryAfter time.Duration
}

func newHashedAccounts(ctx caddy.Context, repl *caddy.Replacer, config *BasicAuth, limit *GuessLimit) (*hashedAccounts, error) {
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
		flights:   make(map[digest]*flight),
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
		// as in Caddy's own basic_auth, a hash may be wrapped in base64
		if account.stored, err = base64.StdEncoding.DecodeString(text); err != nil {
			return fmt.Errorf("account %q: password: it is not a hash; make one with caddy hash-password", username)
		}
	}
	if err := h.validateHash(account.stored); err != nil {
		return fmt.Errorf("account %q: password: %w", username, err)
	}
	if h.decoy == nil {
		h.decoy = account.stored
	}
	h.accounts[username] = account
	return nil
}

const (
	bcryptAlgorithm   = "http.authentication.hashes.bcrypt"
	argon2idAlgorithm = "http.authentication.hashes.argon2id"

	// maxBcryptPassword: bcrypt reads no further than this many bytes.
	maxBcryptPassword = 72
)

// bcryptFormat is version, cost, then 22 characters of salt and 31 of hash.
var bcryptFormat = regexp.MustCompile(`^\$2[abxy]?\$(\d\d)\$[./A-Za-z0-9]{53}$`)

// argon2idParameters are those of the PHC string format.
var argon2idParameters = regexp.MustCompile(`^\$argon2id\$v=19\$m=(\d+),t=(\d+),p=(\d+)\$([^$]*)\$([^$]*)$`)

// validateHash finds a hash with which every login would fail, panic or succeed.
// What other modules' hashes look like is theirs to know.
func (h *hashedAccounts) validateHash(stored []byte) error {
	switch h.algorithm {
	case bcryptAlgorithm:
		return validateBcrypt(stored)
	case argon2idAlgorithm:
		return validateArgon2id(stored)
	}
	return nil
}

func validateBcrypt(stored []byte) error {
	match := bcryptFormat.FindSubmatch(stored)
	if match == nil {
		return errors.New("it is not a bcrypt hash; make one with caddy hash-password")
	}
	if cost, _ := strconv.Atoi(string(match[1])); cost < 4 || cost > 31 {
		return errors.New("it is not a bcrypt hash: the cost must be 4 to 31")
	}
	return nil
}

// validateArgon2id holds a hash to RFC 9106, section 3.1, and its tag and salt to
// lengths at which they still say something: with an empty tag, as the hash
// module reads it, any password would be right.
func validateArgon2id(stored []byte) error {
	match := argon2idParameters.FindSubmatch(stored)
	if match == nil {
		return errors.New("it is not an argon2id hash; make one with caddy hash-password --algorithm argon2id")
	}
	if _, _, err := caddyauth.DecodeHash(stored); err != nil {
		return errors.New("it is not an argon2id hash: a parameter is out of range, or the salt or the tag is not in base64")
	}
	passes, _ := strconv.Atoi(string(match[2]))
	threads, _ := strconv.Atoi(string(match[3]))
	salt := base64.RawStdEncoding.DecodedLen(len(match[4]))
	tag := base64.RawStdEncoding.DecodedLen(len(match[5]))
	if passes < 1 || threads < 1 || salt < 8 || tag < 16 {
		return errors.New("it is not an argon2id hash that can be used: it needs t and p of at least 1, a salt of at least 8 bytes and a tag of at least 16")
	}
	return nil
}

// check says whether a login is right, hashing only what was never seen before.
func (h *hashedAccounts) check(r *http.Request, who login) outcome {
	if !h.possible(who.password) {
		return outcome{reason: ReasonBasicAuthWrong}
	}
	account, exists := h.accounts[who.username]
	purpose := purposeHashed
	if !exists {
		purpose = purposeUnknown
	}
	key := digestOf(purpose, h.algorithm, account.configured, who.username, who.password)
	for {
		if seen, result := h.remembered(key); seen {
			return result
		}
		current, mine, refused := h.board(r, key)
		switch {
		case refused != nil:
			return *refused
		case mine != nil:
			h.fly(r, current, key, who, *mine)
			return current.outcome
		}
		select {
		case <-current.done:
			if !current.abandoned {
				return current.outcome
			}
		case <-r.Context().Done():
			return outcome{reason: ReasonHashQueue, retryAfter: time.Second}
		}
	}
}

// possible says whether a password can be right at all: bcrypt ignores what
// exceeds its limit and, since it repeats the password with its closing NUL,
// takes some passwords with a NUL for others.
func (h *hashedAccounts) possible(password string) bool {
	if h.algorithm != bcryptAlgorithm {
		return true
	}
	return len(password) <= maxBcryptPassword && !strings.Contains(password, "\x00")
}

// remembered looks a login up among those that were hashed before.
func (h *hashedAccounts) remembered(key digest) (seen bool, result outcome) {
	if _, found := recognised.Get(key); found {
		return true, outcome{}
	}
	if _, found := h.wrong.Get(key); found {
		return true, outcome{reason: ReasonBasicAuthWrong}
	}
	return false, outcome{}
}

// board joins the flight of the same login, or starts one, for which a guess is
// reserved; the reservation is nil for those who join.
func (h *hashedAccounts) board(r *http.Request, key digest) (current *flight, mine *reservation, refused *outcome) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if current, exists := h.flights[key]; exists {
		return current, nil, nil
	}
	// the flight that was not there may just have landed
	if seen, result := h.remembered(key); seen {
		return nil, nil, &result
	}
	reserved, retryAfter, ok := h.guesses.reserve(clientAddress(r))
	if !ok {
		return nil, nil, &outcome{reason: ReasonGuessLimit, retryAfter: max(retryAfter, time.Second)}
	}
	current = &flight{done: make(chan struct{}), outcome: outcome{reason: ReasonBasicAuthError}}
	h.flights[key] = current
	return current, &reserved, nil
}

// fly hashes a login and tells the outcome to all who wait for it.
func (h *hashedAccounts) fly(r *http.Request, current *flight, key digest, who login, reserved reservation) {
	defer func() { // also when a hash module panics
		h.mu.Lock()
		defer h.mu.Unlock()
		delete(h.flights, key)
		close(current.done)
	}()
	if !h.queue.acquire(r.Context()) {
		h.guesses.refund(reserved)
		current.abandoned = r.Context().Err() != nil
		current.outcome = outcome{reason: ReasonHashQueue, retryAfter: h.queue.wait}
		return
	}
	current.outcome = h.compare(who)
	switch current.outcome.reason {
	case "":
		h.guesses.refund(reserved)
		recognised.Add(key, struct{}{})
	case ReasonBasicAuthWrong:
		h.wrong.Add(key, struct{}{})
	}
}

// compare hashes; the caller has a turn for that.
func (h *hashedAccounts) compare(who login) outcome {
	defer h.queue.release()
	account, exists := h.accounts[who.username]
	if !exists {
		account.stored = h.decoy
	}
	same, err := h.comparer.Compare(account.stored, []byte(who.password))
	switch {
	case err != nil && exists:
		return outcome{reason: ReasonBasicAuthError}
	case same && exists:
		return outcome{}
	}
	return outcome{reason: ReasonBasicAuthWrong}
}

// The guess limits: how many wrong passwords are hashed for one client address,
// and how many wrong secrets it may try.

package auth

import (
	"net/netip"
	"slices"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/hashicorp/golang-lru/v2/simplelru"
)

const (
	// How many addresses are remembered, for passwords and for secrets. Beyond that, the one that
	// made no guess for the longest time is forgotten. A secret is only compared, so it matters
	// less if an address is forgotten there.
	maxGuessAddresses  = 65_536
	maxSecretAddresses = 16_384

	// maxRememberedWrong is how many wrong credentials of one kind are
	// remembered, so that repeating one costs nothing and is no further guess.
	maxRememberedWrong = 16_384

	// maxGuesses is the most that can be configured: each guess of a window is
	// kept in memory.
	maxGuesses = 100_000
)

// guessLimiter limits the guesses of each address within a window of time. It
// remembers when they were made.
type guessLimiter struct {
	limit  int
	window time.Duration

	mu        sync.Mutex
	addresses *simplelru.LRU[netip.Prefix, *guesses]
}

// guesses are those of one address, the oldest first.
type guesses struct {
	made   []guess
	extras int // how many of them were let through beyond the limit
}

// guess is a password or secret that was tried. It counts before it is known to be wrong, as
// guesses that are made at the same time would exceed the limit otherwise.
type guess struct {
	at    time.Time
	name  uint64 // stands for the username; 0 for none
	extra bool   // it was let through beyond the limit
}

func newGuessLimiter(limit int, window time.Duration, maxAddresses int) (*guessLimiter, error) {
	addresses, err := simplelru.NewLRU[netip.Prefix, *guesses](maxAddresses, nil)
	if err != nil {
		return nil, err
	}
	return &guessLimiter{limit: limit, window: window, addresses: addresses}, nil
}

// reservation is what refund needs to take a guess back.
type reservation struct {
	of   *guesses
	made guess
}

// reserve counts a guess of an address. Where it has none left, ok is false, and it will have one
// after retryAfter.
//
// Beyond the limit, each username has one more guess in a window, and the address as many of these
// as the limit: many callers can share an address, and whoever guesses at one account must not shut
// out the first login of another. Usernames that do not exist are treated alike, so that the answer
// does not tell which of them do.
func (l *guessLimiter) reserve(
	address netip.Prefix, name uint64,
) (made reservation, retryAfter time.Duration, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	of, known := l.addresses.Get(address)
	if !known {
		of = new(guesses)
		l.addresses.Add(address, of)
	}
	of.forget(now.Add(-l.window))
	g := guess{at: now, name: name}
	if len(of.made)-of.extras >= l.limit {
		if name == 0 || of.extras >= l.limit || of.has(name) {
			return reservation{}, l.window - now.Sub(of.oldest()), false
		}
		g.extra = true
		of.extras++
	}
	of.made = append(of.made, g)
	return reservation{of: of, made: g}, 0, true
}

// refund takes back a guess that was right, or was not made after all.
func (l *guessLimiter) refund(r reservation) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if i := slices.Index(r.of.made, r.made); i >= 0 {
		r.of.made = slices.Delete(r.of.made, i, i+1)
		if r.made.extra {
			r.of.extras--
		}
	}
}

// forget drops the guesses that were made at this time or before.
func (g *guesses) forget(until time.Time) {
	expired := 0
	for expired < len(g.made) && !g.made[expired].at.After(until) {
		if g.made[expired].extra {
			g.extras--
		}
		expired++
	}
	g.made = g.made[expired:]
}

func (g *guesses) has(name uint64) bool {
	return slices.ContainsFunc(g.made, func(made guess) bool { return made.name == name })
}

// oldest is when the first of the guesses was made that the limit counts.
func (g *guesses) oldest() time.Time {
	i := slices.IndexFunc(g.made, func(made guess) bool { return !made.extra })
	return g.made[i].at
}

// secretGuesses limits the wrong guesses at credentials that are only compared:
// dg_token, query_secret and callback_secret. Right ones are not counted.
type secretGuesses struct {
	limiter *guessLimiter
	wrong   *lru.Cache[digest, struct{}]
}

func newSecretGuesses(limit *GuessLimit) (*secretGuesses, error) {
	limiter, err := newGuessLimiter(limit.Guesses, time.Duration(limit.Window), maxSecretAddresses)
	if err != nil {
		return nil, err
	}
	return &secretGuesses{limiter: limiter, wrong: mustCache(maxRememberedWrong)}, nil
}

// count counts a wrong guess. If the address has made too many, it is refused for retryAfter. A
// guess that was made before is not counted again: a sender repeats its callbacks, and one that has
// an old secret sends many.
func (g *secretGuesses) count(
	address netip.Prefix, tried digest,
) (retryAfter time.Duration, tooMany bool) {
	if _, known := g.wrong.Get(tried); known {
		return 0, false
	}
	_, retryAfter, ok := g.limiter.reserve(address, 0)
	if !ok {
		return retryAfter, true
	}
	g.wrong.Add(tried, struct{}{})
	return 0, false
}

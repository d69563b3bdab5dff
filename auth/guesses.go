// The guess limit: how many wrong passwords are hashed for one client address.

package auth

import (
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/hashicorp/golang-lru/v2/simplelru"
)

// maxGuessAddresses bounds the table of addresses; the one unseen for the longest
// time makes room.
const maxGuessAddresses = 65_536

// guessLimiter holds, for each address, when the guesses of the last window were
// made. Every entry was paid for with a hash, which bounds the memory better
// than the table's size does.
type guessLimiter struct {
	limit  int
	window time.Duration

	mu        sync.Mutex
	addresses *simplelru.LRU[netip.Prefix, *guesses]
}

// guesses are the times of an address's guesses, oldest first.
type guesses struct {
	times []time.Time
}

func newGuessLimiter(limit int, window time.Duration, maxAddresses int) (*guessLimiter, error) {
	addresses, err := simplelru.NewLRU[netip.Prefix, *guesses](maxAddresses, nil)
	if err != nil {
		return nil, err
	}
	return &guessLimiter{limit: limit, window: window, addresses: addresses}, nil
}

// reservation is a guess that counts already, before it is known to be wrong:
// otherwise, guesses made at the same time would overshoot the limit.
type reservation struct {
	of *guesses
	at time.Time
}

// reserve counts a guess of an address. If it has none left, retryAfter says when
// it will have one.
func (l *guessLimiter) reserve(address netip.Prefix) (made reservation, retryAfter time.Duration, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	of, known := l.addresses.Get(address)
	if !known {
		of = new(guesses)
		l.addresses.Add(address, of)
	}
	expired := 0
	for expired < len(of.times) && now.Sub(of.times[expired]) >= l.window {
		expired++
	}
	of.times = slices.Delete(of.times, 0, expired)
	if len(of.times) >= l.limit {
		return reservation{}, l.window - now.Sub(of.times[0]), false
	}
	of.times = append(of.times, now)
	return reservation{of: of, at: now}, 0, true
}

// refund takes back a reservation: the guess was right, or was never made.
func (l *guessLimiter) refund(r reservation) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if i := slices.Index(r.of.times, r.at); i >= 0 {
		r.of.times = slices.Delete(r.of.times, i, i+1)
	}
}

// clientAddress is what guesses are counted for: the client's address as Caddy
// determined it (behind a trusted proxy: not the proxy's), or the peer's. An IPv6
// client has a whole /64 at its hands, so that is what counts as one. Peers that
// have no IP address, as on a Unix socket, count as one too.
func clientAddress(r *http.Request) netip.Prefix {
	text, _ := caddyhttp.GetVar(r.Context(), caddyhttp.ClientIPVarKey).(string)
	address, err := netip.ParseAddr(text)
	if err != nil {
		peer, err := netip.ParseAddrPort(r.RemoteAddr)
		if err != nil {
			return netip.Prefix{}
		}
		address = peer.Addr()
	}
	address = address.Unmap().WithZone("")
	bits := 32
	if address.Is6() {
		bits = 64
	}
	prefix, _ := address.Prefix(bits) // fails only for a wrong number of bits
	return prefix
}

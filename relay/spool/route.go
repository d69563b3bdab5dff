// A route on the delivering side: who delivers, how many at a time, and whether the
// service is there at all.

package spool

import (
	"math/rand/v2"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/caddy-deepgram/deepgram-callback/internal/inturn"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/health"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/identity"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/seal"
)

const (
	leaseRetry = time.Second

	defaultRetryFor       = 72 * time.Hour
	defaultConcurrency    = 16
	defaultDeadLetterKeep = 30 * 24 * time.Hour
	defaultDedupeWindow   = 24 * time.Hour
)

func defaultRetryDelays() []time.Duration {
	return []time.Duration{
		time.Second,
		5 * time.Second,
		30 * time.Second,
		2 * time.Minute,
		10 * time.Minute,
	}
}

// RouteConfig is how the messages of a route are delivered. Zero values mean
// the defaults.
type RouteConfig struct {
	// Deliver makes one attempt. Required.
	Deliver Delivery

	// RetryDelays are the pauses after the first, second, … failed attempt; the last one
	// repeats. Each varies by ±20 %. Default 1s, 5s, 30s, 2m, 10m.
	RetryDelays []time.Duration

	// RetryFor is how long after its receipt (or its last replay) a message is tried. After
	// that it is a dead letter. Default 72h.
	RetryFor time.Duration

	// Concurrency is how many deliveries of the route run at a time. Default 16.
	Concurrency int

	// OrderBy says which messages wait for which. Default identity.OrderByRequestID.
	OrderBy identity.OrderBy

	// DedupeWindow is for how long the same callback again is a duplicate. Default 24h; negative:
	// never.
	DedupeWindow time.Duration

	// Encrypt has keys by which what is stored is encrypted. Default nil: it is not.
	Encrypt *seal.Keys

	// Interval is the least time between the beginnings of two deliveries. Default 0: none.
	Interval time.Duration

	// Keep is for how long delivered messages are kept. Default 0: they are not.
	Keep time.Duration

	// DeadLetterKeep is for how long dead letters are kept. Default 30 days; negative: for ever.
	DeadLetterKeep time.Duration
}

func (c RouteConfig) withDefaults() RouteConfig {
	if len(c.RetryDelays) == 0 {
		c.RetryDelays = defaultRetryDelays()
	}
	if c.RetryFor == 0 {
		c.RetryFor = defaultRetryFor
	}
	if c.Concurrency <= 0 {
		c.Concurrency = defaultConcurrency
	}
	if c.OrderBy == "" {
		c.OrderBy = identity.OrderByRequestID
	}
	if c.DedupeWindow == 0 {
		c.DedupeWindow = defaultDedupeWindow
	}
	if c.DeadLetterKeep == 0 {
		c.DeadLetterKeep = defaultDeadLetterKeep
	}
	return c
}

// delay returns the pause after so many failures in a row, with jitter.
func (c RouteConfig) delay(failures int) time.Duration {
	d := c.RetryDelays[min(max(failures, 1), len(c.RetryDelays))-1]
	return time.Duration(float64(d) * (0.8 + 0.4*rand.Float64()))
}

// mayHang is how many deliveries may be held without an answer while others wait; one at least.
func (c RouteConfig) mayHang() int { return max(c.Concurrency/hungShare, 1) }

// health is what of the configuration has a part in the health of the route.
func (c RouteConfig) health() health.Config {
	return health.Config{Concurrency: c.Concurrency, Silent: c.mayHang(), Delay: c.delay}
}

// route delivers the messages of one name. It outlives configurations.
type route struct {
	in   *Inbox
	name string
	wake chan struct{}

	mu           sync.Mutex
	inCharge     *registration // nil if no configuration has the route
	running      bool
	attempts     map[*attempt]struct{}
	health       *health.Health[Destination]
	expireAt     time.Time // before this, messages whose time is over are not looked for
	pace         pace
	triedFirst   bool      // in the next ordinary turn
	untriedUntil time.Time // before this, those that were not tried come first in any case

	told inturn.Teller[health.Status] // before mu
}

func newRoute(in *Inbox, name string) *route {
	return &route{
		in:       in,
		name:     name,
		wake:     make(chan struct{}, 1),
		attempts: make(map[*attempt]struct{}),
		health:   health.New[Destination](time.Now()),
	}
}

// goBy has the route delivered as a configuration says from now on; nil: by nobody. It reports
// whether run has to be started.
func (r *route) goBy(g *registration) (start bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.inCharge == g {
		return false
	}
	r.inCharge = g
	r.signal()
	if g == nil || r.running {
		return false // run ends by itself
	}
	r.running = true
	return true
}

// signal has run look again.
func (r *route) signal() { signal(r.wake) }

// current returns the configuration in charge, or nil. r.mu is held.
func (r *route) current() *registration { return r.inCharge }

// configured reports whether a configuration has the route.
func (r *route) configured() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.inCharge != nil
}

// config returns the configuration in charge, if there is one.
func (r *route) config() (config RouteConfig, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if g := r.current(); g != nil {
		return g.config, true
	}
	return config, false
}

func (r *route) describe(s *RouteStats) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s.Configured = r.current() != nil
	status := r.health.Status()
	s.Down = status.Down
	s.LastError = status.LastError
	if s.Down {
		s.DownSince = status.Since
		s.NextProbe = Earlier(status.Explore, status.Probe)
	}
}

// later returns the later of two times.
func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// ParseRetryAfter reads a Retry-After field (RFC 9110, section 10.2.3): seconds, or a date. It
// returns zero for anything else, and for a time that has passed.
func ParseRetryAfter(value string, now time.Time) time.Duration {
	if seconds, err := strconv.ParseUint(value, 10, 31); err == nil {
		return time.Duration(seconds) * time.Second
	}
	if at, err := http.ParseTime(value); err == nil {
		return max(at.Sub(now), 0)
	}
	return 0
}

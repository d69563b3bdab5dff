// A route on the delivering side: who delivers, how many at a time, and whether the
// service is there at all.

package spool

import (
	"context"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"time"
)

const (
	leaseRetry = time.Second

	defaultRetryFor       = 72 * time.Hour
	defaultConcurrency    = 16
	defaultDeadLetterKeep = 30 * 24 * time.Hour
	defaultDedupeWindow   = 24 * time.Hour
)

func defaultRetryDelays() []time.Duration {
	return []time.Duration{time.Second, 5 * time.Second, 30 * time.Second, 2 * time.Minute, 10 * time.Minute}
}

// RouteConfig is how the messages of a route are delivered. Zero values mean
// the defaults.
type RouteConfig struct {
	// Deliver makes one attempt. Required.
	Deliver Delivery

	// RetryDelays are the pauses after the first, second, … failed attempt; the last one repeats. Each
	// varies by ±20 %. Default 1s, 5s, 30s, 2m, 10m.
	RetryDelays []time.Duration

	// RetryFor is how long after its receipt (or its last replay) a message is tried. After
	// that it is a dead letter. Default 72h.
	RetryFor time.Duration

	// Concurrency is how many deliveries of the route run at a time. Default 16.
	Concurrency int

	// OrderBy says which messages wait for which. Default OrderByRequestID.
	OrderBy OrderBy

	// DedupeWindow is for how long the same callback again is a duplicate. Default 24h; negative: never.
	DedupeWindow time.Duration

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
		c.OrderBy = OrderByRequestID
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

// route delivers the messages of one name. It outlives configurations: these are its registrations.
type route struct {
	in   *Inbox
	name string
	wake chan struct{}

	mu            sync.Mutex
	registrations []*registration // the last one is in charge
	running       bool
	attempts      map[*attempt]struct{}
	health        health
	triedFirst    bool      // in the next ordinary turn
	untriedUntil  time.Time // before this, those that were not tried come first in any case
}

// registration is a configuration that a route has.
type registration struct {
	config RouteConfig
	ctx    context.Context
	cancel context.CancelFunc
	busy   sync.WaitGroup // deliveries under this configuration
}

// SetRoute has the messages of a route delivered in this way from now on. It may be called again for the
// same name, before or after the release of the one before: the latest one that is not released is in
// charge, so a new configuration takes over and an old one gets the route
// back should the new one be given up. Deliveries that are under way end as they began.
//
// release ends this registration: it waits for the deliveries under it until ctx is done, then
// cancels them; cancelled ones are pending again. Messages of a route without a
// registration stay pending.
func (in *Inbox) SetRoute(name string, config RouteConfig) (release func(ctx context.Context)) {
	registration := &registration{config: config.withDefaults()}
	registration.ctx, registration.cancel = context.WithCancel(context.Background())

	in.mu.Lock()
	r := in.routes[name]
	if r == nil {
		r = &route{in: in, name: name, wake: make(chan struct{}, 1), attempts: make(map[*attempt]struct{}), health: newHealth(time.Now())}
		in.routes[name] = r
	}
	r.mu.Lock()
	r.registrations = append(r.registrations, registration)
	if !r.running && !in.closed {
		r.running = true
		in.work.Go(r.run)
	}
	r.mu.Unlock()
	in.mu.Unlock()

	in.setLimits()
	r.signal()
	var once sync.Once
	return func(ctx context.Context) {
		once.Do(func() { r.release(ctx, registration) })
	}
}

// SetMaxSize bounds what the inbox may take up, in bytes. 0: no limit.
func (in *Inbox) SetMaxSize(bytes int64) {
	in.mu.Lock()
	in.maxSize = bytes
	in.mu.Unlock()
	in.setLimits()
}

// setLimits tells the store its limits: of the windows that the routes have, the longest one.
func (in *Inbox) setLimits() {
	var limits Limits
	routes := in.allRoutes()
	if len(routes) == 0 {
		limits.Fingerprints = defaultDedupeWindow // nothing is known yet
	}
	for _, r := range routes {
		_, window := r.acceptance()
		limits.Fingerprints = max(limits.Fingerprints, window)
	}
	in.mu.Lock()
	limits.MaxBytes = in.maxSize
	in.mu.Unlock()
	in.store.SetLimits(limits)
}

// release ends a registration, if it is one still.
func (r *route) release(ctx context.Context, ended *registration) {
	r.mu.Lock()
	r.registrations = slices.DeleteFunc(r.registrations, func(other *registration) bool { return other == ended })
	r.mu.Unlock()
	r.signal()
	ended.finish(ctx)
}

// finish waits for the deliveries of a registration, and cancels those that take too long.
func (g *registration) finish(ctx context.Context) {
	defer g.cancel()
	idle := make(chan struct{})
	go func() {
		g.busy.Wait()
		close(idle)
	}()
	select {
	case <-idle:
		return
	case <-ctx.Done():
	}
	g.cancel()
	select {
	case <-idle:
	case <-time.After(lateGrace):
	}
}

// drain ends all registrations, when the inbox closes.
func (r *route) drain(ctx context.Context) {
	r.mu.Lock()
	registrations := r.registrations
	r.registrations = nil
	r.mu.Unlock()
	for _, g := range registrations {
		g.finish(ctx)
	}
}

// signal has run look again.
func (r *route) signal() {
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

// current returns the configuration in charge, or nil. r.mu is held.
func (r *route) current() *registration {
	if len(r.registrations) == 0 {
		return nil
	}
	return r.registrations[len(r.registrations)-1]
}

// acceptance is what the configuration in charge says of messages that come in.
func (r *route) acceptance() (orderBy OrderBy, window time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if g := r.current(); g != nil {
		return g.config.OrderBy, g.config.DedupeWindow
	}
	return OrderByRequestID, defaultDedupeWindow
}

// deadLetterKeep returns zero where nothing is known.
func (r *route) deadLetterKeep() time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	if g := r.current(); g != nil {
		return g.config.DeadLetterKeep
	}
	return 0
}

func (r *route) describe(s *RouteStats) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s.Configured = r.current() != nil
	s.Down = r.health.down
	s.LastError = r.health.lastError
	if s.Down {
		s.NextProbe = earlier(r.health.exploreAt, r.health.probeAt)
	}
}

// ParseRetryAfter reads a Retry-After field (RFC 9110, section 10.2.3): seconds, or a date. It returns
// zero for anything else, and for a time that has passed.
func ParseRetryAfter(value string, now time.Time) time.Duration {
	if seconds, err := strconv.ParseUint(value, 10, 31); err == nil {
		return time.Duration(seconds) * time.Second
	}
	if at, err := http.ParseTime(value); err == nil {
		return max(at.Sub(now), 0)
	}
	return 0
}

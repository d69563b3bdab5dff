// A route on the delivering side: who delivers, how many at a time, and whether the
// service is there at all.

package spool

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"time"
)

const (
	// downAfter is how many different messages in a row must find the service unavailable.
	downAfter = 3

	// maxProbePause bounds the time between probes, so that a service which is back does not stay unnoticed.
	maxProbePause = time.Minute

	// firstDeliveries is how many deliveries run at a time until the first answer.
	firstDeliveries = 4

	leaseRetry = time.Second

	defaultRetryFor       = 72 * time.Hour
	defaultConcurrency    = 16
	defaultDeadLetterKeep = 30 * 24 * time.Hour
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
	inFlight      int
	health        health
}

// registration is a configuration that a route has.
type registration struct {
	config RouteConfig
	ctx    context.Context
	cancel context.CancelFunc
	busy   sync.WaitGroup // deliveries under this configuration
}

// health is what is known of a route's service.
type health struct {
	limit      int // deliveries at a time, at present
	failures   int // different messages in a row that found it unavailable
	lastFailed ID
	lastError  string

	down    bool
	probing bool
	probes  int // that failed
	probeAt time.Time
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
		r = &route{in: in, name: name, wake: make(chan struct{}, 1), health: health{limit: firstDeliveries}}
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

	in.keepFingerprints()
	r.signal()
	var once sync.Once
	return func(ctx context.Context) {
		once.Do(func() { r.release(ctx, registration) })
	}
}

// keepFingerprints tells the store the longest window.
func (in *Inbox) keepFingerprints() {
	longest := time.Duration(0)
	for _, r := range in.allRoutes() {
		_, window := r.acceptance()
		longest = max(longest, window)
	}
	in.store.KeepFingerprints(longest)
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
		s.NextProbe = r.health.probeAt
	}
}

// run starts deliveries for as long as the route has a registration.
func (r *route) run() {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-r.in.ctx.Done():
			return
		case <-r.wake:
		case <-timer.C:
		}
		next, ok := r.dispatch(time.Now())
		switch {
		case !ok:
			return
		case next.IsZero():
			timer.Stop()
		default:
			timer.Reset(time.Until(next))
		}
	}
}

// dispatch starts the deliveries that may be started now. It returns when to look
// again unasked, or zero; and false when there is nobody to deliver any more.
func (r *route) dispatch(now time.Time) (next time.Time, ok bool) {
	r.mu.Lock()
	g := r.current()
	if g == nil {
		r.running = false
		r.mu.Unlock()
		return time.Time{}, false
	}
	want, probe := min(r.health.limit, g.config.Concurrency)-r.inFlight, r.health.down
	switch {
	case !probe:
	case r.health.probing:
		want = 0 // its outcome wakes us
	case now.Before(r.health.probeAt):
		want, next = 0, r.health.probeAt
	default:
		want = 1
	}
	if want <= 0 {
		r.mu.Unlock()
		return next, true
	}
	g.busy.Add(1) // while we are at it
	r.mu.Unlock()
	defer g.busy.Done()

	leased, next, err := r.in.store.Lease(LeaseRequest{Route: r.name, Now: now, Max: want, UntriedFirst: probe})
	if err != nil {
		r.in.problem(fmt.Errorf("route %s: %w", r.name, err))
		return now.Add(leaseRetry), true
	}
	r.mu.Lock()
	r.inFlight += len(leased)
	if probe && len(leased) > 0 {
		r.health.probing = true
	}
	r.mu.Unlock()
	for _, msg := range leased {
		g.busy.Add(1)
		go func() {
			defer g.busy.Done()
			r.attempt(g, msg, probe)
		}()
	}
	return next, true
}

// attempt makes one attempt to deliver and records what came of it.
func (r *route) attempt(g *registration, msg *Message, probe bool) {
	began := time.Now()
	result, settled := r.deliver(g, msg)
	if !settled {
		// It was given back without an attempt.
		r.in.store.Settle(msg.ID, Settlement{Verdict: Return})
		r.ended(g, msg, result, probe, false)
		return
	}
	now := time.Now()
	if r.in.hooks.Attempted != nil {
		r.in.hooks.Attempted(msg, result, now.Sub(began))
	}
	settlement := r.judge(g.config, msg, result, now)
	r.in.store.Settle(msg.ID, settlement)
	r.announce(msg, result, settlement)

	down := r.ended(g, msg, result, probe, true)
	if probe && down {
		r.expire(g.config, now, result.String())
	}
}

// deliver calls the delivery with the message's body. It returns false where nothing can be said of the message
// or its service.
func (r *route) deliver(g *registration, msg *Message) (result Result, settled bool) {
	body, err := r.in.store.Body(msg)
	switch {
	case errors.Is(err, ErrNotFound): // dropped meanwhile
		return Result{Err: err}, false
	case err != nil:
		r.in.problem(fmt.Errorf("message %s: %w", msg.ID, err))
		return Result{Err: fmt.Errorf("%w: %w", errBody, err)}, true
	}
	result = call(g.ctx, g.config.Deliver, msg, body)
	if err := body.Close(); err != nil {
		r.in.problem(fmt.Errorf("message %s: %w", msg.ID, err))
	}
	cancelled := g.ctx.Err() != nil && result.Outcome() == Unavailable
	return result, !cancelled
}

// errBody: there was no attempt because the body could not be opened.
var errBody = errors.New("read the stored body")

// call turns a panic of a delivery into a failure of it: it must not take all others down.
func call(ctx context.Context, deliver Delivery, msg *Message, body Body) (result Result) {
	defer func() {
		if p := recover(); p != nil {
			result = Result{Err: fmt.Errorf("delivery panicked: %v", p)}
		}
	}()
	copied := *msg
	return deliver(ctx, &copied, body)
}

// judge decides what becomes of a message after an attempt.
func (r *route) judge(config RouteConfig, msg *Message, result Result, now time.Time) Settlement {
	deadline := msg.ScheduledFrom.Add(config.RetryFor)
	switch {
	case result.Outcome() == Delivered:
		return Settlement{Verdict: Done}
	case result.Outcome() == Gone, result.Outcome() == Undeliverable, errors.Is(result.Err, ErrDamaged), !now.Before(deadline):
		return Settlement{Verdict: Bury, At: now, LastError: result.String()}
	}
	next := now.Add(max(config.delay(msg.Attempts+1), result.RetryAfter))
	if next.After(deadline) {
		next = deadline // one last time
	}
	return Settlement{Verdict: Retry, At: next, LastError: result.String()}
}

// announce tells the hooks of the end of a message.
func (r *route) announce(msg *Message, result Result, settlement Settlement) {
	hooks := r.in.hooks
	switch settlement.Verdict {
	case Done:
		if hooks.Delivered != nil {
			hooks.Delivered(msg)
		}
	case Bury:
		if hooks.Died != nil {
			dead := *msg
			dead.State, dead.Attempts, dead.DiedAt = Dead, msg.Attempts+1, settlement.At
			dead.LastError, dead.NextAttemptAt = clip(result.String(), maxLastError), time.Time{}
			hooks.Died(&dead)
		}
	}
}

// ended takes note of the end of an attempt. It reports whether the service is down.
func (r *route) ended(g *registration, msg *Message, result Result, probe, settled bool) bool {
	r.mu.Lock()
	r.inFlight--
	h := &r.health
	wasDown := h.down
	if probe {
		h.probing = false
	}
	now := time.Now()
	switch {
	case !settled:
		if probe {
			h.probeAt = now.Add(leaseRetry)
		}
	case errors.Is(result.Err, ErrDamaged), errors.Is(result.Err, errBody), result.Outcome() == Undeliverable:
		// The service has no part in it.
	case result.Outcome() == Unavailable:
		h.unavailable(g.config, msg, result, probe, now)
	default:
		h.available(g.config)
	}
	down, cause := h.down, h.lastError
	r.mu.Unlock()

	r.signal()
	if down != wasDown && r.in.hooks.Down != nil {
		r.in.hooks.Down(r.name, down, cause)
	}
	return down
}

// available notes an answer of the service. One more delivery at a time for each makes twice
// as many with every round.
func (h *health) available(config RouteConfig) {
	h.limit = min(h.limit+1, config.Concurrency)
	if h.down {
		h.limit = 1
	}
	h.down, h.failures, h.probes, h.lastError = false, 0, 0, ""
}

// unavailable notes that there was none.
func (h *health) unavailable(config RouteConfig, msg *Message, result Result, probe bool, now time.Time) {
	h.lastError = clip(result.String(), maxLastError)
	if h.failures == 0 || h.lastFailed != msg.ID {
		h.failures++
	}
	h.lastFailed = msg.ID

	// As long as the service wants, but no longer than the messages live.
	wanted := min(result.RetryAfter, config.RetryFor)
	switch {
	case h.down && probe:
		h.probes++
	case h.down:
		return
	case h.failures >= downAfter, wanted > 0:
		h.down, h.probes = true, 0
	default:
		return
	}
	h.probeAt = now.Add(max(min(config.delay(h.probes+1), maxProbePause), wanted))
}

// probeNow does not wait for the time of the next probe.
func (r *route) probeNow() {
	r.mu.Lock()
	r.health.probeAt = time.Time{}
	r.mu.Unlock()
	r.signal()
}

// expire buries what has waited for too long behind a service that is down.
func (r *route) expire(config RouteConfig, now time.Time, cause string) {
	for {
		expired, err := r.in.store.Expire(r.in.ctx, r.name, now.Add(-config.RetryFor), cause, bulk)
		if err != nil {
			r.in.problem(fmt.Errorf("route %s: %w", r.name, err))
			return
		}
		if r.in.hooks.Died != nil {
			for _, msg := range expired {
				r.in.hooks.Died(msg)
			}
		}
		if len(expired) < bulk {
			return
		}
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

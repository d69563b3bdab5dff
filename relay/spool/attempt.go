// Attempts to deliver, and what comes of each.

package spool

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/caddy-deepgram/deepgram-callback/relay/spool/health"
)

const (
	// hungAfter is when an attempt without an answer counts as one that may never get any. It is what
	// the vendor gives a receiver itself, so a service that takes longer gets callbacks
	// again in any case.
	hungAfter = 10 * time.Second

	// maxPatience bounds the patience for messages that were tried often; the second where the
	// route has so few deliveries at a time that none may be held for longer.
	maxPatience    = 40 * time.Second
	maxPatienceFew = 30 * time.Second

	// hungShare is the share of the deliveries at a time that may be held without an answer
	// while others wait: a quarter.
	hungShare = 4

	// maxDelayWhileDown bounds the pause of a single message while the service is down, so that all
	// is delivered soon when it is up.
	maxDelayWhileDown = time.Minute

	// untriedTime is how long messages that were never tried come first after another one has
	// failed; the second where it got no answer, if there is one such at a time.
	untriedTime       = 5 * time.Second
	untriedTimeSilent = 30 * time.Second

	// expirePause is the time between two looks for messages whose time is over.
	expirePause = 10 * time.Second
)

// kind is why an attempt is made, see [health.Health].
type kind int

const (
	ordinary kind = iota
	exploring
	probing
)

// attempt is one that is under way.
type attempt struct {
	lease    *Lease
	msg      *Message // the lease's
	kind     kind
	newest   bool // it was looked for from the newest end
	began    time.Time
	patience time.Duration
	hung     bool // it was noted as a failure already
	cut      bool // given up, because others wait
	cancel   context.CancelFunc
	done     chan struct{} // closed when it has ended
}

var errNoAnswer = errors.New("the service did not answer, and others were waiting")

// patienceFor is how long an attempt may take while others wait for one of the deliveries that run
// at a time. Nobody waits for one that gets no answer: beyond a quarter of them, which may go on
// for as long as a delivery takes, they are given up for those that wait. The first attempt is
// given up after ten seconds, later ones have more, so that a service which takes that long gets
// its chance. Where it is known that there are no answers, a first attempt takes less, so that many
// can be tried. r.mu is held.
func (r *route) patienceFor(config RouteConfig, msg *Message, now time.Time) time.Duration {
	if msg.Tries == 0 && r.health.Silent(msg.Destination, now) {
		return health.ExplorePatience
	}
	most := maxPatience
	if config.Concurrency < hungShare {
		most = maxPatienceFew
	}
	return min(hungAfter<<min(msg.Tries, 3), most)
}

// start makes attempts to deliver. Where that takes one that hangs, it is given up.
func (r *route) start(g *registration, leased []*Lease, template attempt, now time.Time) {
	for _, lease := range leased {
		msg := lease.Message
		a := &attempt{
			lease:  lease,
			msg:    msg,
			kind:   template.kind,
			newest: template.newest,
			began:  now,
			done:   make(chan struct{}),
		}
		var ctx context.Context
		ctx, a.cancel = context.WithCancel(g.ctx)
		r.mu.Lock()
		var before *attempt
		if free, _ := r.room(g.config, now); free <= 0 {
			before = r.giveUp(now)
		}
		a.patience = r.patienceFor(g.config, msg, now)
		r.attempts[a] = struct{}{}
		r.pace.take(g.config.Interval, now)
		r.mu.Unlock()
		g.busy.Add(1)
		go func() {
			defer g.busy.Done()
			defer close(a.done)
			defer a.cancel()
			if lease.Lost != nil {
				go a.endWhenLost()
			}
			if before != nil {
				before.wait()
			}
			r.attempt(ctx, g, a)
		}()
	}
}

// endWhenLost breaks off an attempt whose message another gateway may have by now.
func (a *attempt) endWhenLost() {
	select {
	case <-a.lease.Lost:
		a.cancel()
	case <-a.done:
	}
}

// isLost reports whether the lease was lost.
func (a *attempt) isLost() bool {
	select {
	case <-a.lease.Lost: // which blocks where it is nil
		return true
	default:
		return false
	}
}

// wait waits until an attempt that was given up has ended, so that there are never more at a time
// than are configured; but not for a delivery that does not heed its context.
func (a *attempt) wait() {
	timer := time.NewTimer(leaseRetry)
	defer timer.Stop()
	select {
	case <-a.done:
	case <-timer.C:
	}
}

// attempt makes one attempt to deliver and records what came of it.
func (r *route) attempt(ctx context.Context, g *registration, a *attempt) {
	msg := a.msg
	began := time.Now()
	result, settled := r.deliver(ctx, g, a)
	if !settled {
		// It was given back without an attempt.
		r.in.store.Settle(a.lease, Settlement{Verdict: Return})
		r.ended(g, a, result, false)
		return
	}
	now := time.Now()
	if r.in.hooks.Attempted != nil {
		r.in.hooks.Attempted(msg, result, now.Sub(began))
	}
	settlement := r.judge(g.config, a, result, now)
	settlement.Attempt = result.record(began, now)
	r.in.store.Settle(a.lease, settlement)
	if !a.isLost() { // else another one says what became of the message
		r.announce(a, settlement, now)
	}
	if expire := r.ended(g, a, result, true); expire {
		r.expire(g.config, result.String())
	}
}

// deliver calls the delivery with the message's body. It returns false where nothing can be said of
// the message or its service.
func (r *route) deliver(
	ctx context.Context,
	g *registration,
	a *attempt,
) (result Result, settled bool) {
	msg := a.msg
	body, err := r.in.openBody(ctx, g.config.Encrypt, msg)
	switch {
	case errors.Is(err, ErrNotFound): // dropped meanwhile
		return Result{Err: err}, false
	case errors.Is(err, ErrUndecryptable): // until its key is configured again, and it is replayed
		return Result{Err: err}, true
	case err != nil:
		r.in.problem(fmt.Errorf("message %s: %w", msg.ID, err))
		return Result{Err: fmt.Errorf("%w: %w", errBody, err)}, true
	}
	result = call(ctx, g.config.Deliver, msg, body)
	if err := body.Close(); err != nil {
		r.in.problem(fmt.Errorf("message %s: %w", msg.ID, err))
	}
	if result.Err == nil || ctx.Err() == nil {
		return result, true
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if a.cut {
		return Result{Err: errNoAnswer, Upstream: result.Upstream}, true
	}
	return result, g.ctx.Err() == nil && !a.isLost()
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

// record is what is kept of an attempt.
func (r Result) record(began, ended time.Time) Attempt {
	a := Attempt{At: began, Took: ended.Sub(began), Status: r.Status, Upstream: r.Upstream}
	if r.Outcome() != OutcomeDelivered {
		a.Error = ClipError(r.String())
	}
	return a
}

// judge decides what becomes of a message after an attempt. What is said of times is in the time of
// the store, which gave the lease.
func (r *route) judge(config RouteConfig, a *attempt, result Result, now time.Time) Settlement {
	msg, outcome := a.msg, result.Outcome()
	left := msg.ScheduledFrom.Add(config.RetryFor).Sub(a.lease.At) - now.Sub(a.began)
	switch {
	case outcome == OutcomeDelivered:
		return Settlement{Verdict: Done, Keep: config.Keep > 0}
	case outcome == OutcomeGone,
		outcome == OutcomeUndeliverable,
		errors.Is(result.Err, ErrDamaged),
		left <= 0:
		return Settlement{Verdict: Bury}
	}
	delay := config.delay(msg.Tries + 1)
	if outcome == OutcomeUnavailable && r.isDown() {
		delay = min(delay, maxDelayWhileDown)
	}
	// What would come after the time is over is tried one last time then.
	return Settlement{Verdict: Retry, Delay: min(max(delay, result.RetryAfter), left)}
}

func (r *route) isDown() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.health.Status().Down
}

// announce tells the hooks of the end of a message.
func (r *route) announce(a *attempt, settlement Settlement, now time.Time) {
	hooks := r.in.hooks
	switch settlement.Verdict {
	case Done:
		if hooks.Delivered != nil {
			hooks.Delivered(a.msg)
		}
	case Bury:
		if hooks.Died != nil {
			dead := *a.msg
			dead.AddAttempt(settlement.Attempt)
			dead.State, dead.DiedAt, dead.NextAttemptAt = Dead, now, time.Time{}
			hooks.Died(&dead)
		}
	}
}

// ended takes note of the end of an attempt. It reports whether it is time to look for messages
// whose time is over: a failed attempt while the service is down stands for one of all that wait.
func (r *route) ended(g *registration, a *attempt, result Result, settled bool) (expire bool) {
	r.mu.Lock()
	delete(r.attempts, a)
	h := r.health
	now := time.Now()
	outcome := result.Outcome()
	switch {
	case a.cut:
		r.untriedUntil = later(
			r.untriedUntil,
			now.Add(untriedTimeSilent/time.Duration(g.config.mayHang())),
		)
	case outcome == OutcomeUnavailable, outcome == OutcomeRejected && a.msg.Tries > 0:
		r.untriedUntil = later(r.untriedUntil, now.Add(untriedTime))
	}
	switch {
	case !settled:
		if h.Restrained() {
			h.Postpone(now.Add(leaseRetry))
		}
	case errors.Is(result.Err, ErrDamaged),
		errors.Is(result.Err, errBody),
		outcome == OutcomeUndeliverable:
		// The service has no part in it.
	case outcome == OutcomeUnavailable:
		if !a.hung { // else it was noted before
			r.noteFailure(g.config, a, result, a.cut, now)
		}
		if h.Status().Down && !now.Before(r.expireAt) {
			expire, r.expireAt = true, now.Add(expirePause)
		}
	default:
		h.Answered(g.config.health(), health.Answer[Destination]{
			Destination: a.msg.Destination, Took: now.Sub(a.began), Newest: a.newest,
		}, now)
	}
	r.mu.Unlock()

	r.signal()
	r.tellDown()
	return expire
}

// noteFailure notes that an attempt found the service unavailable; silent says that it was by giving
// no answer. r.mu is held.
func (r *route) noteFailure(
	config RouteConfig, a *attempt, result Result, silent bool, now time.Time,
) {
	r.health.Failed(config.health(), health.Failure[Destination]{
		Message: a.msg.ID, Destination: a.msg.Destination, Error: ClipError(result.String()),
		Unreachable: result.Unreachable, Silent: silent, Probe: a.kind == probing,
	}, now)
}

// probeNow does not wait for the time at which what is left out may be tried.
func (r *route) probeNow() {
	r.mu.Lock()
	r.health.LookNow(time.Now())
	r.mu.Unlock()
	r.signal()
}

// expire buries what has waited for too long behind a service that is down.
func (r *route) expire(config RouteConfig, cause string) {
	for {
		expired, err := r.in.store.Expire(r.in.ctx, r.name, config.RetryFor, cause, bulk)
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

// Turns: which attempts are made now.

package spool

import (
	"fmt"
	"time"

	"github.com/caddy-deepgram/deepgram-callback/relay/spool/health"
)

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
	g.busy.Add(1) // while we are at it
	r.noteHung(g.config, now)
	r.mu.Unlock()
	defer g.busy.Done()

	for _, turn := range []func(*registration, time.Time) (time.Time, error){r.deliverOrdinary, r.explore, r.probe} {
		again, err := turn(g, now)
		if err != nil {
			r.in.problem(fmt.Errorf("route %s: %w", r.name, err))
			return now.Add(leaseRetry), true
		}
		next = Earlier(next, again)
	}
	r.mu.Lock()
	next = Earlier(next, r.noteHung(g.config, now)) // which has to look at what was started, too
	r.mu.Unlock()
	r.tellDown()
	return next, true
}

// tellDown says that the service is down, or up again, where that is news. It is called without r.mu.
func (r *route) tellDown() {
	r.told.Tell(r.status, func(was, is health.Status) {
		if was.Down != is.Down && r.in.hooks.Down != nil {
			r.in.hooks.Down(r.name, is.Down, is.LastError)
		}
	})
}

func (r *route) status() health.Status {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.health.Status()
}

// noteHung counts attempts that have had no answer for long as failed, though they go on. It
// returns when one has to be looked at next. r.mu is held.
func (r *route) noteHung(config RouteConfig, now time.Time) (next time.Time) {
	for a := range r.attempts {
		if hungAt := a.began.Add(min(hungAfter, a.patience)); a.hung {
		} else if hungAt.After(now) {
			next = Earlier(next, hungAt)
		} else {
			a.hung = true
			r.noteFailure(config, a, Result{Err: errNoAnswer}, true, now)
		}
		if overdue := a.began.Add(a.patience); !a.cut && overdue.After(now) && len(r.attempts) >= config.Concurrency {
			next = Earlier(next, overdue)
		}
	}
	return next
}

// room is how many deliveries may be started, and how many of them only by giving up one that
// hangs. r.mu is held.
func (r *route) room(config RouteConfig, now time.Time) (free, cuts int) {
	hung := 0
	for a := range r.attempts {
		if a.cut {
			continue
		}
		if a.hung {
			hung++
		}
		if !a.began.Add(a.patience).After(now) {
			cuts++
		}
		free--
	}
	return free + config.Concurrency, min(cuts, max(hung-config.Concurrency/hungShare, 0))
}

// giveUp ends the attempt that is the longest overdue, and returns it. r.mu is held.
func (r *route) giveUp(now time.Time) *attempt {
	var worst *attempt
	for a := range r.attempts {
		if !a.cut && (worst == nil || a.began.Add(a.patience).Before(worst.began.Add(worst.patience))) {
			worst = a
		}
	}
	if worst == nil || worst.began.Add(worst.patience).After(now) {
		return nil
	}
	worst.cut = true
	worst.cancel()
	return worst
}

// deliverOrdinary starts what goes to where nothing is wrong.
func (r *route) deliverOrdinary(g *registration, now time.Time) (next time.Time, err error) {
	r.mu.Lock()
	h := r.health
	free, cuts := r.room(g.config, now)
	answering := 0
	for a := range r.attempts {
		if !a.hung {
			answering++
		}
	}
	want := min(h.Limit()-answering, free+cuts)
	if h.Suspect() || want <= 0 {
		r.mu.Unlock()
		return time.Time{}, nil
	}
	paced, at := r.pace.allow(g.config.Interval, now)
	if paced <= 0 {
		r.mu.Unlock()
		return at, nil
	}
	sick, _ := h.Sick()
	request := LeaseRequest{Route: r.name, Max: min(want, paced), Avoid: sick}
	// By turns, so that neither the new nor the old ones wait for all of the others. But after
	// a failure the new ones have some time of their own.
	request.Tried = r.triedFirst && !now.Before(r.untriedUntil)
	r.triedFirst = !r.triedFirst
	r.mu.Unlock()

	for range 2 {
		leased, err := r.in.store.Lease(r.in.ctx, request)
		if err != nil {
			return time.Time{}, err
		}
		next = Earlier(next, leased.nextAt(now))
		r.start(g, leased.Leases, attempt{kind: ordinary}, now)
		request.Max -= len(leased.Leases)
		if request.Max == 0 {
			next = Earlier(next, r.nextPaced(g.config, now))
			break
		}
		request.Tried = !request.Tried
	}
	return next, nil
}

// explore starts one that was never tried and that ordinary deliveries leave out.
func (r *route) explore(g *registration, now time.Time) (next time.Time, err error) {
	r.mu.Lock()
	h := r.health
	free, cuts := r.room(g.config, now)
	allowed, at := h.MayExplore(now)
	switch {
	case !h.Restrained() || free+cuts <= 0:
		r.mu.Unlock()
		return time.Time{}, nil
	case !allowed:
		r.mu.Unlock()
		return at, nil
	}
	if paced, at := r.pace.allow(g.config.Interval, now); paced <= 0 {
		r.mu.Unlock()
		return at, nil
	}
	searches := r.searches(false)
	h.Searching(now)
	r.mu.Unlock()

	leased, found, err := r.search(searches)
	if err != nil {
		return time.Time{}, err
	}
	r.mu.Lock()
	onlySick := found > 0 && found == len(searches)-1
	h.Searched(onlySick || len(leased) == 0, now)
	if len(leased) > 0 {
		next = h.Explored(now)
	}
	r.mu.Unlock()
	r.start(g, leased, attempt{kind: exploring, newest: searches[0].Newest}, now)
	return next, nil
}

// probe starts one that has failed before and that ordinary deliveries leave out.
func (r *route) probe(g *registration, now time.Time) (next time.Time, err error) {
	r.mu.Lock()
	h := r.health
	free, cuts := r.room(g.config, now)
	probes := 0
	for a := range r.attempts {
		if a.kind == probing && !a.cut {
			probes++
		}
	}
	allowed, at := h.MayProbe(now)
	switch {
	case !h.Restrained() || free+cuts <= 0 || probes >= g.config.mayHang():
		r.mu.Unlock()
		return time.Time{}, nil
	case !allowed:
		r.mu.Unlock()
		return at, nil
	}
	if paced, at := r.pace.allow(g.config.Interval, now); paced <= 0 {
		r.mu.Unlock()
		return at, nil
	}
	searches := r.searches(true)
	r.mu.Unlock()

	for _, request := range searches {
		leased, err := r.in.store.Lease(r.in.ctx, request)
		if err != nil {
			return time.Time{}, err
		}
		next = leased.nextAt(now)
		if len(leased.Leases) == 0 {
			continue
		}
		r.mu.Lock()
		next = h.Probed(g.config.health(), now)
		r.mu.Unlock()
		r.start(g, leased.Leases, attempt{kind: probing}, now)
		break
	}
	return next, nil
}

// searches are the requests for one message, in turn until one finds any: of other hosts than
// those that are sick, of other destinations, of all. r.mu is held.
func (r *route) searches(tried bool) []LeaseRequest {
	request := LeaseRequest{Route: r.name, Max: 1, Tried: tried, Newest: r.health.Newest() && !tried}
	sick, sickPaths := r.health.Sick()
	var searches []LeaseRequest
	for _, avoid := range []Destinations{sick, sickPaths} {
		if len(avoid) > 0 {
			request.Avoid = avoid
			searches = append(searches, request)
		}
	}
	request.Avoid = nil
	return append(searches, request)
}

// search makes the requests until one finds a message, and returns which.
func (r *route) search(searches []LeaseRequest) (leased []*Lease, found int, err error) {
	for found, request := range searches {
		leased, err := r.in.store.Lease(r.in.ctx, request)
		if err != nil || len(leased.Leases) > 0 {
			return leased.Leases, found, err
		}
	}
	return nil, 0, nil
}

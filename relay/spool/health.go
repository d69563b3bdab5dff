// What is known of a route's service, and what may be tried because of it.

package spool

import "time"

const (
	// downAfter is how many different messages in a row must find something unavailable.
	downAfter = 3

	// downAnyway is how many do it without a look at what else waits.
	downAnyway = 30

	// firstDeliveries is how many deliveries run at a time until the first answer.
	firstDeliveries = 4

	// A message that was never tried may be tried at once, and then another one after
	// exploreSpacing: so many in a row as exploreBurst, after which there are exploreRate a second.
	exploreSpacing = 33 * time.Millisecond
	exploreBurst   = 450
	exploreRate    = 2

	// Where there is not even a connection, which hardly is a message's own fault, there are fewer:
	// 30 in a row, after which there is one a second.
	unreachableCost = 15
	unreachableRate = 15

	// maxProbePause is the longest pause between messages that have failed before. It follows
	// RetryDelays.
	maxProbePause = 2 * time.Second

	// silentProbePause is that between two of them where there was no answer, if it is one at a time.
	silentProbePause = time.Minute

	// silenceKept is how long it is remembered that there are no answers, unless there is a slow one.
	silenceKept = 2 * time.Minute

	// maxDelayWhileDown bounds the pause of a single message while the service is down, so that all
	// is delivered soon when it is up.
	maxDelayWhileDown = time.Minute

	// maxSick bounds how many destinations are remembered.
	maxSick = 1024
)

// health is what the attempts of a route have shown of its service. What it is for: whatever some
// messages do, one whose service would take it is delivered soon; and a service that is down is not
// hammered.
//
// Which message a service would take cannot be known without trying it. So what decides is
// how attempts are spread.
//
//   - A destination (host and path) or a host is sick when three different messages in a row found
//     it unavailable. Ordinary deliveries, as many at a time as the route's concurrency, leave out
//     what goes there, so the trouble of one is not that of another.
//   - A route is suspect when three different messages in a row, of whatever destination, found it
//     unavailable, but for destinations that are known to be sick. Then there are no ordinary
//     deliveries.
//   - What is left out is tried nevertheless, in two ways. Messages that were never tried are
//     explored: 30 a second, 450 in a row, then two a second. Those that go to where nothing has
//     failed come first; of the others the newest and the oldest by turns, since there is no
//     telling which of them is good, and the newest is the one that is in time. Messages that have
//     failed before are probed, with pauses of one to two seconds, again the ones for other
//     destinations first.
//   - The route is down when it is suspect and nothing waits that goes anywhere else. This is what
//     operators are told; for the schedule it makes no difference.
//   - With an answer of the service its destination, and the route, are well again on probation:
//     ordinary deliveries go on (where the route was down one at a time at first, and one more
//     with each answer), and so many answers as there were failures make it forgotten, but the
//     next failure makes it sick again.
//
// So each of 300 bad messages has been tried within ten seconds, whatever their URIs, and with them
// the good one, wherever it is. One that comes later is newer than all of them, so it is the next.
// A service that answers 503 to everything sees each new message once, but no more than 480 in 15
// seconds and two a second after that, and one old message every two seconds. Where nothing can be
// connected to, there is a try every second or two.
//
// Attempts that get no answer are another matter, since they hold one of the route's deliveries;
// see patienceFor.
type health struct {
	limit int // ordinary deliveries at a time, at present

	streak      int // different messages in a row that found it unavailable
	last        ID  // of them
	lastError   string
	unreachable bool // the last one found no connection
	down        bool
	downSince   time.Time
	silentUntil time.Time // before this, it is known that there are no answers, wherever

	sick  map[Destination]*illness // of destinations and hosts
	avoid Destinations             // those that are sick; replaced, not changed
	paths Destinations             // those that are, but for hosts

	tokens    float64 // explorations in a row that are left
	tokensAt  time.Time
	exploreAt time.Time
	newest    bool // whether the next one is of the newest message
	probeAt   time.Time
	probes    int // failed attempts in a row of whatever kind since the streak has made it suspect
	expireAt  time.Time
}

// illness is what is known of a destination or a host that was unavailable.
type illness struct {
	failures int // different messages in a row, no more than downAfter of which count
	last     ID
	silent   bool // it became sick by giving no answer
}

func newHealth(now time.Time) health {
	return health{
		limit:    firstDeliveries,
		tokens:   exploreBurst,
		tokensAt: now,
		newest:   true,
		sick:     make(map[Destination]*illness),
	}
}

// suspect reports whether nothing is delivered but to find out what can be.
func (h *health) suspect() bool { return h.streak >= downAfter }

// restrained reports whether something waits that ordinary deliveries leave out.
func (h *health) restrained() bool { return h.suspect() || len(h.avoid) > 0 }

// answered notes an answer of the service to an attempt, and how long it took.
func (h *health) answered(config RouteConfig, a *attempt, took time.Duration, now time.Time) {
	h.limit = min(h.limit+1, config.Concurrency)
	if h.down {
		h.limit = 1
	}
	slow := took > explorePatience/2
	h.heal(a.msg.Destination, slow)
	h.heal(a.msg.Destination.Host(), slow)
	h.streak = max(min(h.streak, downAfter)-1, 0)
	if slow { // so it is slow rather than silent
		h.silentUntil = time.Time{}
	}
	h.down, h.probes, h.lastError, h.unreachable = false, 0, "", false
	h.newest = h.newest || a.newest // the end where good ones are
	h.lookNow(now)
}

// wentDown notes that the route is down.
func (h *health) wentDown(now time.Time) {
	if !h.down {
		h.down, h.downSince = true, now
	}
}

// lookNow lets what is left out be tried without waiting for its time.
func (h *health) lookNow(now time.Time) {
	h.tokens, h.tokensAt = exploreBurst, now
	h.exploreAt, h.probeAt = time.Time{}, time.Time{}
}

// failed notes that an attempt found the service unavailable; silent says that it was by giving no
// answer.
func (h *health) failed(config RouteConfig, a *attempt, result Result, silent bool, now time.Time) {
	msg := a.msg
	h.lastError = ClipError(result.String())
	h.unreachable = result.Unreachable
	if !h.avoid.Has(msg.Destination) && (h.streak == 0 || h.last != msg.ID) {
		h.streak++
	}
	h.last = msg.ID
	if silent && h.suspect() {
		h.silentUntil = now.Add(silenceKept)
	}
	h.sicken(msg.Destination, msg.ID, silent)
	h.sicken(msg.Destination.Host(), msg.ID, silent)
	if !h.restrained() {
		return
	}
	h.probes++
	pause := h.probePause(config)
	if silent { // one takes long, and holds what others could be tried with
		pause = silentProbePause / time.Duration(max(config.Concurrency/hungShare, 1))
	}
	if a.kind == probing || h.probeAt.IsZero() {
		h.probeAt = now.Add(pause)
	}
}

// probePause is the time between messages that have failed before.
func (h *health) probePause(config RouteConfig) time.Duration {
	return min(config.delay(h.probes), maxProbePause)
}

// Earlier returns the earlier of two times, of which a zero one is none.
func Earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// later returns the later of two times.
func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// sicken notes a failure of a destination or a host.
func (h *health) sicken(d Destination, id ID, silent bool) {
	ill := h.sick[d]
	if ill == nil {
		h.forgetOne()
		ill = &illness{}
		h.sick[d] = ill
	}
	if ill.failures > 0 && ill.last == id {
		return
	}
	ill.failures++
	ill.last = id
	if ill.failures == downAfter {
		ill.silent = ill.silent || silent
		h.list()
	}
}

// forgetOne makes room for another illness. Which one gives way makes no difference: it will be
// noted again.
func (h *health) forgetOne() {
	if len(h.sick) < maxSick {
		return
	}
	for d, ill := range h.sick {
		delete(h.sick, d)
		if ill.failures >= downAfter {
			h.list()
		}
		return
	}
}

// heal notes an answer of a destination or a host.
func (h *health) heal(d Destination, slow bool) {
	ill := h.sick[d]
	if ill == nil {
		return
	}
	ill.silent = ill.silent && !slow
	wasSick := ill.failures >= downAfter
	if ill.failures = min(ill.failures, downAfter) - 1; ill.failures == 0 {
		delete(h.sick, d)
	}
	if wasSick {
		h.list()
	}
}

// isSilent reports whether it is known that there were no answers where a message goes.
func (h *health) isSilent(d Destination, now time.Time) bool {
	if now.Before(h.silentUntil) {
		return true
	}
	for _, place := range [...]Destination{d, d.Host()} {
		if ill := h.sick[place]; ill != nil && ill.silent {
			return true
		}
	}
	return false
}

// list makes anew what is to be avoided.
func (h *health) list() {
	h.avoid, h.paths = nil, nil
	for d, ill := range h.sick {
		if ill.failures < downAfter {
			continue
		}
		if h.avoid == nil {
			h.avoid, h.paths = make(Destinations), make(Destinations)
		}
		h.avoid[d] = struct{}{}
		if d != d.Host() {
			h.paths[d] = struct{}{}
		}
	}
}

// mayExplore reports whether a message that was never tried may be tried now, and if not, when.
func (h *health) mayExplore(now time.Time) (ok bool, at time.Time) {
	cost, rate := h.price()
	h.tokens = min(exploreBurst, h.tokens+rate*now.Sub(h.tokensAt).Seconds())
	h.tokensAt = now
	at = h.exploreAt
	if h.tokens < cost {
		at = later(at, now.Add(time.Duration((cost-h.tokens)/rate*float64(time.Second))))
	}
	return !at.After(now), at
}

// price is what an exploration takes of the tokens, and how many there are in a second.
func (h *health) price() (cost, rate float64) {
	if h.unreachable {
		return unreachableCost, unreachableRate
	}
	return 1, exploreRate
}

// explored notes that one is.
func (h *health) explored(now time.Time) {
	cost, _ := h.price()
	h.tokens -= cost
	h.newest = !h.newest
	h.exploreAt = now.Add(exploreSpacing)
}

// Package health is what the attempts to deliver show of a service, and what may be tried because of it:
// the schedule of a route, without the messages, the store and the goroutines that carry it out.
package health

import "time"

// ExplorePatience is how long a first attempt may take where others got no answer.
const ExplorePatience = 1500 * time.Millisecond

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

	// maxSick bounds how many destinations are remembered.
	maxSick = 1024
)

// Place is a destination: where a message goes, at a host. A host is a destination too, and its own
// host.
type Place[D any] interface {
	comparable
	Host() D
}

// Health is what the attempts of a route have shown of its service. What it is for: whatever some
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
// Attempts that get no answer are another matter, since they hold one of the route's deliveries. Who
// makes attempts gives them up; here it is remembered where there were no answers.
//
// It is not safe for concurrent use.
type Health[D Place[D]] struct {
	limit int // ordinary deliveries at a time, at present

	streak      int      // different messages in a row that found it unavailable
	last        [16]byte // of them
	lastError   string
	unreachable bool // the last one found no connection
	down        bool
	downSince   time.Time
	silentUntil time.Time // before this, it is known that there are no answers, wherever

	sick  map[D]*illness // of destinations and hosts
	avoid map[D]struct{} // those that are sick; replaced, not changed
	paths map[D]struct{} // those that are, but for hosts

	tokens    float64 // explorations in a row that are left
	tokensAt  time.Time
	exploreAt time.Time
	newest    bool // whether the next one is of the newest message
	probeAt   time.Time
	probes    int // failed attempts in a row of whatever kind since the streak has made it suspect
}

// illness is what is known of a destination or a host that was unavailable.
type illness struct {
	failures int // different messages in a row, no more than downAfter of which count
	last     [16]byte
	silent   bool // it became sick by giving no answer
}

// New knows nothing yet.
func New[D Place[D]](now time.Time) *Health[D] {
	return &Health[D]{
		limit:    firstDeliveries,
		tokens:   exploreBurst,
		tokensAt: now,
		newest:   true,
		sick:     make(map[D]*illness),
	}
}

// Config is what of a route's configuration has a part in it.
type Config struct {
	// Concurrency is how many deliveries run at a time, Silent how many of them may be held by
	// messages that get no answer; at least one.
	Concurrency, Silent int

	// Delay returns the pause of a message after so many failures in a row.
	Delay func(failures int) time.Duration
}

// Limit is how many ordinary deliveries may run at a time at present.
func (h *Health[D]) Limit() int { return h.limit }

// Suspect reports whether nothing is delivered but to find out what can be.
func (h *Health[D]) Suspect() bool { return h.streak >= downAfter }

// Restrained reports whether something waits that ordinary deliveries leave out.
func (h *Health[D]) Restrained() bool { return h.Suspect() || len(h.avoid) > 0 }

// Sick returns the destinations and hosts that ordinary deliveries leave out, and those of them that
// are not hosts. They are not to be changed.
func (h *Health[D]) Sick() (all, paths map[D]struct{}) { return h.avoid, h.paths }

// Newest says from which end the next message to be explored is taken.
func (h *Health[D]) Newest() bool { return h.newest }

// Status is what operators are told.
type Status struct {
	// Down says that the route is down, Since since when.
	Down  bool
	Since time.Time

	// Explore and Probe are when messages of either kind may be tried next.
	Explore, Probe time.Time

	// LastError is what was wrong last, empty where nothing is.
	LastError string
}

// Status returns what operators are told.
func (h *Health[D]) Status() Status {
	return Status{h.down, h.downSince, h.exploreAt, h.probeAt, h.lastError}
}

// Answer is an answer of the service to an attempt.
type Answer[D Place[D]] struct {
	Destination D
	Took        time.Duration

	// Newest says that the message was looked for from the newest end.
	Newest bool
}

// Answered notes an answer.
func (h *Health[D]) Answered(config Config, a Answer[D], now time.Time) {
	h.limit = min(h.limit+1, config.Concurrency)
	if h.down {
		h.limit = 1
	}
	slow := a.Took > ExplorePatience/2
	h.heal(a.Destination, slow)
	h.heal(a.Destination.Host(), slow)
	h.streak = max(min(h.streak, downAfter)-1, 0)
	if slow { // so it is slow rather than silent
		h.silentUntil = time.Time{}
	}
	h.down, h.probes, h.lastError, h.unreachable = false, 0, "", false
	h.newest = h.newest || a.Newest // the end where good ones are
	h.LookNow(now)
}

// LookNow lets what is left out be tried without waiting for its time.
func (h *Health[D]) LookNow(now time.Time) {
	h.tokens, h.tokensAt = exploreBurst, now
	h.exploreAt, h.probeAt = time.Time{}, time.Time{}
}

// Failure is an attempt that found the service unavailable.
type Failure[D Place[D]] struct {
	// Message is the id of the message.
	Message     [16]byte
	Destination D

	// Error says what was wrong, Unreachable that there was not even a connection, Silent that there
	// was no answer.
	Error       string
	Unreachable bool
	Silent      bool

	// Probe says that the message was tried because its time to be probed had come.
	Probe bool
}

// Failed notes a failure.
func (h *Health[D]) Failed(config Config, f Failure[D], now time.Time) {
	h.lastError = f.Error
	h.unreachable = f.Unreachable
	if !h.avoids(f.Destination) && (h.streak == 0 || h.last != f.Message) {
		h.streak++
	}
	h.last = f.Message
	if f.Silent && h.Suspect() {
		h.silentUntil = now.Add(silenceKept)
	}
	h.sicken(f.Destination, f)
	h.sicken(f.Destination.Host(), f)
	if !h.Restrained() {
		return
	}
	h.probes++
	pause := h.probePause(config)
	if f.Silent { // one takes long, and holds what others could be tried with
		pause = silentProbePause / time.Duration(config.Silent)
	}
	if f.Probe || h.probeAt.IsZero() {
		h.probeAt = now.Add(pause)
	}
}

// avoids reports whether a destination or its host is sick.
func (h *Health[D]) avoids(d D) bool {
	_, path := h.avoid[d]
	_, host := h.avoid[d.Host()]
	return path || host
}

// probePause is the time between messages that have failed before.
func (h *Health[D]) probePause(config Config) time.Duration {
	return min(config.Delay(h.probes), maxProbePause)
}

// sicken notes a failure of a destination or a host.
func (h *Health[D]) sicken(d D, f Failure[D]) {
	ill := h.sick[d]
	if ill == nil {
		h.forgetOne()
		ill = &illness{}
		h.sick[d] = ill
	}
	if ill.failures > 0 && ill.last == f.Message {
		return
	}
	ill.failures++
	ill.last = f.Message
	if ill.failures == downAfter {
		ill.silent = ill.silent || f.Silent
		h.list()
	}
}

// forgetOne makes room for another illness. Which one gives way makes no difference: it will be
// noted again.
func (h *Health[D]) forgetOne() {
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
func (h *Health[D]) heal(d D, slow bool) {
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

// Silent reports whether it is known that there were no answers where a message goes.
func (h *Health[D]) Silent(d D, now time.Time) bool {
	if now.Before(h.silentUntil) {
		return true
	}
	for _, place := range [...]D{d, d.Host()} {
		if ill := h.sick[place]; ill != nil && ill.silent {
			return true
		}
	}
	return false
}

// list makes anew what is to be avoided.
func (h *Health[D]) list() {
	h.avoid, h.paths = nil, nil
	for d, ill := range h.sick {
		if ill.failures < downAfter {
			continue
		}
		if h.avoid == nil {
			h.avoid, h.paths = make(map[D]struct{}), make(map[D]struct{})
		}
		h.avoid[d] = struct{}{}
		if d != d.Host() {
			h.paths[d] = struct{}{}
		}
	}
}

// MayExplore reports whether a message that was never tried may be tried now, and if not, when.
func (h *Health[D]) MayExplore(now time.Time) (ok bool, at time.Time) {
	cost, rate := h.price()
	h.tokens = min(exploreBurst, h.tokens+rate*now.Sub(h.tokensAt).Seconds())
	h.tokensAt = now
	at = h.exploreAt
	if h.tokens < cost {
		earned := now.Add(time.Duration((cost - h.tokens) / rate * float64(time.Second)))
		if earned.After(at) {
			at = earned
		}
	}
	return !at.After(now), at
}

// price is what an exploration takes of the tokens, and how many there are in a second.
func (h *Health[D]) price() (cost, rate float64) {
	if h.unreachable {
		return unreachableCost, unreachableRate
	}
	return 1, exploreRate
}

// Searching notes that a message to be explored is looked for, which is not done all the time though
// none be found.
func (h *Health[D]) Searching(now time.Time) { h.exploreAt = now.Add(exploreSpacing) }

// Searched notes what that has come to: whether nothing waits that goes anywhere else than to what is
// sick. A service that is suspect is down then; with enough failures in a row it is in any case.
func (h *Health[D]) Searched(nothingElse bool, now time.Time) {
	if h.Suspect() && (nothingElse || h.streak >= downAnyway) && !h.down {
		h.down, h.downSince = true, now
	}
}

// Explored notes that a message is explored, and returns when the next one may be.
func (h *Health[D]) Explored(now time.Time) (next time.Time) {
	cost, _ := h.price()
	h.tokens -= cost
	h.newest = !h.newest
	h.exploreAt = now.Add(exploreSpacing)
	return h.exploreAt
}

// MayProbe reports whether a message that has failed before may be tried now, and if not, when.
func (h *Health[D]) MayProbe(now time.Time) (ok bool, at time.Time) {
	return !h.probeAt.After(now), h.probeAt
}

// Probed notes that one is, and returns when the next one may be.
func (h *Health[D]) Probed(config Config, now time.Time) (next time.Time) {
	h.probeAt = now.Add(h.probePause(config))
	return h.probeAt
}

// Postpone has nothing that is left out be tried before a time.
func (h *Health[D]) Postpone(until time.Time) {
	if h.probeAt.Before(until) {
		h.probeAt = until
	}
	if h.exploreAt.Before(until) {
		h.exploreAt = until
	}
}

// The pace of deliveries, where a service can bear only so many.

package spool

import "time"

// paceSlack is how long deliveries may come late and be made up for: timers are no more exact.
const paceSlack = 10 * time.Millisecond

// pace keeps the beginnings of deliveries apart.
type pace struct {
	next time.Time // when the next delivery may begin
}

// allow says how many deliveries may begin now, and if none, when the next one may. An interval of
// zero allows any number.
func (p *pace) allow(interval time.Duration, now time.Time) (n int, at time.Time) {
	switch {
	case interval <= 0:
		return maxPaced, time.Time{}
	case now.Before(p.next):
		return 0, p.next
	}
	late := min(now.Sub(p.next), paceSlack)
	return int(late/interval) + 1, time.Time{}
}

// maxPaced stands for any number.
const maxPaced = 1 << 30

// take notes that a delivery begins.
func (p *pace) take(interval time.Duration, now time.Time) {
	if interval > 0 {
		p.next = later(p.next, now.Add(-paceSlack)).Add(interval)
	}
}

// nextPaced is when another delivery may begin, where there is a pace to keep.
func (r *route) nextPaced(config RouteConfig, now time.Time) time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	if config.Interval <= 0 {
		return time.Time{}
	}
	return later(r.pace.next, now)
}

// nextAt is when it is worth to ask for a lease again, or zero.
func (l Leased) nextAt(now time.Time) time.Time {
	if l.Next < 0 {
		return time.Time{}
	}
	return now.Add(l.Next)
}

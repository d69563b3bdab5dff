// The keepalive: pings, and the end of a peer that fell silent.

package stream

import (
	"errors"
	"os"
	"time"
)

// retryPing is how soon a ping is tried again that could not be sent, because
// something else was being written.
const retryPing = 100 * time.Millisecond

var errSilent = errors.New("nothing came, and no answer to a ping")

// keepalive runs, by the pair's timer, whenever a leg may have to be pinged or to be given up. A
// leg that says anything at all is alive. A leg that the gateway does not read from, because the
// other leg takes nothing, is not silent.
func (p *Pair) keepalive() {
	defer p.guard()
	p.mu.Lock()
	lost := p.lost
	p.mu.Unlock()
	if lost != nil && time.Since(p.started)-lost.since >= settle {
		p.dropped(lost.leg, p.other(lost.leg), lost.err)
		return
	}

	next := min(p.attend(&p.caller, &p.backend), p.attend(&p.backend, &p.caller))
	next = min(next, p.pingInterval()) // a leg that speaks now may fall silent right after
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.lost != nil {
		next = min(next, settle)
	}
	if p.end == nil {
		p.timer.Reset(max(next, time.Millisecond))
	}
}

// pingInterval is the shorter one of the intervals of the two legs.
func (p *Pair) pingInterval() time.Duration {
	return min(p.caller.pingInterval, p.backend.pingInterval)
}

// attend pings l if it has been quiet for long, ends the pair if l did not answer
// an earlier ping, and returns how long to wait before looking again.
func (p *Pair) attend(l, other *leg) time.Duration {
	now := time.Since(p.started)
	lastRead := time.Duration(l.lastRead.Load())
	readingSince := time.Duration(l.readingSince.Load())
	if readingSince < 0 {
		return l.pongTimeout
	}

	// Bytes that came at the very instant of the ping count as an answer, since
	// clocks can be coarse.
	if l.pingedAt == 0 || lastRead >= l.pingedAt {
		l.pingedAt = 0
		if quiet := now - max(lastRead, readingSince); quiet < l.pingInterval {
			return l.pingInterval - quiet
		}
		sent, err := l.sendPing()
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			p.stalled(l, other, err)
		case err != nil:
			p.lose(l, err)
		case !sent:
			return retryPing
		default:
			l.pingedAt = now
		}
		return l.pongTimeout
	}

	if waited := now - max(l.pingedAt, readingSince); waited < l.pongTimeout {
		return l.pongTimeout - waited
	}
	p.failed(l, other, End{
		Reason: EndSilent,
		Code:   CloseGoingAway,
		Text:   l.name + " silent",
		Err:    errSilent,
	}, 0, "")
	return l.pongTimeout
}

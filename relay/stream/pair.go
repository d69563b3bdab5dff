// Package stream joins the two WebSocket connections of one live stream, the
// caller's and the backend's, into a pair that lives and dies together.
//
// It begins where both handshakes are done. Frames are checked against RFC
// 6455 and forwarded as they came, without unmasking or reassembling them.
// Nothing is buffered beyond what one read returned, so a slow side slows the
// other, and an idle pair holds no buffer at all. It knows nothing of Caddy or
// of HTTP.
//
//	pair.go       a pair and how it ends: read this first
//	panic.go      how it ends where the gateway's own code fails
//	direction.go  the loop that moves frames one way
//	leg.go        the write side of one connection
//	frame.go      the protocol's grammar: headers, rules, Close frames
//	gate.go       holding messages back until one carries the right credentials
//	keepalive.go  pings, and the end of a peer that fell silent
//	socket*.go    waiting for bytes without holding a buffer for them
//	tls_unix.go   the same for connections with TLS
package stream

import (
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// Options are the limits of a pair. All of them must be set; the zero value is
// of no use.
type Options struct {
	// MaxMessage is the most bytes that one message may have, over all of
	// its fragments. A larger one ends the pair with 1009.
	MaxMessage int64
	// AllowBinary lets binary messages through, which otherwise end the pair
	// with 1003.
	AllowBinary bool
	// PingInterval is how long a leg may say nothing before it is pinged.
	PingInterval time.Duration
	// PongTimeout is how long a pinged leg may go on saying nothing before
	// the pair ends.
	PongTimeout time.Duration
	// WriteTimeout is how long a leg may take to accept what is written to
	// it, at most a few tens of kilobytes at a time.
	WriteTimeout time.Duration
	// CloseTimeout is how long the closing handshake may take once a Close
	// frame has been sent.
	CloseTimeout time.Duration
}

// An Endpoint is one connection, after its handshake.
type Endpoint struct {
	// Conn must have no deadline set. The pair closes it.
	Conn net.Conn
	// Buffered is what was read from Conn beyond the handshake.
	Buffered []byte
	// Admit, if set, holds back the messages that come from this end until
	// one of them is admitted; see [Admit].
	Admit Admit
	// ReadTimeout is a limit of this end alone for how long it may say
	// nothing, not even the answer to a ping: it is pinged so early that one
	// that lives has answered by then. Zero is no limit beyond PingInterval
	// and PongTimeout, and so is what is longer than both.
	ReadTimeout time.Duration
	// WriteTimeout is a limit of this end alone beside that of the Options:
	// the shorter one holds. Zero is none.
	WriteTimeout time.Duration
}

// Admit judges a whole message, unmasked, and must not keep it. It says
// whether the sender is admitted now, or should be heard further; an error
// ends the pair with 1008. Until the sender is admitted nothing goes from one
// leg to the other, either way, and the gateway answers the pings of both.
type Admit func(message []byte) (admitted bool, err error)

// Why a pair ended, in [End.Reason].
const (
	EndClosed    = "closed"    // a Close frame came
	EndDropped   = "dropped"   // the connection ended without one
	EndSilent    = "silent"    // nothing came for PingInterval and PongTimeout
	EndStalled   = "stalled"   // a write was not taken within WriteTimeout
	EndViolation = "violation" // the protocol or a limit was broken
	EndRefused   = "refused"   // the messages did not carry the right credentials
	EndShutdown  = "shutdown"  // Shutdown was called
	EndFault     = "fault"     // the gateway's own code failed; see [Panic]
)

// Who ended it, in [End.By].
const (
	ByCaller  = "caller"
	ByBackend = "backend"
	ByGateway = "gateway"
)

// End tells how a pair ended: what happened first.
type End struct {
	// By is the side on which it ended: caller, backend or gateway.
	By string
	// Reason is one of the End constants.
	Reason string
	// Code is the code of the Close frame that came, or that the gateway
	// sent to the leg which did not cause the end. 1005 stands for a Close
	// frame without a code.
	Code int
	// Text is the reason that went with Code.
	Text string
	// Err is the error of the connection, where one was the cause.
	Err error
}

// Traffic counts what went one way.
type Traffic struct {
	Messages, Bytes int64
}

// A Pair is two legs and what flows between them.
type Pair struct {
	options Options
	started time.Time
	caller  leg
	backend leg

	fromCaller, fromBackend counter

	running atomic.Int32 // directions that have not returned
	done    chan struct{}
	onEnd   func(End)

	mu    sync.Mutex
	end   *End        // set once, by what happened first
	lost  *lostLeg    // set once, by a write that failed before any end was known
	timer *time.Timer // the keepalive; once the pair is ending, its deadline
}

type counter struct{ messages, bytes atomic.Int64 }

func (c *counter) read() Traffic { return Traffic{c.messages.Load(), c.bytes.Load()} }

// Start begins to relay between two connections, which are the pair's from
// now on, and returns at once. onEnd is called once, from a goroutine of the
// pair, when both connections are closed.
func Start(caller, backend Endpoint, options Options, onEnd func(End)) *Pair {
	p := &Pair{options: options, started: time.Now(), done: make(chan struct{}), onEnd: onEnd}
	p.caller.open(ByCaller, caller, options)
	p.backend.open(ByBackend, backend, options)
	p.backend.toServer = true

	fromCaller := newDirection(p, &p.caller, &p.backend, &p.fromCaller, caller)
	fromBackend := newDirection(p, &p.backend, &p.caller, &p.fromBackend, backend)
	p.mu.Lock()
	p.timer = time.AfterFunc(p.pingInterval(), p.keepalive)
	p.mu.Unlock()

	p.running.Store(2)
	go fromCaller.run()
	go fromBackend.run()
	return p
}

// Done is closed when both connections are.
func (p *Pair) Done() <-chan struct{} { return p.done }

// Started is when the pair began.
func (p *Pair) Started() time.Time { return p.started }

// FromCaller counts what the backend was given.
func (p *Pair) FromCaller() Traffic { return p.fromCaller.read() }

// FromBackend counts what the caller was given.
func (p *Pair) FromBackend() Traffic { return p.fromBackend.read() }

// settle is how long a leg is given to take a last frame, or to say what it
// still has to say, when the pair's end does not depend on it.
const settle = time.Second

// Shutdown ends the pair from the gateway's side with code and text and gives
// both legs the time of drain to finish. It returns at once; Done tells when
// they have. The caller is told first. What it sent before it answers still
// reaches the backend, which is told right after that answer, or after a second
// without one.
func (p *Pair) Shutdown(code int, text string, drain time.Duration) {
	defer p.guard()
	if !p.begin(End{By: ByGateway, Reason: EndShutdown, Code: code, Text: text}, drain) {
		return
	}
	payload := closePayload(code, text)
	tell := func(l *leg) {
		defer p.guard()
		l.sendClose(payload, drain)
		p.finishIfDone()
	}
	go tell(&p.caller)

	head := min(settle, drain/2)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.running.Load() == 0 || !p.timer.Stop() {
		return // over already
	}
	p.timer = time.AfterFunc(head, func() {
		p.endWithin(drain - head)
		tell(&p.backend)
	})
}

// begin records the end, if none was yet, and gives the pair no longer than
// limit from now. It reports whether this end is the first.
func (p *Pair) begin(end End, limit time.Duration) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.end != nil {
		return false
	}
	p.end = &end
	p.timer.Stop()
	p.timer = time.AfterFunc(limit, p.closeBoth)
	return true
}

// endWithin gives a pair that is ending no longer than limit from now.
func (p *Pair) endWithin(limit time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.running.Load() > 0 {
		p.timer = time.AfterFunc(limit, p.closeBoth)
	}
}

// shuttingDown returns what Shutdown tells both legs, if it was called first.
func (p *Pair) shuttingDown() (payload []byte, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.end == nil || p.end.Reason != EndShutdown {
		return nil, false
	}
	return closePayload(p.end.Code, p.end.Text), true
}

// lostLeg is a leg that takes no more, and since when.
type lostLeg struct {
	leg   *leg
	since time.Duration
	err   error
}

// lose notes that l takes no more, because its connection is gone. What it
// said before may still be on its way through the direction that reads from it,
// a Close frame above all, so that direction ends the pair. Where it finds no
// end in time, the keepalive does.
func (p *Pair) lose(l *leg, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.end == nil && p.lost == nil {
		p.lost = &lostLeg{leg: l, since: time.Since(p.started), err: err}
		p.timer.Reset(settle)
	}
}

// closed handles a Close frame from one leg: it goes through to the other,
// whose answer will come back the same way. Where the pair is ending for
// another reason, the frame is only the answer to what the leg was told, and of
// no interest to the other.
func (p *Pair) closed(from, to *leg, frame closeFrame) {
	from.closeReceived.Store(&frame.payload)
	first := p.begin(End{By: from.name, Reason: EndClosed, Code: frame.code, Text: frame.text},
		p.options.CloseTimeout)
	if first || to.closeReceived.Load() != nil {
		to.sendClose(frame.payload, p.options.CloseTimeout)
	} else if own, ok := p.shuttingDown(); ok {
		to.sendClose(own, p.options.CloseTimeout)
	}
	p.finishIfDone()
}

// failed handles the end of one leg in any other way. The survivor is told
// with code, and text; the leg itself with ownCode, unless that is zero.
func (p *Pair) failed(gone, survivor *leg, end End, ownCode int, ownText string) {
	end.By = gone.name
	first := p.begin(end, p.options.CloseTimeout)
	if payload := p.farewell(survivor, end, first); payload != nil {
		survivor.sendClose(payload, settle)
		survivor.finish()
	}

	if ownCode == 0 {
		gone.drop()
		return
	}
	if first {
		gone.sendClose(closePayload(ownCode, ownText), settle)
		gone.finish()
	}
	gone.setReadDeadline(time.Now().Add(settle))
}

// farewell is the payload of the Close frame for a leg whose other leg ended
// in the way of end; nil where whoever ended the pair first tells it.
func (p *Pair) farewell(survivor *leg, end End, first bool) []byte {
	if own := survivor.closeReceived.Load(); own != nil {
		// A peer that goes without answering a Close frame has ended all the
		// same: the leg that sent the frame gets its own code back, as RFC
		// 6455, section 5.5.1, recommends for an answer.
		return *own
	}
	if first {
		return closePayload(end.Code, end.Text)
	}
	payload, _ := p.shuttingDown()
	return payload
}

// finishIfDone shuts the write side of each leg whose closing handshake is
// complete.
func (p *Pair) finishIfDone() {
	for _, l := range []*leg{&p.caller, &p.backend} {
		if l.handshakeDone() {
			l.finish()
		}
	}
}

// stalled ends the pair because gone did not take what was written to it in time.
func (p *Pair) stalled(gone, survivor *leg, err error) {
	p.failed(gone, survivor, End{
		Reason: EndStalled,
		Code:   CloseGoingAway,
		Text:   gone.name + " takes no more",
		Err:    err,
	}, 0, "")
}

// dropped ends the pair because gone ended without a Close frame.
func (p *Pair) dropped(gone, survivor *leg, err error) {
	var ownCode int
	if errors.Is(err, io.EOF) {
		// Perhaps it only shut its write side: then it is still there to be told.
		ownCode = CloseProtocolError
	}
	p.failed(gone, survivor, End{
		Reason: EndDropped,
		Code:   CloseGoingAway,
		Text:   gone.name + " gone",
		Err:    err,
	}, ownCode, "no Close frame before the end")
}

// other is the leg that l is paired with.
func (p *Pair) other(l *leg) *leg {
	if l == &p.caller {
		return &p.backend
	}
	return &p.caller
}

func (p *Pair) closeBoth() {
	defer p.guard()
	p.caller.drop()
	p.backend.drop()
}

// returned is called by each direction when its leg has nothing more to read.
func (p *Pair) returned() {
	if p.running.Add(-1) > 0 {
		return
	}
	p.closeBoth()
	p.mu.Lock()
	p.timer.Stop()
	end := *p.end
	p.mu.Unlock()
	close(p.done)
	p.onEnd(end)
}

func (p *Pair) elapsed() int64 { return int64(time.Since(p.started)) }

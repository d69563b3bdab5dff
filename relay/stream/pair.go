// Package stream joins the two WebSocket connections of one live stream, the
// caller's and the backend's, into a pair that lives and dies together.
//
// It begins where both opening handshakes are done. Frames are checked against
// RFC 6455 and forwarded as they came, without unmasking or reassembling them.
// Nothing is buffered beyond what one read returned, so a slow side slows the
// other, and an idle pair holds no buffer at all. The package knows nothing of
// Caddy or of HTTP.
//
// [Start] makes a pair of two connections. When either of them ends, in any
// way, so does the other, which is told by a Close frame where that is still
// possible; [End] says what happened first.
//
// Words: an end is the program at the other side of a connection, the caller or
// the backend; a leg is the connection to it. Frame, message, close code and
// handshake are those of RFC 6455.
//
//	pair.go       a pair and how it ends: read this first
//	panic.go      how it ends where the gateway's own code fails
//	direction.go  the loop that moves frames one way
//	leg.go        the write side of one connection
//	frame.go      the protocol's grammar: headers, rules, Close frames
//	gate.go       holding messages back until one carries the right credentials
//	keepalive.go  pings, and the end of a peer that fell silent
//	sink.go       what takes a caller's messages in the place of a backend
//	socket*.go    waiting for bytes, and writing, at the price of few resources
//	tls_unix.go   the same for connections with TLS
package stream

import (
	"cmp"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// Options are the limits of a pair. All of them have to be set, AllowBinary
// aside: no zero stands for a default.
type Options struct {
	// MaxMessage is the most bytes that one message may have, over all of
	// its fragments. A larger one ends the pair with 1009.
	MaxMessage int64
	// AllowBinary lets binary messages through, which otherwise end the pair
	// with 1003.
	AllowBinary bool
	// PingInterval is how long an end may send nothing before it is pinged.
	PingInterval time.Duration
	// PongTimeout is how long an end may go on sending nothing after the ping
	// before the pair ends.
	PongTimeout time.Duration
	// WriteTimeout is how long an end may take to accept what is written to
	// it, at most a few tens of kilobytes at a time.
	WriteTimeout time.Duration
	// CloseTimeout is how long the closing handshake may take once a Close
	// frame has been sent.
	CloseTimeout time.Duration
}

// An Endpoint is one connection, after its opening handshake.
type Endpoint struct {
	// Conn must have no deadline set. From Start on nobody else may use it,
	// and the pair closes it.
	Conn net.Conn
	// Buffered is what was read from Conn beyond the handshake.
	Buffered []byte
	// Admit, if set, holds back the messages that come from this end until
	// one of them is admitted; see [Admit].
	Admit Admit
	// ReadTimeout is how long this end may send nothing, not even the answer
	// to a ping, where that is shorter than PingInterval and PongTimeout
	// together: it is pinged so early that there is time for an answer. Zero
	// is no limit of its own.
	ReadTimeout time.Duration
	// WriteTimeout is the WriteTimeout of this end, where that is shorter than
	// the one of the Options. Zero is no limit of its own.
	WriteTimeout time.Duration

	name string // what the end is called where that is neither caller nor backend
}

// Admit judges a whole message, unmasked. It reports whether the end that sent it is admitted now;
// if not, the next message is judged, and an error ends the pair with 1008 and the error's text.
// It must not keep the message, and delays only this pair while it runs.
//
// Until the end is admitted, nothing goes from one leg to the other, either way, and the gateway
// answers the pings of both. An end that is not admitted within 64 KiB and 30 seconds ends the pair
// with 1008.
type Admit func(message []byte) (admitted bool, err error)

// Why a pair ended, in [End.Reason].
const (
	EndClosed    = "closed"    // a Close frame came
	EndDropped   = "dropped"   // a connection ended without a Close frame
	EndSilent    = "silent"    // nothing came for PingInterval and PongTimeout together
	EndStalled   = "stalled"   // an end did not take what was written to it within WriteTimeout
	EndViolation = "violation" // the protocol or a limit was broken
	EndRefused   = "refused"   // the messages did not carry the right credentials
	EndSpool     = "spool"     // a Sink did not take a message
	EndShutdown  = "shutdown"  // Shutdown was called
	EndFault     = "fault"     // the gateway's own code failed; see [Panic]
)

// Who ended the pair, in [End.By].
const (
	ByCaller  = "caller"
	ByBackend = "backend"
	ByGateway = "gateway"
)

// End tells how a pair ended: what happened first.
type End struct {
	// By is who ended it: ByCaller, ByBackend or ByGateway.
	By string
	// Reason is one of the End constants.
	Reason string
	// Code is the code of the Close frame that came or, where none came, of
	// the one that was sent to the end that did not cause this.
	Code CloseCode
	// Text is the reason that went with Code.
	Text string
	// Err is the error of the connection, where one was the cause.
	Err error
}

// Traffic counts what was forwarded one way: messages, and the bytes of their
// payloads.
type Traffic struct {
	Messages, Bytes int64
}

// A Pair is two legs and what flows between them. Its methods may be called
// from any goroutine, and none of them blocks.
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

// Start begins to relay between two connections, which belong to the pair from now on, and returns
// at once. onEnd is called once, on a goroutine of the pair, when both connections are closed. A
// panic of the package's own ends this pair alone, with EndFault.
func Start(caller, backend Endpoint, options Options, onEnd func(End)) *Pair {
	p := &Pair{options: options, started: time.Now(), done: make(chan struct{}), onEnd: onEnd}
	p.caller.open(ByCaller, caller, options)
	p.backend.open(cmp.Or(backend.name, ByBackend), backend, options)
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

// Done returns a channel that is closed when both connections are.
func (p *Pair) Done() <-chan struct{} { return p.done }

// Started is when the pair began.
func (p *Pair) Started() time.Time { return p.started }

// FromCaller counts what the backend was given.
func (p *Pair) FromCaller() Traffic { return p.fromCaller.read() }

// FromBackend counts what the caller was given.
func (p *Pair) FromBackend() Traffic { return p.fromBackend.read() }

// settle is how long a leg is given to take a last frame, or to send what is
// still under way, once it is known how the pair ends.
const settle = time.Second

// Shutdown ends the pair from the gateway's side, with a Close frame of this code and text for both
// legs, and gives them the time of drain to finish. It returns at once; [Pair.Done] tells when they
// have. The caller is told first. What it sends before it answers still reaches the backend, which
// is told right after that answer, or after a second without one. On a pair that is ending already
// Shutdown does nothing.
func (p *Pair) Shutdown(code CloseCode, text string, drain time.Duration) {
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

// begin notes how the pair ends, if that is not known yet, and gives it no
// longer than limit from now. It reports whether this end is the first.
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

// shuttingDown returns the payload of the Close frame that Shutdown sends, if
// Shutdown is what ended the pair.
func (p *Pair) shuttingDown() (payload []byte, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.end == nil || p.end.Reason != EndShutdown {
		return nil, false
	}
	return closePayload(p.end.Code, p.end.Text), true
}

// lostLeg is a leg whose connection takes no more.
type lostLeg struct {
	leg   *leg
	since time.Duration
	err   error
}

// lose notes that l takes no more, because its connection is gone. What its end said before, a
// Close frame above all, may still be on its way through the direction that reads from l, so it is
// that direction that ends the pair. Where it finds no end within settle, the keepalive ends the
// pair.
func (p *Pair) lose(l *leg, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.end == nil && p.lost == nil {
		p.lost = &lostLeg{leg: l, since: time.Since(p.started), err: err}
		p.timer.Reset(settle)
	}
}

// closed handles a Close frame that came from one leg. The frame goes through to the other leg,
// whose answer comes back the same way. Where the pair is ending for another reason, the frame is
// only an answer to the one that the leg was sent, and goes no further.
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

// failed handles the end of one leg in any other way than by a Close frame. The survivor gets a
// Close frame with the code and text of end. The leg that is gone gets one with ownCode and
// ownText; where ownCode is zero, its connection is closed at once.
func (p *Pair) failed(gone, survivor *leg, end End, ownCode CloseCode, ownText string) {
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

// farewell is the payload of the Close frame that the survivor is sent when the other leg ended as
// end says. It is nil where this end is not the first, and the survivor was told of that one.
func (p *Pair) farewell(survivor *leg, end End, first bool) []byte {
	if own := survivor.closeReceived.Load(); own != nil {
		// The survivor has sent a Close frame, and the leg that is gone did not
		// answer it. So the survivor gets its own code back, which RFC 6455,
		// section 5.5.1, recommends for an answer.
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
	var ownCode CloseCode
	if errors.Is(err, io.EOF) {
		// Perhaps it has only shut its write side, and can still be told.
		ownCode = CloseProtocolError
	}
	p.failed(gone, survivor, End{
		Reason: EndDropped,
		Code:   CloseGoingAway,
		Text:   gone.name + " gone",
		Err:    err,
	}, ownCode, "no Close frame before the end")
}

// refused ends the pair because the sink, which takes what is written to gone, did not take a message.
func (p *Pair) refused(gone, survivor *leg, err error) {
	p.failed(gone, survivor, End{
		Reason: EndSpool,
		Code:   CloseTryAgainLater,
		Text:   "the inbox takes nothing at present",
		Err:    err,
	}, 0, "")
}

// other is the leg that l is paired with.
func (p *Pair) other(l *leg) *leg {
	if l == &p.caller {
		return &p.backend
	}
	return &p.caller
}

// closeBoth closes both connections at once.
func (p *Pair) closeBoth() {
	defer p.guard()
	p.caller.drop()
	p.backend.drop()
}

// returned is called by each direction when it has nothing more to read. The
// second one ends the pair.
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

// elapsed is the time since the pair's start, in the form that legs keep.
func (p *Pair) elapsed() int64 { return int64(time.Since(p.started)) }

// A sink: what takes a caller's messages in the place of a backend, in this process.

package stream

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"
	"unicode/utf8"
)

// A Sink takes the messages of one caller, one after the other: the next one begins when the one
// before was accepted or discarded. What it does not take ends the pair with EndSpool and 1013.
type Sink interface {
	// Begin begins a message, which is binary or text.
	Begin(ctx context.Context, binary bool) (Message, error)
}

// A Message is one that comes in. It ends with Accept or Discard.
type Message interface {
	// Write takes the next part of the payload, which it must not keep.
	io.Writer

	// Accept returns when the message is safe.
	Accept(ctx context.Context) error

	// Discard forgets the message: the rest of it will not come.
	Discard()
}

// Into returns the endpoint of a sink, for a backend. The sink has timeout for each beginning and
// each acceptance. As the gateway itself is the far end, text has to be UTF-8 (RFC 6455, section
// 8.1), else the pair ends with 1007, and what the far end brings about is said to be of ByGateway.
func Into(sink Sink, timeout time.Duration) Endpoint {
	c := &sinkConn{sink: sink, timeout: timeout, wake: make(chan struct{}, 1)}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	return Endpoint{Conn: c, name: ByGateway}
}

// sinkError is the error of a sink.
type sinkError struct{ error }

func (e *sinkError) Unwrap() error { return e.error }

// A sinkConn is a connection to a sink: what is written to it are the frames of a client, and what
// is read from it those of a server, which only ever answers pings and a Close frame.
type sinkConn struct {
	sink    Sink
	timeout time.Duration
	ctx     context.Context // ends when the connection is closed
	cancel  context.CancelFunc

	taking  sync.Mutex // held by Write; guards what follows
	message Message    // the one that is coming in; nil between two
	text    textCheck
	frame   header
	inFrame bool
	rest    int64 // bytes still to come of frame

	mu        sync.Mutex
	hurry     context.CancelFunc // ends what the sink is doing; nil while it does nothing
	out       []byte             // a frame that is being read
	pong      []byte             // the payload of one to come; nil: none
	goodbye   []byte             // that of a Close frame to come
	readUntil time.Time
	closed    bool
	wake      chan struct{} // has Read look again
}

// Write takes frames, which a leg writes as they came: only the payload of a large frame is in parts.
func (c *sinkConn) Write(p []byte) (int, error) {
	c.taking.Lock()
	defer c.taking.Unlock()
	defer func() {
		if c.ctx.Err() != nil {
			c.discard()
		}
	}()
	for left := p; len(left) > 0; {
		n, err := c.take(left)
		if err != nil {
			c.discard()
			return len(p) - len(left), err
		}
		left = left[n:]
	}
	return len(p), nil
}

// take takes the next frame, or what there is of it, and returns how much that was.
func (c *sinkConn) take(p []byte) (n int, err error) {
	if !c.inFrame {
		h, ok := parseHeader(p)
		if !ok {
			return 0, errors.New("a frame without a whole header")
		}
		n = h.size
		if h.control() {
			payload := append([]byte{}, p[n:n+int(h.length)]...)
			mask(payload, h.key)
			c.control(h.opcode, payload)
			return n + int(h.length), nil
		}
		if err := c.begin(h); err != nil {
			return 0, err
		}
	}
	part := p[n:]
	part = part[:min(c.rest, int64(len(part)))]
	if err := c.add(part); err != nil {
		return 0, err
	}
	if c.rest == 0 {
		c.inFrame = false
		if c.frame.fin {
			err = c.accept()
		}
	}
	return n + len(part), err
}

func (c *sinkConn) begin(h header) error {
	c.frame, c.rest, c.inFrame = h, h.length, true
	if c.message != nil {
		return nil // one more frame of it
	}
	binary := h.opcode == opBinary
	c.text = textCheck{off: binary}
	return c.ask(func(ctx context.Context) (err error) {
		c.message, err = c.sink.Begin(ctx, binary)
		return err
	})
}

// add takes a part of the frame's payload.
func (c *sinkConn) add(part []byte) error {
	buf := buffers.Get().(*[bufferSize]byte)
	defer buffers.Put(buf)
	for len(part) > 0 {
		n := copy(buf[:], part)
		plain := buf[:n]
		var key [4]byte // as it falls on this part
		for i := range key {
			key[i] = c.frame.key[(c.frame.length-c.rest+int64(i))&3]
		}
		mask(plain, key)
		if !c.text.add(plain) {
			return errNoText
		}
		if _, err := c.message.Write(plain); err != nil {
			return &sinkError{err}
		}
		part, c.rest = part[n:], c.rest-int64(n)
	}
	return nil
}

var errNoText = &violation{code: CloseInvalidPayload, text: "text that is not UTF-8"}

func (c *sinkConn) accept() error {
	if !c.text.whole() {
		return errNoText
	}
	message := c.message
	c.message = nil
	return c.ask(message.Accept)
}

func (c *sinkConn) discard() {
	if c.message != nil {
		c.message.Discard()
		c.message = nil
	}
}

// ask has the sink do something for as long as it may take.
func (c *sinkConn) ask(what func(ctx context.Context) error) error {
	ctx, cancel := context.WithTimeout(c.ctx, c.timeout)
	defer cancel()
	c.setHurry(cancel)
	defer c.setHurry(nil)
	if err := what(ctx); err != nil {
		return &sinkError{fmt.Errorf("a message was not taken: %w", err)}
	}
	return nil
}

func (c *sinkConn) setHurry(cancel context.CancelFunc) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.hurry = cancel
}

// SetWriteDeadline bounds what the sink is doing. What it does later has the time of its own: a
// Write may hold many messages.
func (c *sinkConn) SetWriteDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.hurry != nil && !t.IsZero() {
		time.AfterFunc(time.Until(t), c.hurry)
	}
	return nil
}

// control answers a ping and a Close frame. Of several pings the last one is enough (RFC 6455,
// section 5.5.3).
func (c *sinkConn) control(opcode byte, payload []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch opcode {
	case opPing:
		c.pong = payload
	case opClose:
		c.goodbye = payload
	}
	c.signal()
}

// signal has Read look again.
func (c *sinkConn) signal() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// Read blocks until there is an answer.
func (c *sinkConn) Read(p []byte) (int, error) {
	for {
		n, until, err := c.next(p)
		if n > 0 || err != nil {
			return n, err
		}
		if until.IsZero() {
			<-c.wake
			continue
		}
		timer := time.NewTimer(time.Until(until))
		select {
		case <-c.wake:
		case <-timer.C:
		}
		timer.Stop()
	}
}

// next reads what there is, without blocking.
func (c *sinkConn) next(p []byte) (n int, until time.Time, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.out) == 0 {
		switch {
		case c.pong != nil:
			c.out, c.pong = appendControl(nil, opPong, c.pong, false, [4]byte{}), nil
		case c.goodbye != nil:
			c.out, c.goodbye = appendControl(nil, opClose, c.goodbye, false, [4]byte{}), nil
		}
	}
	n = copy(p, c.out)
	c.out = c.out[n:]
	switch {
	case n > 0:
	case c.closed:
		err = net.ErrClosed
	case !c.readUntil.IsZero() && !time.Now().Before(c.readUntil):
		err = os.ErrDeadlineExceeded
	}
	return n, c.readUntil, err
}

// SetReadDeadline implements [net.Conn].
func (c *sinkConn) SetReadDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.readUntil = t
	c.signal()
	return nil
}

// SetDeadline implements [net.Conn].
func (c *sinkConn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

// Close ends what the sink is doing, and discards a message that has not come whole. It does not
// block.
func (c *sinkConn) Close() error {
	c.cancel()
	c.mu.Lock()
	c.closed = true
	c.signal()
	c.mu.Unlock()
	if c.taking.TryLock() { // else Write does it
		defer c.taking.Unlock()
		c.discard()
	}
	return nil
}

// LocalAddr implements [net.Conn].
func (c *sinkConn) LocalAddr() net.Addr { return sinkAddr{} }

// RemoteAddr implements [net.Conn].
func (c *sinkConn) RemoteAddr() net.Addr { return sinkAddr{} }

type sinkAddr struct{}

// Network implements [net.Addr].
func (sinkAddr) Network() string { return "sink" }

// String implements [net.Addr].
func (sinkAddr) String() string { return "sink" }

// A textCheck finds out whether a text that comes in parts is UTF-8.
type textCheck struct {
	off  bool // it is no text
	tail [utf8.UTFMax]byte
	n    int // bytes in tail: the beginning of a character
}

// add reports whether the text is UTF-8 with one more part, as far as it goes.
func (t *textCheck) add(part []byte) bool {
	if t.off {
		return true
	}
	for t.n > 0 && len(part) > 0 {
		t.tail[t.n], part = part[0], part[1:]
		t.n++
		if utf8.FullRune(t.tail[:t.n]) {
			if !utf8.Valid(t.tail[:t.n]) {
				return false
			}
			t.n = 0
		}
	}
	end := len(part)
	for i := end - 1; i >= 0 && i > end-utf8.UTFMax; i-- {
		if utf8.RuneStart(part[i]) {
			if !utf8.FullRune(part[i:]) {
				t.n = copy(t.tail[:], part[i:])
				end = i
			}
			break
		}
	}
	return utf8.Valid(part[:end])
}

// whole reports whether the text ends with a whole character.
func (t *textCheck) whole() bool { return t.n == 0 }

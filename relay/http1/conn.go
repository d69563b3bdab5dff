package http1

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"sync"
	"syscall"
	"time"
)

// MaxInterim is how many interim answers may come before the final one.
const MaxInterim = 100

// maxHead is how long the head of an answer may be unless the client says: as
// in net/http.
const maxHead = 10 << 20

// afterFailedWrite is how long an answer may take that was sent before the
// service stopped to read: it is here already, or never comes.
const afterFailedWrite = time.Second

var (
	errNoAnswer       = errors.New("the service closed the connection without an answer")
	errTooManyInterim = fmt.Errorf("the service sent more than %d interim answers", MaxInterim)
)

// headTooLong is the error of an answer's head that exceeds its limit, in bytes.
type headTooLong int64

func (e headTooLong) Error() string {
	return fmt.Sprintf("the head of the answer is longer than %d bytes", int64(e))
}

// A conn is a connection to a service. One request at a time uses it.
type conn struct {
	net.Conn
	client *Client
	to     Address
	reader *bufio.Reader
	raw    syscall.RawConn // of the socket; nil where there is none to be had
	used   bool            // for another request, before
	since  time.Time       // when it became idle

	// Of the exchange under way:
	stop      func() bool // ends the watch on the request's context
	allowance int64       // bytes that may still be read
	received  int64       // bytes of the answer
	written   int64       // bytes of the request; to be read once sending is over
	sent      sending

	deadline sync.Mutex // guards what follows, and the deadline itself
	headRead bool
	limited  bool // by a deadline, for the head
}

func newConn(client *Client, raw net.Conn, to Address) *conn {
	c := &conn{Conn: raw, client: client, to: to}
	c.reader = bufio.NewReader(c)
	if socket, ok := raw.(syscall.Conn); ok {
		c.raw, _ = socket.SyscallConn()
	}
	return c
}

// Read reads from the connection, for reader.
func (c *conn) Read(p []byte) (int, error) {
	if c.allowance <= 0 {
		return 0, headTooLong(c.client.maxHead())
	}
	if int64(len(p)) > c.allowance {
		p = p[:c.allowance]
	}
	n, err := c.Conn.Read(p)
	c.allowance -= int64(n)
	c.received += int64(n)
	return n, err
}

// Write writes to the connection, for a request.
func (c *conn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	c.written += int64(n)
	return n, err
}

func (c *Client) maxHead() int64 {
	if c.MaxHead > 0 {
		return c.MaxHead
	}
	return maxHead
}

// exchange writes a request and reads the head of its answer. It closes the
// connection on an error.
func (c *conn) exchange(o *outgoing) (*http.Response, error) {
	c.received, c.written, c.headRead, c.limited = 0, 0, false, false
	c.stop = context.AfterFunc(o.Context(), func() { _ = c.Conn.Close() })
	c.send(o)
	res, err := c.readAnswer(o)
	c.haveHead()
	if err == nil {
		if c.sent.isOver() {
			o.release()
		}
		res.Body = newAnswerBody(c, o, res)
		return res, nil
	}

	c.stop()
	_ = c.Close()
	<-c.sent.done // or it would read the body that the next attempt reads as well
	broken := (*RequestError)(nil)
	switch {
	case errors.As(c.sent.err, &broken):
		return nil, broken
	case c.sent.err != nil && !errors.Is(c.sent.err, net.ErrClosed):
		return nil, c.sent.err
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF) && c.received == 0:
		return nil, errNoAnswer
	default:
		return nil, err // unwrapped, as the proxy answers 504 to a net.Error that says Timeout
	}
}

// sending is what became of writing a request.
type sending struct {
	done chan struct{} // closed when it is over
	err  error         // to be read then
}

// over is the done channel of what was over at once.
var over = func() chan struct{} {
	done := make(chan struct{})
	close(done)
	return done
}()

// send writes a request: at once what the socket takes, which is all of most
// callbacks, and the rest beside the reading of the answer. A service may
// answer without reading, and wait for its answer to be taken.
func (c *conn) send(o *outgoing) {
	var rest []byte
	if o.whole != nil {
		n, err := writeNow(c.raw, o.whole.Bytes())
		c.written += int64(n)
		rest = o.whole.Bytes()[n:]
		if err != nil || len(rest) == 0 {
			c.sent = sending{done: over, err: err}
			c.haveSent(err)
			return
		}
	}
	c.sent = sending{done: make(chan struct{})}
	go func() {
		defer close(c.sent.done)
		if len(rest) > 0 {
			_, c.sent.err = c.Write(rest)
		} else {
			c.sent.err = o.writeLarge(c)
		}
		c.haveSent(c.sent.err)
	}()
}

// haveSent says how long the head of the answer may take from here on.
func (c *conn) haveSent(err error) {
	limit := c.client.HeadTimeout
	broken := (*RequestError)(nil)
	timeout, ok := err.(net.Error) //nolint:errorlint // a deadline of the connection is not wrapped
	switch {
	case err == nil:
	case errors.As(err, &broken), ok && timeout.Timeout():
		_ = c.Close() // there is nothing to wait for
		return
	case limit == 0 || limit > afterFailedWrite:
		limit = afterFailedWrite
	}
	if limit <= 0 {
		return
	}
	c.deadline.Lock()
	defer c.deadline.Unlock()
	if !c.headRead {
		c.limited = true
		_ = c.SetReadDeadline(time.Now().Add(limit)) // fails only on a closed connection
	}
}

// haveHead lifts the limit for the head.
func (c *conn) haveHead() {
	c.deadline.Lock()
	defer c.deadline.Unlock()
	c.headRead = true
	if c.limited {
		_ = c.SetReadDeadline(time.Time{}) // fails only on a closed connection
	}
}

// readAnswer reads the head of the answer, past interim ones.
func (c *conn) readAnswer(o *outgoing) (*http.Response, error) {
	c.allowance = c.client.maxHead()
	defer func() { c.allowance = math.MaxInt64 }() // a body has no limit here
	trace := httptrace.ContextClientTrace(o.Context())
	for range MaxInterim + 1 {
		res, err := http.ReadResponse(c.reader, &o.Request)
		if err != nil {
			return nil, err
		}
		if res.StatusCode < 100 || res.StatusCode >= 200 ||
			res.StatusCode == http.StatusSwitchingProtocols {
			return res, nil
		}
		if trace != nil && trace.Got1xxResponse != nil {
			if err := trace.Got1xxResponse(res.StatusCode, textproto.MIMEHeader(res.Header)); err != nil {
				return nil, err
			}
		}
	}
	return nil, errTooManyInterim
}

// sendingSettles is how long an answer that was read waits for its request to
// be sent: the two can end at the same moment.
const sendingSettles = 50 * time.Millisecond

// isOver reports whether nothing more will be written.
func (s *sending) isOver() bool {
	select {
	case <-s.done:
		return true
	default:
		return false
	}
}

// sentWhole reports whether the request was sent to its end.
func (c *conn) sentWhole() bool {
	if c.sent.isOver() {
		return c.sent.err == nil
	}
	timer := time.NewTimer(sendingSettles)
	defer timer.Stop()
	select {
	case <-c.sent.done:
		return c.sent.err == nil
	case <-timer.C:
		return false
	}
}

// One exchange on one connection: a request and its answer.

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

// maxHead is how many bytes the head of an answer may have by default, as in
// net/http.
const maxHead = 10 << 20

// afterFailedWrite is how long an answer is waited for after a write has failed. If
// the service has sent one, it has done so before it stopped reading.
const afterFailedWrite = time.Second

var (
	errNoAnswer       = errors.New("the service closed the connection without an answer")
	errTooManyInterim = fmt.Errorf("the service sent more than %d interim answers", MaxInterim)
)

// headTooLong is the error of an answer whose head exceeds the limit: so many bytes.
type headTooLong int64

func (e headTooLong) Error() string {
	return fmt.Sprintf("the head of the answer is longer than %d bytes", int64(e))
}

// answerBuffer is the size of the buffer that answers are read with.
const answerBuffer = 4 << 10

// A conn is a connection to a service. One request at a time uses it.
type conn struct {
	net.Conn
	client *Client
	to     Address
	reader *bufio.Reader
	raw    syscall.RawConn // the socket; nil where the connection has none
	used   bool            // whether another request was sent on it before
	since  time.Time       // when it became idle

	// These are of the exchange under way.
	stop      func() bool // ends the watch on the request's context
	allowance int64       // how many bytes may still be read
	received  int64       // how many bytes of the answer were read
	written   int64       // how many bytes of the request were written, once sending is over
	sent      sending

	deadline sync.Mutex // guards what follows, and setting the read deadline
	headRead bool       // the head of the answer was read
	limited  bool       // the read deadline is set, for the head
}

// newConn makes a conn that reads with a buffer of so many bytes.
func newConn(client *Client, raw net.Conn, to Address, size int) *conn {
	c := &conn{Conn: raw, client: client, to: to}
	c.reader = bufio.NewReaderSize(c, size)
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

// exchange writes a request and reads the head of its answer, whose body gives the connection back.
// If it returns an error, the connection is closed.
func (c *conn) exchange(o *outgoing) (*http.Response, error) {
	res, err := c.ask(o)
	if err == nil {
		res.Body = newAnswerBody(c, o, res)
	}
	return res, err
}

// ask writes a request and reads the head of its answer. If it returns an error, the connection is
// closed.
func (c *conn) ask(o *outgoing) (*http.Response, error) {
	c.received, c.written, c.headRead, c.limited = 0, 0, false, false
	c.stop = context.AfterFunc(o.Context(), func() { _ = c.Conn.Close() })
	c.send(o)
	res, err := c.readAnswer(o)
	c.haveHead()
	if err == nil {
		if c.sent.isOver() {
			o.release()
		}
		return res, nil
	}

	c.stop()
	_ = c.Close()
	<-c.sent.done // until then the body is read, which another attempt would read too
	broken := (*RequestError)(nil)
	switch {
	case errors.As(c.sent.err, &broken):
		return nil, broken
	case c.sent.err != nil && !errors.Is(c.sent.err, net.ErrClosed):
		return nil, c.sent.err
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF) && c.received == 0:
		return nil, errNoAnswer
	default:
		return nil, err // not wrapped: the proxy answers 504 to a net.Error with Timeout
	}
}

// sending is the outcome of writing a request.
type sending struct {
	done chan struct{} // closed when writing is over
	err  error         // to be read after that
}

// over is the done channel where writing was over at once.
var over = func() chan struct{} {
	done := make(chan struct{})
	close(done)
	return done
}()

// send writes a request: what the socket takes at once, which is all of most callbacks, and the
// rest on another goroutine while the answer is read. A service may answer without reading the
// request, and go on only when its answer is read.
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

// haveSent is called when writing is over. It sets the deadline for the head of the
// answer, or closes the connection if none can come.
func (c *conn) haveSent(err error) {
	limit := c.client.HeadTimeout
	broken := (*RequestError)(nil)
	timeout, ok := err.(net.Error) //nolint:errorlint // a deadline of the connection is not wrapped
	switch {
	case err == nil:
	case errors.As(err, &broken), ok && timeout.Timeout():
		_ = c.Close() // no answer will come to half a request
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

// haveHead is called when the head was read, and removes its deadline.
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
	defer func() { c.allowance = math.MaxInt64 }() // the body has no limit
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

// sendingSettles is how long sending a request may go on after its answer was read
// to the end, since the two can end at the same moment.
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

// sentWhole reports whether the request was sent to its end. It blocks for
// sendingSettles at most.
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

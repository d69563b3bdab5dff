package relay

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"slices"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
)

// http1 makes the round trips of what callbacks mostly are: small requests to a
// service that speaks plain HTTP/1.1. net/http's transport keeps two goroutines
// for each connection and hands every request from one to the other; here the
// goroutine of the request writes and reads itself, which saves about a third of
// the processor time that relaying a callback of 16 KB costs. Everything else
// goes through Caddy's own transport, whose settings, dialler and limits http1
// takes.
type http1 struct {
	settings *reverseproxy.HTTPTransport
	idle     idleConns
}

// smallBody is the most that a request's body may have to be written before
// anybody looks for an answer: it fits the buffers of a socket, so that a
// service which answers without reading cannot hold the write up.
const smallBody = 64 << 10

// maxAnswerHeader is how long the head of an answer may be, unless the
// transport says: as in net/http.
const maxAnswerHeader = 10 << 20

// newHTTP1 makes an http1 for t where t's settings mean plain HTTP/1.1, and
// nothing that only net/http's transport knows how to do; else it returns nil.
func newHTTP1(t *reverseproxy.HTTPTransport) *http1 {
	plain := canTellOpen && t.TLS == nil && t.ProxyProtocol == "" && t.MaxConnsPerHost == 0 &&
		t.ExpectContinueTimeout == 0 && t.ReadBufferSize == 0 && t.WriteBufferSize == 0 &&
		(t.Compression == nil || !*t.Compression) &&
		(t.KeepAlive.Enabled == nil || *t.KeepAlive.Enabled) &&
		slices.Contains(t.Versions, "1.1") && !slices.Contains(t.Versions, "h2c")
	if !plain {
		return nil
	}
	h := &http1{settings: t}
	h.idle.perHost = t.KeepAlive.MaxIdleConnsPerHost
	h.idle.timeout = time.Duration(t.KeepAlive.IdleConnTimeout)
	return h
}

// roundTrip makes the round trip of r to a target that target allowed. A
// service gets headTimeout for the head of its answer; zero is no limit.
func (h *http1) roundTrip(r *http.Request, to address, headTimeout time.Duration) (*http.Response, error) {
	c, err := h.connect(r.Context(), to)
	if err != nil {
		return nil, err // the body is not touched: the proxy may try elsewhere
	}
	res, err := h.exchange(c, r, headTimeout)
	if err != nil {
		c.Close()
		if cause := context.Cause(r.Context()); cause != nil {
			return nil, cause
		}
		return nil, err
	}
	return res, nil
}

// target says where r goes, unless it is nothing for http1.
func (h *http1) target(r *http.Request) (to address, ok bool) {
	if h == nil {
		return address{}, false
	}
	dial, ok := reverseproxy.GetDialInfo(r.Context())
	if !ok || r.ContentLength < 0 || r.ContentLength > smallBody || r.Header.Get("Expect") != "" {
		return address{}, false
	}
	h.settings.SetScheme(r)
	if proxy, err := h.settings.Transport.Proxy(r); proxy != nil || err != nil {
		return address{}, false
	}
	return address{dial.Network, dial.Address}, true
}

// address is what is dialled.
type address struct{ network, address string }

func (h *http1) connect(ctx context.Context, to address) (*conn, error) {
	if c := h.idle.take(to); c != nil {
		return c, nil
	}
	raw, err := h.settings.Transport.DialContext(ctx, to.network, to.address)
	if err != nil {
		return nil, err
	}
	c := &conn{Conn: raw, to: to, pool: &h.idle, reader: readers.Get().(*bufio.Reader)}
	c.reader.Reset(c)
	return c, nil
}

// readers are reused, as a stream needs one for its handshake only.
var readers = sync.Pool{New: func() any { return bufio.NewReader(nil) }}

// exchange writes r and reads the head of the answer. The caller closes c on
// an error.
func (h *http1) exchange(c *conn, r *http.Request, headTimeout time.Duration) (*http.Response, error) {
	// A request that is given up makes the connection time out.
	c.stop = context.AfterFunc(r.Context(), func() { _ = c.SetDeadline(time.Unix(1, 0)) })

	// An error of writing is not the end: a service that refuses a body may
	// answer and close before it has read all of it.
	writeErr := c.writeRequest(r)
	if readErr := (*bodyError)(nil); errors.As(writeErr, &readErr) {
		return nil, readErr.error
	}
	if headTimeout > 0 {
		_ = c.SetReadDeadline(time.Now().Add(headTimeout))
		if err := r.Context().Err(); err != nil { // whose deadline this one may have replaced
			return nil, err
		}
	}
	res, err := c.readResponse(r, h.maxHeader())
	switch {
	case err == nil:
	case writeErr != nil:
		return nil, writeErr
	case errors.Is(err, io.ErrUnexpectedEOF):
		return nil, errNoAnswer
	default:
		return nil, err // unwrapped, as the proxy answers 504 to a net.Error that says Timeout
	}
	if headTimeout > 0 {
		_ = c.SetReadDeadline(time.Time{})
		if err := r.Context().Err(); err != nil {
			return nil, err
		}
	}
	res.Body = c.body(res, writeErr == nil && res.StatusCode != http.StatusSwitchingProtocols)
	return res, nil
}

var errNoAnswer = errors.New("the service closed the connection without an answer")

func (h *http1) maxHeader() int64 {
	if h.settings.MaxResponseHeaderSize > 0 {
		return h.settings.MaxResponseHeaderSize
	}
	return maxAnswerHeader
}

// A conn is a connection to a service. One request at a time uses it.
type conn struct {
	net.Conn
	reader *bufio.Reader
	to     address
	pool   *idleConns
	stop   func() bool // ends the watch on the request's context
	head   int64       // bytes that the head of an answer may still have; zero is no limit
	since  time.Time   // when it became idle
}

var errHeadTooLong = errors.New("the head of the answer is too long")

// Read reads from the connection, for reader.
func (c *conn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if c.head > 0 {
		if c.head -= int64(n); c.head <= 0 {
			return n, errHeadTooLong
		}
	}
	return n, err
}

// bodyError is an error of the request's body, not of the connection.
type bodyError struct{ error }

var pieces = sync.Pool{New: func() any { return new(bytes.Buffer) }}

// writeRequest writes r in one piece. Its body is read first, so that nothing
// of a request that breaks off reaches the service, and a slow sender does not
// hold the service up.
func (c *conn) writeRequest(r *http.Request) error {
	body := pieces.Get().(*bytes.Buffer)
	defer pieces.Put(body)
	body.Reset()
	if r.Body != nil {
		body.Grow(int(r.ContentLength) + bytes.MinRead)
		_, err := body.ReadFrom(r.Body)
		r.Body.Close()
		if err != nil {
			return &bodyError{err}
		}
		r = r.WithContext(r.Context()) // a RoundTripper leaves its request as it is
		r.Body = io.NopCloser(bytes.NewReader(body.Bytes()))
	}
	whole := pieces.Get().(*bytes.Buffer)
	defer pieces.Put(whole)
	whole.Reset()
	if err := r.Write(whole); err != nil {
		return err
	}
	_, err := c.Conn.Write(whole.Bytes())
	return err
}

// readResponse reads the head of the answer, past interim ones.
func (c *conn) readResponse(r *http.Request, maxHeader int64) (*http.Response, error) {
	trace := httptrace.ContextClientTrace(r.Context())
	for {
		c.head = maxHeader
		res, err := http.ReadResponse(c.reader, r)
		c.head = 0
		if err != nil {
			return nil, err
		}
		if res.StatusCode >= 200 || res.StatusCode == http.StatusSwitchingProtocols {
			return res, nil
		}
		if trace != nil && trace.Got1xxResponse != nil {
			if err := trace.Got1xxResponse(res.StatusCode, textproto.MIMEHeader(res.Header)); err != nil {
				return nil, err
			}
		}
	}
}

// release lets go of the request: c can be used for another one, unless the
// request was given up meanwhile.
func (c *conn) release() (usable bool) { return c.stop() }

// body makes the body of an answer give c back when it has been read.
func (c *conn) body(res *http.Response, reusable bool) io.ReadCloser {
	b := &answerBody{ReadCloser: res.Body, conn: c, reusable: reusable && !res.Close}
	if res.ContentLength == 0 || res.Body == http.NoBody {
		b.finish(true)
	}
	return b
}

// answerBody is the body of an answer.
type answerBody struct {
	io.ReadCloser
	conn     *conn // nil once given back
	reusable bool
}

// Read implements [io.Reader].
func (b *answerBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil {
		b.finish(err == io.EOF) //nolint:errorlint // io.EOF is never wrapped by a Reader
	}
	return n, err
}

// Close implements [io.Closer].
func (b *answerBody) Close() error {
	b.finish(false)
	return nil
}

// finish gives the connection back, to be used again where the answer was read
// to its end and nothing else stands in the way.
func (b *answerBody) finish(complete bool) {
	c := b.conn
	if c == nil {
		return
	}
	b.conn = nil
	if usable := c.release(); usable && complete && b.reusable && c.reader.Buffered() == 0 {
		c.pool.put(c)
		return
	}
	c.Close()
}

// idleConns keeps connections for the next request to the same address.
type idleConns struct {
	perHost int
	timeout time.Duration

	mu     sync.Mutex
	conns  map[address][]*conn // the last used last
	sweep  *time.Timer
	closed bool
}

// take returns a connection that the service has not closed, if there is one.
func (p *idleConns) take(to address) *conn {
	for {
		p.mu.Lock()
		list := p.conns[to]
		if len(list) == 0 {
			p.mu.Unlock()
			return nil
		}
		c := list[len(list)-1]
		list[len(list)-1] = nil
		p.conns[to] = list[:len(list)-1]
		p.mu.Unlock()
		if stillOpen(c.Conn) {
			return c
		}
		c.Close()
	}
}

func (p *idleConns) put(c *conn) {
	c.since = time.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed || len(p.conns[c.to]) >= p.perHost {
		c.Close()
		return
	}
	if p.conns == nil {
		p.conns = make(map[address][]*conn)
	}
	p.conns[c.to] = append(p.conns[c.to], c)
	if p.sweep == nil {
		p.sweep = time.AfterFunc(p.timeout, p.sweepOnce)
	}
}

// sweepOnce closes what has been idle for the timeout, and comes again as long
// as there is anything.
func (p *idleConns) sweepOnce() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for to, list := range p.conns {
		fresh := slices.IndexFunc(list, func(c *conn) bool { return time.Since(c.since) < p.timeout })
		if fresh < 0 {
			fresh = len(list)
		}
		for _, c := range list[:fresh] {
			c.Close()
		}
		if list = slices.Delete(list, 0, fresh); len(list) == 0 {
			delete(p.conns, to)
		} else {
			p.conns[to] = list
		}
	}
	if len(p.conns) == 0 || p.closed {
		p.sweep = nil
		return
	}
	p.sweep.Reset(p.timeout)
}

func (p *idleConns) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	for _, list := range p.conns {
		for _, c := range list {
			c.Close()
		}
	}
	p.conns = nil
	if p.sweep != nil {
		p.sweep.Stop()
	}
}

package http1

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"maps"
	"net/http"
	"sync"
)

// smallBody is how much of a body is read before there is a connection.
const smallBody = 64 << 10

// An outgoing request is one on its way. A small one is whole: what has to be
// written is in memory. Of a larger one the beginning of the body is.
type outgoing struct {
	http.Request               // with the header that is sent
	body         bodyReader    // reads the request's; without one, of no use
	whole        *bytes.Buffer // all that has to be written; nil for a larger one
	beginning    *bytes.Buffer // of a larger one's body
	asksGzip     bool          // the client did, not the request
}

// memory holds small requests, and the beginnings of larger ones, until they
// are written.
var memory = sync.Pool{New: func() any { return new(bytes.Buffer) }}

// prepare reads the body of r, as far as it is small, and makes of it what is
// written.
func (c *Client) prepare(r *http.Request) (*outgoing, error) {
	o := &outgoing{Request: *r} // a RoundTripper leaves its request as it is
	if c.Compress && r.Header.Get("Accept-Encoding") == "" && r.Header.Get("Range") == "" &&
		r.Method != http.MethodHead {
		o.asksGzip = true // as net/http's transport does, and under the same conditions
		o.Header = maps.Clone(r.Header)
		o.Header["Accept-Encoding"] = []string{"gzip"}
	}
	if r.Body == nil || r.Body == http.NoBody {
		return o, o.writeWhole()
	}
	o.body.rest = r.Body
	o.Body = &o.body
	if r.ContentLength > 0 && r.ContentLength <= smallBody {
		return o, o.writeWhole()
	}

	o.beginning = memory.Get().(*bytes.Buffer)
	o.beginning.Reset()
	o.beginning.Grow(smallBody + bytes.MinRead)
	_, err := o.beginning.ReadFrom(io.LimitReader(r.Body, smallBody))
	if err != nil {
		o.abandon()
		o.release()
		return nil, &RequestError{err}
	}
	o.body.first = o.beginning.Bytes()
	if o.beginning.Len() < smallBody {
		return o, o.writeWhole()
	}
	return o, nil
}

// writeWhole writes a small request into memory.
func (o *outgoing) writeWhole() error {
	defer o.abandon()
	wire := memory.Get().(*bytes.Buffer)
	wire.Reset()
	wire.Grow(int(max(o.ContentLength, 0)) + headSize)
	if err := o.Write(wire); err != nil {
		memory.Put(wire)
		o.release()
		if o.body.err != nil {
			err = o.body.err // without what net/http wraps it in
		}
		return &RequestError{err}
	}
	o.whole = wire
	return nil
}

// release gives the memory back, of which nothing will be written any more.
func (o *outgoing) release() {
	for _, part := range []**bytes.Buffer{&o.whole, &o.beginning} {
		if *part != nil {
			memory.Put(*part)
			*part = nil
		}
	}
}

// headSize is what the head of a request seldom exceeds.
const headSize = 2 << 10

var writers = sync.Pool{New: func() any { return bufio.NewWriterSize(nil, smallBody) }}

// writeLarge writes a request of which not all is in memory.
func (o *outgoing) writeLarge(to io.Writer) error {
	w := writers.Get().(*bufio.Writer)
	defer writers.Put(w)
	w.Reset(struct{ io.Writer }{to}) // or it would let the socket read, in small pieces
	defer w.Reset(nil)
	err := o.Write(w)
	if err == nil {
		err = w.Flush()
	}
	if o.body.err != nil {
		return &RequestError{o.body.err}
	}
	return err
}

// abandon closes the body.
func (o *outgoing) abandon() {
	if o.body.rest != nil {
		o.body.rest.Close()
	}
}

// repeatable reports whether the request may be sent again after it failed on
// c, which had been used before.
func (o *outgoing) repeatable(c *conn) bool {
	if o.whole == nil || c.received > 0 {
		return false
	}
	if c.written == 0 {
		return true
	}
	switch o.Method {
	case http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace:
		return true
	}
	// Which net/http's transport takes as a word that a request may be repeated.
	return o.Header.Get("Idempotency-Key") != "" || o.Header.Get("X-Idempotency-Key") != ""
}

// bodyReader reads the beginning of a body, and then the rest. It tells an
// error of the body from one of the connection.
type bodyReader struct {
	first []byte
	rest  io.ReadCloser
	err   error
}

// Read implements [io.Reader].
func (b *bodyReader) Read(p []byte) (int, error) {
	if len(b.first) > 0 {
		n := copy(p, b.first)
		b.first = b.first[n:]
		return n, nil
	}
	n, err := b.rest.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		b.err = err
	}
	return n, err
}

// Close implements [io.Closer].
func (b *bodyReader) Close() error { return b.rest.Close() }

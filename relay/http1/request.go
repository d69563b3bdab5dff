// A request as it is written.

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

// smallBody is how many bytes of a body are read before there is a connection.
const smallBody = 64 << 10

// An outgoing request is one that is being sent. A small one is whole: all that has to be written
// is in memory. Of a larger one, the beginning of its body is.
type outgoing struct {
	http.Request               // with the header that is sent
	body         bodyReader    // reads the body, if there is one
	whole        *bytes.Buffer // all of a small request; nil for a larger one
	beginning    *bytes.Buffer // the beginning of a larger one's body
	asksGzip     bool          // Accept-Encoding is the client's, not the request's
}

// memory has the buffers for whole and beginning that no request uses.
var memory = sync.Pool{New: func() any { return new(bytes.Buffer) }}

// prepare reads the body of r, or the beginning of a larger one, and makes an outgoing request of
// it. It blocks until the sender has sent that.
func (c *Client) prepare(r *http.Request) (*outgoing, error) {
	o := &outgoing{Request: *r} // a RoundTripper leaves its request as it is
	if c.Compress && r.Header.Get("Accept-Encoding") == "" && r.Header.Get("Range") == "" &&
		r.Method != http.MethodHead {
		o.asksGzip = true // under the same conditions as in net/http's transport
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
			err = o.body.err // not wrapped, as net/http does
		}
		return &RequestError{err}
	}
	o.whole = wire
	return nil
}

// release gives the memory back when nothing of it will be written any more.
func (o *outgoing) release() {
	for _, part := range []**bytes.Buffer{&o.whole, &o.beginning} {
		if *part != nil {
			memory.Put(*part)
			*part = nil
		}
	}
}

// headSize is a number of bytes that the head of a request seldom exceeds.
const headSize = 2 << 10

// pieceSize is how much of a larger body is written at once. With 64 KiB, what was read has left the
// processor's nearest cache when it is written: that takes 5 % more of its time.
const pieceSize = 32 << 10

var writers = sync.Pool{New: func() any { return bufio.NewWriterSize(nil, pieceSize) }}

// writeLarge writes a request of which not all is in memory. It reads the rest from
// the sender, and so blocks for both sides.
func (o *outgoing) writeLarge(to io.Writer) error {
	w := writers.Get().(*bufio.Writer)
	defer writers.Put(w)
	w.Reset(struct{ io.Writer }{to}) // hides ReadFrom, which would write in small pieces
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

// abandon closes the sender's body.
func (o *outgoing) abandon() {
	if o.body.rest != nil {
		o.body.rest.Close()
	}
}

// repeatable reports whether the request may be sent again after it has failed on c,
// a connection that was used before.
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
	// These fields say so to net/http's transport, too.
	return o.Header.Get("Idempotency-Key") != "" || o.Header.Get("X-Idempotency-Key") != ""
}

// bodyReader reads the beginning of a body, and then the rest. It keeps an error of
// the body, which is not one of the connection.
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

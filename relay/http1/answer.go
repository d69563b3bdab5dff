// The body of an answer.

package http1

import (
	"compress/gzip"
	"context"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
)

// answerBody is the body of an answer. When it has been read to its end, its
// connection goes back to the pool, or is closed if it cannot be used again.
type answerBody struct {
	io.ReadCloser
	ctx      context.Context //nolint:containedctx // the request's, to which the body belongs
	conn     atomic.Pointer[conn]
	reusable bool
}

func newAnswerBody(c *conn, o *outgoing, res *http.Response) io.ReadCloser {
	b := &answerBody{
		ReadCloser: res.Body,
		ctx:        o.Context(),
		// Behind a 101 the connection speaks another protocol.
		reusable: !res.Close && !o.Close && res.StatusCode >= 200,
	}
	b.conn.Store(c)
	if res.ContentLength == 0 || res.Body == http.NoBody {
		b.finish(true)
		return b
	}
	if !o.asksGzip || !strings.EqualFold(res.Header.Get("Content-Encoding"), "gzip") {
		return b
	}
	res.Header.Del("Content-Encoding")
	res.Header.Del("Content-Length")
	res.ContentLength = -1
	res.Uncompressed = true
	return &unpacked{body: b}
}

// Read implements [io.Reader].
func (b *answerBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err == nil {
		return n, nil
	}
	complete := err == io.EOF //nolint:errorlint // io.EOF is never wrapped by a Reader
	if cause := context.Cause(b.ctx); cause != nil && !complete && b.conn.Load() != nil {
		err = cause // that is why the connection was closed
	}
	b.finish(complete)
	return n, err
}

// Close implements [io.Closer].
func (b *answerBody) Close() error {
	b.finish(false)
	return nil
}

// finish is called when the body is not read any further. It gives the connection
// back if the body is complete and nothing else stands in the way, or closes it.
func (b *answerBody) finish(complete bool) {
	c := b.conn.Swap(nil)
	if c == nil {
		return
	}
	live := c.stop() // false if the context has ended, which closes the connection
	if live && complete && b.reusable && c.reader.Buffered() == 0 && c.sentWhole() {
		c.used, c.stop = true, nil
		c.client.idle.put(c)
		return
	}
	_ = c.Close()
}

// unpacked is the body of an answer in gzip.
type unpacked struct {
	body io.ReadCloser
	zip  *gzip.Reader
	err  error // the error of the gzip header
}

// Read implements [io.Reader].
func (u *unpacked) Read(p []byte) (int, error) {
	if u.zip == nil && u.err == nil {
		u.zip, u.err = gzip.NewReader(u.body)
	}
	if u.err != nil {
		return 0, u.err
	}
	return u.zip.Read(p)
}

// Close implements [io.Closer].
func (u *unpacked) Close() error { return u.body.Close() }

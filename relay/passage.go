// One callback's way through the proxy: its body and its errors.

package relay

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"sync"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-deepgram/deepgram-callback/relay/http1"
)

// A RequestError says why a callback was not relayed, or not to its end, by no fault
// of an upstream: its body could not be read, or something in it cannot be written
// as HTTP.
type RequestError struct{ Err error }

// Error implements error.
func (e *RequestError) Error() string { return e.Err.Error() }

// Unwrap returns the cause.
func (e *RequestError) Unwrap() error { return e.Err }

// passageVar is where the transport finds the passage of a request.
const passageVar = "deepgram_callback.passage"

// A passage is one callback's way through the proxy. It connects the call of the proxy with the
// transport below it, and is the writer of the answer.
type passage struct {
	http.ResponseWriter
	body   sentBody
	dial   *dial // nil unless this is a handshake
	failed error // the error of the request itself, if there was one
}

// passageOf returns the passage of a request, or nil for a health check of the
// proxy, which has none.
func passageOf(ctx context.Context) *passage {
	g, _ := caddyhttp.GetVar(ctx, passageVar).(*passage)
	return g
}

// through sends r through the proxy. It returns g's error, if the request failed
// by its own fault.
func (p *Proxy) through(g *passage, w http.ResponseWriter, r *http.Request) error {
	if r.Body != nil && r.Body != http.NoBody {
		g.body.sender = r.Body
		r.Body = &g.body
		defer g.body.release()
	}
	caddyhttp.SetVar(r.Context(), passageVar, g)
	err := p.handler.ServeHTTP(w, r, nothing)
	if g.failed != nil {
		return g.failed
	}
	return err
}

// errFailed is what the proxy gets for an error of the request itself. The proxy takes it for a
// sender that has gone: it neither counts a failure of the upstream nor tries another one.
var errFailed = failedError{}

type failedError struct{}

func (failedError) Error() string { return "the request cannot be relayed" }

// Is makes the proxy take the error for that of a sender that has gone.
func (failedError) Is(target error) bool {
	return target == context.Canceled //nolint:errorlint // this is what errors.Is asks
}

// fail notes an error of the request itself, and returns the error for the proxy.
func (g *passage) fail(err error) error {
	switch {
	case g == nil: // a health check's, which has no sender
		return err
	case errors.Is(err, errBodyGone):
		g.failed = caddyhttp.Error(http.StatusBadGateway, err)
	default:
		g.failed = &RequestError{err}
	}
	return errFailed
}

// blame decides whose fault an error of a round trip is. One of the request itself
// goes to fail; one of the upstream is returned as it is.
func (g *passage) blame(err error) error {
	if g == nil {
		return err
	}
	if failed := g.body.failure(); failed != nil {
		return g.fail(failed)
	}
	if unsent := (*http1.RequestError)(nil); errors.As(err, &unsent) {
		return g.fail(unsent.Err)
	}
	return err
}

// WriteHeader implements [http.ResponseWriter]. What the proxy answers to errFailed,
// as to a sender that has gone, is not sent.
func (g *passage) WriteHeader(status int) {
	if g.failed == nil {
		g.ResponseWriter.WriteHeader(status)
	}
}

// Unwrap lets [http.ResponseController] flush an answer.
func (g *passage) Unwrap() http.ResponseWriter { return g.ResponseWriter }

// keptBody is how many bytes of a body are kept for another attempt.
const keptBody = 64 << 10

// sentBody is the body of a callback that is being relayed. Its beginning, which is all of most
// bodies, is read before an upstream is dialled, and kept for another attempt. It also keeps an
// error of reading it, since no upstream is to blame for that.
type sentBody struct {
	sender io.ReadCloser // the sender's body; nil for none

	mu     sync.Mutex    // a transport may go on reading after it has its answer
	kept   *bytes.Buffer // the beginning; nil unless loaded
	at     int           // how much of kept the present attempt has read
	end    error         // the error behind kept, if that is known: io.EOF above all
	begun  bool          // something else than load has read from sender
	closed bool          // the present attempt is over
	failed error         // the error of reading from sender
}

var keptBodies = sync.Pool{New: func() any { return new(bytes.Buffer) }}

var (
	errOver     = errors.New("the request is over")
	errBodyGone = errors.New("another attempt would need what an earlier one has read " +
		"of the body; request_buffers keeps it")
)

// load begins an attempt. For the first one it reads the beginning of the body, and
// blocks until the sender has sent that.
func (b *sentBody) load(length int64) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.failed != nil:
		return b.failed
	case b.begun && b.kept == nil: // request_buffers have read it, and keep it
		return nil
	case b.begun:
		return errBodyGone
	}
	b.at, b.closed = 0, false
	if b.kept != nil {
		return nil
	}
	b.kept = keptBodies.Get().(*bytes.Buffer)
	b.kept.Reset()
	b.kept.Grow(int(min(max(length, 0), keptBody)) + bytes.MinRead)
	_, err := b.kept.ReadFrom(io.LimitReader(b.sender, keptBody))
	switch {
	case err != nil:
		b.failed = err
	case b.kept.Len() < keptBody:
		b.end = io.EOF
	}
	return b.failed
}

// Read implements [io.Reader].
func (b *sentBody) Read(p []byte) (int, error) {
	if n, known, err := b.readKept(p); known {
		return n, err
	}
	n, err := b.sender.Read(p) // without the lock, as this may block
	if err != nil && !errors.Is(err, io.EOF) {
		b.mu.Lock()
		defer b.mu.Unlock()
		if !b.closed && b.failed == nil {
			b.failed = err
		}
	}
	return n, err
}

// readKept reads from what is kept. known is false where the sender's body has to be
// read.
func (b *sentBody) readKept(p []byte) (n int, known bool, err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.closed:
		return 0, true, errOver
	case b.kept != nil && b.at < b.kept.Len():
		n = copy(p, b.kept.Bytes()[b.at:])
		b.at += n
		if b.at == b.kept.Len() {
			err = b.end
		}
		return n, true, err
	case b.end != nil:
		return 0, true, b.end
	}
	b.begun = true
	return 0, false, nil
}

// Close implements [io.Closer]. It ends an attempt; the sender's body is closed by
// whoever serves the request.
func (b *sentBody) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	return nil
}

// failure is the error of reading the sender's body, if there was one.
func (b *sentBody) failure() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.failed
}

// release gives the memory back. From then on b yields nothing.
func (b *sentBody) release() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	if b.kept != nil {
		keptBodies.Put(b.kept)
		b.kept = nil
	}
}

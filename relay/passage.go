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

// A RequestError is why a callback was not relayed, or not to its end, for which
// no upstream is to blame: its body could not be read, or there is something in
// it that cannot be written as HTTP.
type RequestError struct{ Err error }

// Error implements error.
func (e *RequestError) Error() string { return e.Err.Error() }

// Unwrap returns the cause.
func (e *RequestError) Unwrap() error { return e.Err }

// passageVar is where the transport finds the passage of a request.
const passageVar = "deepgram_callback.passage"

// A passage is one callback's way through the proxy: what the call knows of it,
// and the transport has to. To the proxy it is what the answer is written to.
type passage struct {
	http.ResponseWriter
	body   sentBody
	dial   *dial // nil unless this is a handshake
	failed error // for which no upstream is to blame
}

// passageOf is nil for what is no callback: the health checks of the proxy.
func passageOf(ctx context.Context) *passage {
	g, _ := caddyhttp.GetVar(ctx, passageVar).(*passage)
	return g
}

// through takes r through the proxy.
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

// errFailed is what the proxy sees of an error of the request. It takes it for
// a sender that gave up, and neither counts it as a failure of the upstream nor
// tries another one.
var errFailed = failedError{}

type failedError struct{}

func (failedError) Error() string { return "the request cannot be relayed" }

// Is makes the error one of those.
func (failedError) Is(target error) bool { return target == context.Canceled } //nolint:errorlint // as Is is asked

// fail notes an error of the request, and returns what to tell the proxy.
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

// blame is fail for an error of a round trip, if it is the request's; an
// upstream's it returns.
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

// WriteHeader implements [http.ResponseWriter]. What the proxy answers to a
// sender that gave up is nothing for one that did not.
func (g *passage) WriteHeader(status int) {
	if g.failed == nil {
		g.ResponseWriter.WriteHeader(status)
	}
}

// Unwrap lets [http.ResponseController] flush an answer.
func (g *passage) Unwrap() http.ResponseWriter { return g.ResponseWriter }

// keptBody is how much of a body is kept for another attempt.
const keptBody = 64 << 10

// sentBody is the body of a callback on its way. The beginning, which is all of
// most bodies, is read before an upstream is troubled, and kept for the next one.
// It also keeps what went wrong with it: no upstream is to blame for that.
type sentBody struct {
	sender io.ReadCloser // nil for none

	mu     sync.Mutex    // a transport may go on reading when it has its answer
	kept   *bytes.Buffer // nil unless loaded
	at     int           // up to where in kept the attempt has read
	end    error         // what came behind kept, if that is known
	begun  bool          // the sender's was read from otherwise than by load
	closed bool
	failed error
}

var keptBodies = sync.Pool{New: func() any { return new(bytes.Buffer) }}

var (
	errOver     = errors.New("the request is over")
	errBodyGone = errors.New(
		"another attempt would need what an earlier one has read of the body; request_buffers keeps it",
	)
)

// load reads the beginning, or begins there again for another attempt.
func (b *sentBody) load(length int64) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.failed != nil:
		return b.failed
	case b.begun && b.kept == nil: // by request_buffers, which keep it themselves
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
	n, err := b.sender.Read(p) // which may take long
	if err != nil && !errors.Is(err, io.EOF) {
		b.mu.Lock()
		defer b.mu.Unlock()
		if !b.closed && b.failed == nil {
			b.failed = err
		}
	}
	return n, err
}

// readKept reads what is kept. known is false where the sender has to be asked.
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

// Close implements [io.Closer]. The sender's body is closed by who serves the
// request; here it is only an attempt that ends.
func (b *sentBody) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	return nil
}

// failure is what went wrong with the body, if anything did.
func (b *sentBody) failure() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.failed
}

// release gives the memory back. Nothing is to be had from b any more.
func (b *sentBody) release() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	if b.kept != nil {
		keptBodies.Put(b.kept)
		b.kept = nil
	}
}

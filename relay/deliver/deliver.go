// Package deliver hands what an inbox keeps to its service: one attempt, through the same proxy
// that forwards callbacks which are not kept.
//
//	deliver.go  an attempt, and what its result is
//	stored.go   what of a request is kept beside its body, and the request that is made of it
package deliver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/caddy-deepgram/deepgram-callback/relay"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
)

const (
	// timeout is how long a service may take to answer. A worker must not be lost to one that
	// never does; the inbox may give an attempt up earlier while others wait.
	timeout = 5 * time.Minute

	// The head of an answer is all that counts. Of its body so much is read, for no longer than
	// this, that a connection can be used again after an ordinary one.
	drainBytes = 64 << 10
	drainTime  = time.Second
)

// A Service is where the messages of a route go.
type Service struct {
	Proxy *relay.Proxy

	// Signer signs what goes there. Nil where nothing is signed.
	Signer *spool.Signer
}

// Deliver is a [spool.Delivery].
func (s *Service) Deliver(
	ctx context.Context, msg *spool.Message, body spool.Body,
) (result spool.Result) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()

	answer := &recorder{header: make(http.Header)}
	lent := &lentBody{body: body, left: body.Size()}
	defer lent.takeBack()
	ctx = relay.WithAnswer(ctx, func(res *http.Response) { discard(res, cancel) })
	r, err := s.request(ctx, msg, body, answer)
	if err != nil {
		return spool.Result{Err: err}
	}
	r.Body = lent
	defer func() {
		// The proxy panics with this, for net/http to see, where an answer breaks off.
		if p := recover(); p != nil && p != http.ErrAbortHandler { //nolint:errorlint // it is that very value
			panic(p)
		} else if p != nil {
			result = answer.result(ctx, errBrokeOff)
		}
	}()
	return answer.result(ctx, s.Proxy.Forward(answer, r))
}

var errBrokeOff = errors.New("the service's answer broke off")

// discard takes the body away from an answer: whether it breaks off, never ends or is large says
// nothing of the delivery. A connection with more of it than is worth reading is dropped.
func discard(res *http.Response, giveUp func()) {
	timer := time.AfterFunc(drainTime, giveUp)
	_, _ = io.CopyN(io.Discard, res.Body, drainBytes)
	timer.Stop()
	_ = res.Body.Close()
	res.Body = http.NoBody
}

// statusClientClosedRequest is what the proxy answers to a request that was
// given up: there is no answer of the service then.
const statusClientClosedRequest = 499

// result is what came of the attempt. An answer whose head is there counts, whatever came after.
func (a *recorder) result(ctx context.Context, err error) spool.Result {
	switch {
	case a.status == statusClientClosedRequest && ctx.Err() != nil:
		return spool.Result{Err: context.Cause(ctx)}
	case a.status != 0:
		return spool.Result{
			Status:     a.status,
			RetryAfter: spool.ParseRetryAfter(a.header.Get("Retry-After"), time.Now()),
		}
	case err == nil: // a handle_response route that answered nothing, as a server would with 200
		return spool.Result{Status: http.StatusOK}
	case context.Cause(ctx) != nil:
		return spool.Result{Err: context.Cause(ctx)}
	}
	var failed caddyhttp.HandlerError
	if errors.As(err, &failed) && failed.Err != nil {
		err = failed.Err
	}
	if errors.Is(err, relay.ErrUnwritable) { // by what header_up or a rewrite makes of it
		err = fmt.Errorf("%w: %w", spool.ErrUndeliverable, err)
	}
	var dialling reverseproxy.DialError
	return spool.Result{Err: err, Unreachable: errors.As(err, &dialling)}
}

// recorder keeps the status and the header of an answer. Nobody waits for its
// body.
type recorder struct {
	header http.Header
	status int
}

// Header implements [http.ResponseWriter].
func (a *recorder) Header() http.Header { return a.header }

// WriteHeader implements [http.ResponseWriter]; interim answers are none.
func (a *recorder) WriteHeader(status int) {
	if a.status == 0 && status >= 200 {
		a.status = status
	}
}

// Write implements [http.ResponseWriter].
func (a *recorder) Write(p []byte) (int, error) {
	a.WriteHeader(http.StatusOK)
	return len(p), nil
}

// lentBody is the stored body for one attempt. A transport may go on reading it
// after a service has answered early, when the inbox uses its memory for
// another one.
type lentBody struct {
	mu   sync.Mutex
	body io.Reader // nil once taken back
	left int64
}

var errTakenBack = errors.New("the attempt has ended")

// Read implements [io.Reader]. It holds the end of a body back until the body
// is known to be what was accepted: a service cannot see from a whole request
// that it is damaged.
func (b *lentBody) Read(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.body == nil {
		return 0, errTakenBack
	}
	n, err := b.body.Read(p)
	b.left -= int64(n)
	if n == 0 || b.left > 0 || err != nil {
		return n, err
	}
	if _, err := b.body.Read(make([]byte, 1)); err != io.EOF { //nolint:errorlint // never wrapped by a Reader
		return 0, err
	}
	return n, nil
}

// Close implements [io.Closer]. The body is the inbox's, to close.
func (b *lentBody) Close() error { return nil }

func (b *lentBody) takeBack() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.body = nil
}

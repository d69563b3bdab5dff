// Package deliver delivers the messages of an inbox to a service: it makes one attempt, through the
// proxy that also forwards callbacks without an inbox.
//
//	deliver.go  an attempt, and its result
//	stored.go   what is stored of a request beside its body, and the request that is made of that
package deliver

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"

	"github.com/caddy-deepgram/deepgram-callback/relay"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/webhook"
)

const (
	// timeout is how long a service may take to answer, so that one that never does does not keep
	// a worker. The inbox may end an attempt earlier while other messages wait.
	timeout = 5 * time.Minute

	// Only the head of an answer counts. Of its body, drainBytes are read for drainTime, so that
	// the connection can be used again after an ordinary answer.
	drainBytes = 64 << 10
	drainTime  = time.Second
)

// A Service takes the messages of a route.
type Service struct {
	Proxy *relay.Proxy

	// Signer signs the deliveries; nil where they are not signed.
	Signer *webhook.Signer
}

// Deliver makes one attempt to deliver a message: it is a [spool.Delivery]. It blocks until the
// head of the service's answer is there.
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
	defer func() { result.Upstream = upstream(r) }()
	defer func() {
		// Where an answer breaks off, the proxy panics with a value that is meant for net/http.
		switch p := recover(); p {
		case nil:
		case http.ErrAbortHandler:
			result = answer.result(ctx, errBrokeOff)
		default:
			panic(p)
		}
	}()
	return answer.result(ctx, s.Proxy.Forward(answer, r))
}

// upstream is the address that the proxy chose last, empty if it chose none.
func upstream(r *http.Request) string {
	repl, ok := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	if !ok {
		return ""
	}
	address, _ := repl.GetString("http.reverse_proxy.upstream.hostport")
	return address
}

var errBrokeOff = errors.New("the service's answer broke off")

// discard removes the body from an answer, since it does not matter to a delivery whether that
// breaks off, never ends or is large. If there is more of it than is worth reading, the connection
// is closed.
func discard(res *http.Response, giveUp func()) {
	timer := time.AfterFunc(drainTime, giveUp)
	_, _ = io.CopyN(io.Discard, res.Body, drainBytes)
	timer.Stop()
	_ = res.Body.Close()
	res.Body = http.NoBody
}

// statusClientClosedRequest is the status with which the proxy answers a request
// whose context has ended. It is no answer of the service.
const statusClientClosedRequest = 499

// result is the result of the attempt. An answer whose head is there counts, whatever came after.
func (a *recorder) result(ctx context.Context, err error) spool.Result {
	switch {
	case a.status == statusClientClosedRequest && ctx.Err() != nil:
		return spool.Result{Err: context.Cause(ctx)}
	case a.status != 0:
		return spool.Result{
			Status:     a.status,
			RetryAfter: spool.ParseRetryAfter(a.header.Get("Retry-After"), time.Now()),
		}
	case err == nil: // a handle_response route has answered nothing, which a server sends as 200
		return spool.Result{Status: http.StatusOK}
	case context.Cause(ctx) != nil:
		return spool.Result{Err: context.Cause(ctx)}
	}
	var failed caddyhttp.HandlerError
	if errors.As(err, &failed) && failed.Err != nil {
		err = failed.Err
	}
	if errors.Is(err, relay.ErrUnwritable) { // header_up or a rewrite has made it so
		err = fmt.Errorf("%w: %w", spool.ErrUndeliverable, err)
	}
	var dialling reverseproxy.DialError
	return spool.Result{Err: err, Unreachable: errors.As(err, &dialling)}
}

// recorder keeps the status and the header of an answer, and nothing of its body.
type recorder struct {
	header http.Header
	status int
}

// Header implements [http.ResponseWriter].
func (a *recorder) Header() http.Header { return a.header }

// WriteHeader implements [http.ResponseWriter]. Interim answers are ignored.
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

// lentBody is the stored body of a message, for the time of one attempt. A transport may go on
// reading after a service has answered early, when the inbox uses the body's memory for another
// message.
type lentBody struct {
	mu   sync.Mutex
	body io.Reader // nil once taken back
	left int64
}

var errTakenBack = errors.New("the attempt has ended")

// Read implements [io.Reader]. It yields the last bytes of a body only after the body is known to
// be what was accepted. Otherwise a service could take a damaged body for a whole one.
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
	_, err = b.body.Read(make([]byte, 1))
	if err != io.EOF { //nolint:errorlint // a Reader does not wrap io.EOF
		return 0, err
	}
	return n, nil
}

// Close implements [io.Closer]. The inbox closes the body itself.
func (b *lentBody) Close() error { return nil }

// takeBack ends the attempt: from then on, the body yields nothing.
func (b *lentBody) takeBack() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.body = nil
}

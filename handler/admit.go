// Admission: who and what is let in, and the answer to what is not.

package handler

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"
	"golang.org/x/net/http/httpguts"

	"github.com/caddy-deepgram/deepgram-callback/app"
	"github.com/caddy-deepgram/deepgram-callback/auth"
	"github.com/caddy-deepgram/deepgram-callback/internal/sender"
	"github.com/caddy-deepgram/deepgram-callback/relay"
)

// The kinds and outcomes that requests are counted by. The outcome of a refusal
// is its reason.
const (
	kindBatch       = "batch"
	kindStream      = "stream"
	outcomeAdmitted = "admitted"
)

// isWebSocket reports whether r means to be a WebSocket's opening handshake
// (RFC 6455, section 4.1), whatever its method.
func isWebSocket(r *http.Request) bool {
	return httpguts.HeaderValuesContainsToken(r.Header["Connection"], "upgrade") &&
		httpguts.HeaderValuesContainsToken(r.Header["Upgrade"], "websocket")
}

// admit makes every check that needs no body, the cheapest first, so that a
// stranger costs little. It blocks only while a password is hashed.
func (h *Handler) admit(r *http.Request, streaming bool) (auth.Admission, error) {
	if port, known := callbackPort(r); known && !h.ports[port] {
		return auth.Admission{}, &auth.Refusal{
			Status: http.StatusForbidden,
			Reason: app.ReasonPort,
			Cause:  fmt.Errorf("port %d is not among the allowed ones", port),
		}
	}
	if err := h.admitMethod(r, streaming); err != nil {
		return auth.Admission{}, err
	}
	admission, err := h.Admit(r)
	if err != nil {
		return auth.Admission{}, err
	}
	if r.ContentLength > h.maxBody {
		return auth.Admission{}, tooLong(&http.MaxBytesError{Limit: h.maxBody})
	}
	return admission, nil
}

// callbackPort is the port that the sender connected to: the listener's, or
// the one that a trusted proxy in front names. A Unix socket has none.
func callbackPort(r *http.Request) (port int, known bool) {
	if sender.FromTrustedProxy(r) {
		if port, ok := forwardedPort(r.Header["X-Forwarded-Port"]); ok {
			return port, true
		}
	}
	switch addr := r.Context().Value(http.LocalAddrContextKey).(type) {
	case *net.TCPAddr:
		return addr.Port, true
	case *net.UDPAddr:
		return addr.Port, true
	}
	return 0, false
}

// forwardedPort is the port that the first of a chain of proxies was connected to. Each of them
// adds its own, to the list or as a field of its own, so the first is the one that the sender
// chose. ok is false where that is no number.
func forwardedPort(fields []string) (port int, ok bool) {
	for first := range strings.SplitSeq(strings.Join(fields, ","), ",") {
		first = strings.Trim(first, " \t")
		if first == "" {
			continue // an empty element of a list is none (RFC 9110, section 5.6.1)
		}
		port, err := strconv.ParseUint(first, 10, 31)
		return int(port), err == nil
	}
	return 0, false
}

// admitMethod checks the method: GET for a WebSocket, a configured one for a
// batch callback.
func (h *Handler) admitMethod(r *http.Request, streaming bool) error {
	if streaming && (h.streaming != nil || h.Stream.Spool) {
		if r.Method == http.MethodGet {
			return nil
		}
		return methodRefusal(r.Method+" cannot open a WebSocket", http.MethodGet)
	}
	if streaming {
		return methodRefusal("streams are off", h.allow)
	}
	if !h.methods[r.Method] {
		return methodRefusal(r.Method+" is not among the allowed methods", h.allow)
	}
	return nil
}

func methodRefusal(detail, allow string) error {
	return &auth.Refusal{
		Status: http.StatusMethodNotAllowed,
		Reason: app.ReasonMethod,
		Header: http.Header{"Allow": {allow}},
		Cause:  errors.New(detail),
	}
}

// unavailable is a refusal by no fault of the callback's, which asks the sender to
// come again later.
func unavailable(reason string, cause error, retryAfter time.Duration) error {
	return &auth.Refusal{
		Status:     http.StatusServiceUnavailable,
		Reason:     reason,
		RetryAfter: max(retryAfter, time.Second),
		Cause:      cause,
	}
}

func tooLong(cause error) error {
	return &auth.Refusal{
		Status: http.StatusRequestEntityTooLarge,
		Reason: app.ReasonMaxBody,
		Cause:  cause,
	}
}

// refusalOf turns the error that a callback is turned away for into a refusal. An error that is
// none is the fault of the request, such as a body that breaks off.
func refusalOf(cause error) *auth.Refusal {
	if refused, ok := errors.AsType[*auth.Refusal](cause); ok {
		return refused
	}
	reason := app.ReasonBody
	if errors.Is(cause, relay.ErrUnwritable) {
		reason = app.ReasonUnwritable
	}
	return &auth.Refusal{Status: http.StatusBadRequest, Reason: reason, Cause: cause}
}

// admitBody limits the body of a batch callback to max_body and, where the secret in the body
// decides, reads on until it is found: that blocks for as long as the sender takes.
func (h *Handler) admitBody(
	w http.ResponseWriter, r *http.Request, admission auth.Admission,
) error {
	// If the service accepted an Upgrade to another protocol than WebSocket,
	// reverse_proxy would tunnel it, past all checks.
	r.Header.Del("Upgrade")

	if r.Body == nil {
		r.Body = http.NoBody
	}
	r.Body = &boundedBody{http.MaxBytesReader(w, r.Body, h.maxBody)}
	if !admission.BodySecret {
		return nil
	}
	return h.VerifyBody(w, r)
}

// boundedBody is a body with a limit, whose error is a refusal when it turns out
// to be longer, which may be in the middle of relaying.
type boundedBody struct{ io.ReadCloser }

func (b *boundedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		err = caddyhttp.Error(http.StatusRequestEntityTooLarge, tooLong(err))
	}
	return n, err
}

// refuse turns a callback away: it logs, counts and remembers the reason, sets the header of the
// answer, and returns an error with the status, for handle_errors and Caddy's own error log. None
// of them ever holds a credential, or a query, which may hold one.
func (h *Handler) refuse(w http.ResponseWriter, r *http.Request, cause error) error {
	refused := refusalOf(cause)
	refused.WriteHeaders(w.Header())
	if r.ProtoMajor == 1 &&
		(r.Header["Expect"] != nil || refused.Status == http.StatusRequestTimeout) {
		// To use the connection again, net/http would read and discard the body before it
		// answers. But a sender that expects 100 waits for the answer before it sends the body,
		// which net/http does not know, as Caddy's timeouts wrap the body. And a body that came
		// too slowly is waited for no longer.
		w.Header().Set("Connection", "close")
	}
	kind := kindBatch
	if isWebSocket(r) {
		kind = kindStream
	}
	noted := h.app.Process().Refusals.Note(app.Refusal{
		At:       time.Now(),
		Reason:   refused.Reason,
		Status:   refused.Status,
		Kind:     kind,
		Method:   r.Method,
		Host:     r.Host,
		Path:     r.URL.Path,
		ClientIP: sender.IP(r),
		Size:     r.ContentLength,
	})
	if c := h.refusals.Check(zap.InfoLevel, "callback refused: "+refused.Reason); c != nil {
		c.Write(
			zap.Int("status", noted.Status),
			zap.String("client_ip", noted.ClientIP),
			zap.String("method", noted.Method),
			zap.String("path", noted.Path),
			zap.Error(cause),
		)
	}
	return caddyhttp.Error(refused.Status, cause)
}

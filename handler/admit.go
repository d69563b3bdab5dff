package handler

import (
	"errors"
	"io"
	"math"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"
	"golang.org/x/net/http/httpguts"

	"github.com/caddy-deepgram/deepgram-callback/app"
	"github.com/caddy-deepgram/deepgram-callback/auth"
	"github.com/caddy-deepgram/deepgram-callback/relay"
)

// What is counted of requests, beside the reasons of refusals.
const (
	kindBatch       = "batch"
	kindStream      = "stream"
	outcomeAdmitted = "admitted"
)

// A refusal is why a callback is turned away, with what its sender is told.
type refusal struct {
	status int
	reason string // a word for the log
	detail string
	header http.Header
}

func (r *refusal) Error() string { return r.reason + ": " + r.detail }

// isWebSocket reports whether r is a WebSocket's opening handshake (RFC 6455,
// section 4.1), whatever its method.
func isWebSocket(r *http.Request) bool {
	return httpguts.HeaderValuesContainsToken(r.Header["Connection"], "upgrade") &&
		httpguts.HeaderValuesContainsToken(r.Header["Upgrade"], "websocket")
}

// admit makes every check that needs no body, the cheapest first, so that a
// stranger costs little.
func (h *Handler) admit(r *http.Request, streaming bool) (auth.Admission, error) {
	if port, known := callbackPort(r); known && !h.ports[port] {
		return auth.Admission{}, &refusal{status: http.StatusForbidden, reason: "port", detail: "port " + strconv.Itoa(port) + " is not among the allowed ones"}
	}
	if err := h.admitMethod(r, streaming); err != nil {
		return auth.Admission{}, err
	}
	admission, err := h.Admit(r)
	if err != nil {
		return auth.Admission{}, err
	}
	if r.ContentLength > h.maxBody {
		return auth.Admission{}, &http.MaxBytesError{Limit: h.maxBody}
	}
	return admission, nil
}

// callbackPort is the port that the sender connected to: the listener's, or
// the one that a trusted proxy in front names. A Unix socket has none.
func callbackPort(r *http.Request) (port int, known bool) {
	if auth.FromTrustedProxy(r) {
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

// forwardedPort is what a chain of proxies says: each adds the port that it was
// connected to, to the list or as a field of its own, so the first is the
// sender's. What is no number counts as none.
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

func (h *Handler) admitMethod(r *http.Request, streaming bool) error {
	if streaming && h.streaming != nil {
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
	return &refusal{
		status: http.StatusMethodNotAllowed,
		reason: "method",
		detail: detail,
		header: http.Header{"Allow": {allow}},
	}
}

// unavailable asks the sender to come again later.
func unavailable(reason string, cause error, retryAfter time.Duration) *refusal {
	seconds := max(1, int(math.Ceil(retryAfter.Seconds())))
	return &refusal{
		status: http.StatusServiceUnavailable,
		reason: reason,
		detail: cause.Error(),
		header: http.Header{"Retry-After": {strconv.Itoa(seconds)}},
	}
}

// identify makes the caller's name known to the access log and to other
// handlers, as Caddy's own authentication does.
func identify(r *http.Request, admission auth.Admission) {
	if admission.User == "" {
		return
	}
	if repl, ok := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer); ok {
		repl.Set("http.auth.user.id", admission.User)
	}
}

// admitBody bounds the body of a batch callback, and checks the secret in it
// where that is asked for.
func (h *Handler) admitBody(w http.ResponseWriter, r *http.Request, admission auth.Admission) error {
	// An Upgrade to any other protocol than WebSocket would be tunnelled past
	// all checks if the service took it.
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

// boundedBody gives the error of a body that turned out too long its status,
// for when it comes up in the middle of relaying.
type boundedBody struct{ io.ReadCloser }

func (b *boundedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	var tooLong *http.MaxBytesError
	if errors.As(err, &tooLong) {
		err = caddyhttp.Error(http.StatusRequestEntityTooLarge, err)
	}
	return n, err
}

// refuse logs why a callback is turned away and makes it an error with the
// right status and headers, for handle_errors and Caddy's own error log. None
// of them ever holds a credential, nor a query, which may.
func (h *Handler) refuse(w http.ResponseWriter, r *http.Request, cause error) error {
	var (
		own     *refusal
		denied  *auth.Refusal
		tooLong *http.MaxBytesError
	)
	status, reason := http.StatusBadRequest, "body" // the body broke off
	switch {
	case errors.As(cause, &own):
		status, reason = own.status, own.reason
		for name, values := range own.header {
			w.Header()[name] = values
		}
	case errors.As(cause, &denied):
		status, reason = denied.Status, denied.Reason
		denied.WriteHeaders(w.Header())
	case errors.As(cause, &tooLong):
		status, reason = http.StatusRequestEntityTooLarge, "max_body"
	case errors.Is(cause, relay.ErrUnwritable):
		reason = "unwritable"
	}
	if r.ProtoMajor == 1 && (r.Header["Expect"] != nil || status == http.StatusRequestTimeout) {
		// The sender waits for an answer before it sends the body, which
		// net/http would wait for before it answers, to discard it: Caddy's
		// timeouts wrap the body, so it does not know that none comes. And
		// nobody waits any longer for one that came too slowly.
		w.Header().Set("Connection", "close")
	}
	kind := kindBatch
	if isWebSocket(r) {
		kind = kindStream
	}
	app.CountRequest(kind, reason)
	if c := h.refusals.Check(zap.InfoLevel, "callback refused: "+reason); c != nil {
		c.Write(
			zap.Int("status", status),
			zap.String("client_ip", auth.ClientIP(r)),
			zap.String("method", r.Method),
			zap.String("path", r.URL.Path),
			zap.Error(cause),
		)
	}
	return caddyhttp.Error(status, cause)
}

// Package handler is the module http.handlers.deepgram_callback: what happens to
// a callback, from the check of its port to the service's answer.
//
//	handler.go       the configuration, and a callback's way through: read this first
//	provision.go     defaults, checks and what is built from the configuration
//	admit.go         who and what is let in
//	target.go        what the target of a request may be
//	spool.go         a batch callback's way into the inbox
//	bridge.go        a streaming callback's way, from its handshake to a live pair
//	streamspool.go   the same where its messages go into the inbox
//	leaststreams.go  a policy for choosing the backend of a stream
package handler

import (
	"errors"
	"net/http"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
	"go.uber.org/zap"

	"github.com/caddy-deepgram/deepgram-callback/app"
	"github.com/caddy-deepgram/deepgram-callback/auth"
	"github.com/caddy-deepgram/deepgram-callback/relay"
	"github.com/caddy-deepgram/deepgram-callback/relay/stream"
)

// Handler receives Deepgram's callbacks in front of a service. It lets in only
// what carries the right credentials, on an allowed port, with an allowed
// method; it relays batch callbacks, whose answer is the service's; and it
// bridges each streaming WebSocket to a backend as one pair that ends together.
//
// It is the last handler of its route.
type Handler struct {
	// Who may call: at least one kind of credential, or anonymous.
	auth.Policy

	// The ports on which callbacks are taken: those of the listener, or of
	// X-Forwarded-Port where a trusted proxy says it. Default: the ports that
	// Deepgram calls, 80, 443, 8080 and 8443.
	Ports []int `json:"ports,omitempty"`

	// The methods of batch callbacks. Default: POST and PUT.
	Methods []string `json:"methods,omitempty"`

	// The most bytes that the body of a callback may have. Default: 64 MiB.
	MaxBody int64 `json:"max_body,omitempty"`

	// Where batch callbacks go: a reverse_proxy with any of its options.
	// Without it, only streaming callbacks are taken.
	Relay *reverseproxy.Handler `json:"relay,omitempty"`

	// Where streaming callbacks go, and their limits. Without it, they go
	// where batch callbacks go.
	Stream *Stream `json:"stream,omitempty"`

	// Accept batch callbacks onto disk and deliver them later, instead of
	// forwarding them at once.
	Spool *Spool `json:"spool,omitempty"`

	app       *app.App
	batch     *relay.Proxy // nil if only streams are taken
	streaming *relay.Proxy // nil if only batch callbacks are taken; may be batch
	inbox     *app.Route   // nil if batch callbacks are forwarded at once
	ports     map[int]bool
	methods   map[string]bool
	allow     string // the allowed methods, as the Allow field has them
	maxBody   int64
	limits    stream.Options

	// What the services are called where callbacks and streams are counted, and
	// where a later configuration has to know them again.
	batchRoute, streamRoute string
	batchSettings           string // see deliverySettings

	logger   *zap.Logger
	refusals *zap.Logger
}

// Stream configures streaming callbacks over WebSockets.
type Stream struct {
	// Refuse WebSockets.
	Off bool `json:"off,omitempty"`

	// The reverse_proxy that finds the backend of a stream and performs the
	// handshake with it. Without upstreams of its own it uses those of relay;
	// as a whole it defaults to relay.
	Proxy *reverseproxy.Handler `json:"proxy,omitempty"`

	// Take the messages into the inbox, which delivers each as a POST of its own,
	// in order, instead of joining the stream with a backend. It needs spool.
	Spool bool `json:"spool,omitempty"`

	// The most bytes that one message may have, in all its frames; a larger
	// one ends the stream with 1009. Default: 1 MiB.
	MaxMessage int64 `json:"max_message,omitempty"`

	// How many streams may be live at once to these backends; more are
	// answered 503. Default: no limit.
	MaxStreams int `json:"max_streams,omitempty"`

	// How long a side may say nothing before it is pinged. Default: 20s.
	PingInterval caddy.Duration `json:"ping_interval,omitempty"`

	// How long a pinged side may still say nothing before the stream ends.
	// Default: 10s.
	PongTimeout caddy.Duration `json:"pong_timeout,omitempty"`

	// How long a side may take to accept what is sent to it, before the
	// stream ends. Default: 10s.
	WriteTimeout caddy.Duration `json:"write_timeout,omitempty"`

	// How long the closing handshake may take. Default: 5s.
	CloseTimeout caddy.Duration `json:"close_timeout,omitempty"`

	// How long live streams may take to finish when the process ends, after
	// both sides were told. Default: 10s.
	Drain caddy.Duration `json:"drain,omitempty"`

	// Let binary messages through. Without it they end the stream with 1003,
	// as Deepgram's results are text.
	AllowBinary bool `json:"allow_binary,omitempty"`
}

// CaddyModule returns the Caddy module information.
func (*Handler) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.handlers.deepgram_callback",
		New: func() caddy.Module { return new(Handler) },
	}
}

// ServeHTTP implements [caddyhttp.MiddlewareHandler]. It never calls the next
// handler.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request, _ caddyhttp.Handler) error {
	if err := checkTarget(r); err != nil {
		return h.refuse(w, r, err)
	}
	streaming := isWebSocket(r)
	admission, err := h.admit(r, streaming)
	if err != nil {
		return h.refuse(w, r, err)
	}
	admission.Identify(r)
	h.Strip(r)

	if streaming {
		return h.bridge(w, r, admission)
	}
	if err := h.admitBody(w, r, admission); err != nil {
		return h.refuse(w, r, err)
	}
	defer r.Body.Close()
	if h.inbox != nil {
		return h.accept(w, r, admission.User)
	}
	return h.forward(w, r)
}

// forward relays a callback at once, and blocks until the service has answered. A callback that
// turns out to be at fault itself, such as by a body that breaks off, is refused after all.
func (h *Handler) forward(w http.ResponseWriter, r *http.Request) (err error) {
	var broken *relay.RequestError
	defer func() { // also where the proxy panics, as it does when an answer breaks off
		if broken == nil {
			app.CountRequest(kindBatch, outcomeAdmitted)
			h.app.Process().Forwarded(h.batchRoute)
		}
	}()
	err = h.batch.Forward(w, r)
	if errors.As(err, &broken) {
		return h.refuse(w, r, broken)
	}
	return err
}

// Interface guards
var (
	_ caddy.Provisioner           = (*Handler)(nil)
	_ caddy.CleanerUpper          = (*Handler)(nil)
	_ caddyhttp.MiddlewareHandler = (*Handler)(nil)
)

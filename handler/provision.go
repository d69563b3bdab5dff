// Provisioning: defaults, checks, and what is built from a configuration.

package handler

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
	"go.uber.org/zap"
	"golang.org/x/net/http/httpguts"

	"github.com/caddy-deepgram/deepgram-callback/app"
	"github.com/caddy-deepgram/deepgram-callback/auth"
	"github.com/caddy-deepgram/deepgram-callback/internal/printable"
	"github.com/caddy-deepgram/deepgram-callback/internal/sender"
	"github.com/caddy-deepgram/deepgram-callback/relay"
	"github.com/caddy-deepgram/deepgram-callback/relay/stream"
)

// The limits of streams where the configuration sets none.
const (
	defaultMaxMessage   = 1 << 20
	defaultPingInterval = 20 * time.Second
	defaultPongTimeout  = 10 * time.Second
	defaultWriteTimeout = 10 * time.Second
	defaultCloseTimeout = 5 * time.Second
	defaultDrain        = 10 * time.Second
)

// The ports that Deepgram calls, and the methods by which it does.
var (
	defaultPorts   = []int{80, 443, 8080, 8443}
	defaultMethods = []string{"POST", "PUT"}
)

// Provision implements [caddy.Provisioner].
func (h *Handler) Provision(ctx caddy.Context) error {
	h.logger = printable.Logger(ctx.Logger())
	h.refusals = printable.Sampled(h.logger)

	// The app keeps the live streams, and runs only where it is loaded.
	var err error
	if h.app, err = app.Of(ctx); err != nil {
		return err
	}
	if err := h.Policy.Provision(ctx); err != nil {
		return err
	}
	if err := h.provisionLimits(); err != nil {
		return err
	}
	if err := h.provisionProxies(ctx); err != nil {
		return err
	}
	if err := h.provisionSpool(ctx); err != nil {
		return err
	}
	h.adviseOnLogs()
	return nil
}

// Cleanup implements [caddy.CleanerUpper]. It is called after a Provision that
// failed, too.
func (h *Handler) Cleanup() error {
	err := h.batch.Cleanup()
	if h.streaming != h.batch {
		err = errors.Join(err, h.streaming.Cleanup())
	}
	h.batch, h.streaming = nil, nil
	return err
}

func (h *Handler) provisionLimits() error {
	ports := h.Ports
	if len(ports) == 0 {
		ports = defaultPorts
	}
	h.ports = make(map[int]bool, len(ports))
	for _, port := range ports {
		if port < 1 || port > 65535 {
			return fmt.Errorf("ports: %d is no port; it has to be from 1 to 65535", port)
		}
		h.ports[port] = true
	}

	if err := checkSize("max_body", h.MaxBody); err != nil {
		return err
	}
	if h.GuessLimit != nil {
		if err := checkDuration("guess_limit: window", h.GuessLimit.Window); err != nil {
			return err
		}
	}
	h.maxBody = h.MaxBody
	if h.maxBody == 0 {
		h.maxBody = auth.DefaultMaxBody
	}

	if err := h.provisionMethods(); err != nil {
		return err
	}
	return h.provisionStreamLimits()
}

// The largest size and duration that can be configured: more than anybody needs,
// and so small that no sum of a few of them overflows.
const (
	MaxSize     = 1 << 60
	MaxDuration = 100 * 365 * 24 * time.Hour
)

// checkSize says what is wrong with a size in bytes; zero stands for the default.
func checkSize(name string, size int64) error {
	if size < 0 || size > MaxSize {
		return fmt.Errorf("%s: %d bytes; it has to be more than zero and at most 1EiB", name, size)
	}
	return nil
}

// checkDuration says what is wrong with a duration; zero stands for the default.
func checkDuration(name string, d caddy.Duration) error {
	if d < 0 || time.Duration(d) > MaxDuration {
		return fmt.Errorf("%s: %s; it has to be more than zero and at most 100 years", name,
			time.Duration(d))
	}
	return nil
}

func (h *Handler) provisionMethods() error {
	methods := h.Methods
	if len(methods) == 0 {
		methods = defaultMethods
	}
	if h.Relay == nil {
		methods = nil // nothing takes batch callbacks
	}
	h.methods = make(map[string]bool, len(methods))
	for _, method := range methods {
		if err := CheckMethod(method); err != nil {
			return fmt.Errorf("methods: %w", err)
		}
		h.methods[method] = true
	}
	if h.Relay == nil {
		methods = []string{"GET"} // a WebSocket's handshake
	}
	h.allow = strings.Join(methods, ", ")
	return nil
}

// CheckMethod returns an error if a method cannot be that of a batch callback.
func CheckMethod(method string) error {
	// A method is a token (RFC 9110, section 9.1), as the name of a header field is.
	if !httpguts.ValidHeaderFieldName(method) || method != strings.ToUpper(method) {
		return fmt.Errorf("%q is no method; methods are upper-case words like POST", method)
	}
	if method == "CONNECT" || method == "TRACE" {
		return fmt.Errorf("%s cannot carry a callback", method)
	}
	return nil
}

func (h *Handler) provisionStreamLimits() error {
	if h.Stream == nil {
		h.Stream = new(Stream)
	}
	s := h.Stream
	if err := checkSize("stream: max_message", s.MaxMessage); err != nil {
		return err
	}
	if s.MaxStreams < 0 {
		return fmt.Errorf("stream: max_streams: %d; it has to be more than zero", s.MaxStreams)
	}
	if s.MaxMessage == 0 {
		s.MaxMessage = defaultMaxMessage
	}
	for _, d := range []struct {
		name  string
		value *caddy.Duration
		def   time.Duration
	}{
		{"ping_interval", &s.PingInterval, defaultPingInterval},
		{"pong_timeout", &s.PongTimeout, defaultPongTimeout},
		{"write_timeout", &s.WriteTimeout, defaultWriteTimeout},
		{"close_timeout", &s.CloseTimeout, defaultCloseTimeout},
		{"drain", &s.Drain, defaultDrain},
	} {
		if err := checkDuration("stream: "+d.name, *d.value); err != nil {
			return err
		}
		if *d.value == 0 {
			*d.value = caddy.Duration(d.def)
		}
	}
	h.limits = stream.Options{
		MaxMessage:   s.MaxMessage,
		AllowBinary:  s.AllowBinary,
		PingInterval: time.Duration(s.PingInterval),
		PongTimeout:  time.Duration(s.PongTimeout),
		WriteTimeout: time.Duration(s.WriteTimeout),
		CloseTimeout: time.Duration(s.CloseTimeout),
	}
	return nil
}

func (h *Handler) provisionProxies(ctx caddy.Context) error {
	if h.Relay == nil && (h.Stream.Off || h.Stream.Proxy == nil) {
		return errors.New(
			"no upstreams: name the service behind this gateway, as in `deepgram_callback 127.0.0.1:9000`",
		)
	}
	switch {
	case h.Stream.Off && h.Stream.Proxy != nil:
		return errors.New("stream: off, but with upstreams; it is one or the other")
	case h.Stream.Off && h.Stream.Spool:
		return errors.New("stream: off, but into the inbox; it is one or the other")
	case h.Stream.Spool && h.Stream.Proxy != nil:
		return errors.New("stream: spool, but with upstreams; it is one or the other: " +
			"what the inbox takes is delivered where batch callbacks go")
	case h.Stream.Spool && h.Spool == nil:
		return errors.New("stream: spool: there is no inbox; add `spool` beside `stream`")
	}
	// Provisioning a proxy empties its raw configuration, so whatever is taken
	// from that comes first.
	h.inheritUpstreams()
	var err error
	if h.batchSettings, err = deliverySettings(h); err != nil {
		return fmt.Errorf("relay: %w", err)
	}
	h.batchRoute = routeName(h.Relay)
	h.streamRoute = h.batchRoute
	if h.Stream.Proxy != nil {
		h.streamRoute = routeName(h.Stream.Proxy)
	}

	if h.Relay != nil {
		if h.batch, err = relay.NewProxy(ctx, h.Relay); err != nil {
			return fmt.Errorf("relay: %w", err)
		}
	}
	switch {
	case h.Stream.Off, h.Stream.Spool:
	case h.Stream.Proxy != nil:
		if h.streaming, err = relay.NewProxy(ctx, h.Stream.Proxy); err != nil {
			return fmt.Errorf("stream: proxy: %w", err)
		}
	default:
		h.streaming = h.batch
	}
	return nil
}

// inheritUpstreams gives a proxy for streams without upstreams of its own those of
// the relay.
func (h *Handler) inheritUpstreams() {
	proxy := h.Stream.Proxy
	if proxy == nil || h.Relay == nil || len(proxy.Upstreams) > 0 || proxy.DynamicUpstreamsRaw != nil {
		return
	}
	for _, upstream := range h.Relay.Upstreams {
		proxy.Upstreams = append(proxy.Upstreams,
			&reverseproxy.Upstream{Dial: upstream.Dial, MaxRequests: upstream.MaxRequests})
	}
	proxy.DynamicUpstreamsRaw = slices.Clone(h.Relay.DynamicUpstreamsRaw)
	proxy.TransportRaw = inheritTLS(proxy.TransportRaw, h.Relay.TransportRaw)
}

// inheritTLS gives the transport of a proxy for streams, if it does not configure TLS, that of the
// relay: its upstreams come from the relay too, and are still the same https:// ones.
func inheritTLS(transport, relays json.RawMessage) json.RawMessage {
	if transport == nil {
		return slices.Clone(relays)
	}
	// What is no JSON object, or another transport than HTTP's, is left to its own module.
	var own, inherited map[string]json.RawMessage
	if json.Unmarshal(transport, &own) != nil || json.Unmarshal(relays, &inherited) != nil ||
		string(own["protocol"]) != `"http"` || string(inherited["protocol"]) != `"http"` ||
		own["tls"] != nil || inherited["tls"] == nil {
		return transport
	}
	own["tls"] = inherited["tls"]
	merged, err := json.Marshal(own)
	if err != nil {
		return transport
	}
	return merged
}

// routeName is what a service is called where callbacks are counted and listed: by
// its upstreams.
func routeName(proxy *reverseproxy.Handler) string {
	if proxy == nil {
		return ""
	}
	if len(proxy.Upstreams) == 0 {
		var dynamic struct {
			Source string `json:"source"`
		}
		// If it cannot be decoded, its own module says what is wrong.
		_ = json.Unmarshal(proxy.DynamicUpstreamsRaw, &dynamic)
		return "dynamic " + dynamic.Source
	}
	dials := make([]string, len(proxy.Upstreams))
	for i, upstream := range proxy.Upstreams {
		dials[i] = upstream.Dial
	}
	slices.Sort(dials)
	return strings.Join(slices.Compact(dials), ",")
}

// adviseOnLogs warns of the configured credentials that Caddy's own logs show. Caddy encodes a
// request for them before any handler runs, and hides Authorization, but not dg-token nor a query.
func (h *Handler) adviseOnLogs() {
	var fields []string
	if h.DGToken != nil {
		fields = append(fields, "request>headers>"+sender.TokenHeader)
	}
	if h.QuerySecret != nil {
		fields = append(fields, "request>uri (parameter "+h.QuerySecret.Parameter+")")
	}
	fields = slices.DeleteFunc(fields, func(field string) bool { return !h.app.Once(field) })
	if len(fields) == 0 {
		return
	}
	h.logger.Warn("access and error logs show these credentials unless a filter encoder "+
		"hides them; docs/recipes.md has one to copy", zap.Strings("log_fields", fields))
}

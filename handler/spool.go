// The way of a batch callback into the inbox, and the configuration of that.

package handler

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-deepgram/deepgram-callback/app"
	"github.com/caddy-deepgram/deepgram-callback/relay/deliver"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/identity"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/seal"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/webhook"
)

// Spool configures the inbox: batch callbacks are accepted onto disk, answered,
// and delivered later through relay.
type Spool struct {
	// Where callbacks are kept. Default: on disk, in the directory that path names.
	StoreRaw json.RawMessage `json:"store,omitempty" caddy:"namespace=deepgram_callback.stores inline_key=engine"`

	// The directory of an inbox on disk: the short form of a store `disk` with that dir.
	// Default: deepgram_callback in Caddy's data directory.
	Path string `json:"path,omitempty"`

	// The name under which this handler's callbacks are stored. Callbacks whose
	// name is not configured any more wait for it, unless only one name is
	// configured for the inbox: that takes them over. Default: the upstreams of
	// relay.
	Route string `json:"route,omitempty"`

	// How long to wait after each failed delivery, with ±20 % jitter; the last
	// one repeats. Default: 1s, 5s, 30s, 2m, 10m.
	RetryDelays []caddy.Duration `json:"retry_delays,omitempty"`

	// How long a callback is tried before it becomes a dead letter. Default:
	// 72h.
	RetryFor caddy.Duration `json:"retry_for,omitempty"`

	// How many deliveries run at a time. Default: 16.
	Concurrency int `json:"concurrency,omitempty"`

	// The most bytes that the inbox may take up on disk; beyond it callbacks
	// are answered 503. At least max_body. Default: 10 GiB.
	MaxSize int64 `json:"max_size,omitempty"`

	// For how long a callback that comes again is answered without being
	// delivered again. Only one whose body has a request id can come again.
	// Default: 24h; -1 (`off` in a Caddyfile): every callback is delivered.
	DedupeWindow caddy.Duration `json:"dedupe_window,omitempty"`

	// Which callbacks are delivered in the order in which they came.
	// `request_id`: those with the same request id, and of the results of live
	// streams that have none, those to the same URI. `uri`: all to the same URI.
	// `none`: no callback waits for another. Those for another host or of
	// another user never wait for each other. Default: `request_id`.
	OrderBy identity.OrderBy `json:"order_by,omitempty"`

	// For how long callbacks are kept that were delivered, to be looked at and sent
	// again. They count towards max_size, but give way before anything is refused.
	// Default: they are not kept.
	Keep caddy.Duration `json:"keep,omitempty"`

	// How many deliveries may begin in a second or a minute, such as `10/s` or
	// `300/m`, evenly spaced. Default: no limit.
	Rate string `json:"rate,omitempty"`

	// Keys by which bodies and header fields are encrypted before they are stored,
	// each 32 bytes in base64: the first encrypts, all decrypt. A key is replaced
	// by a new one before it. Placeholders are replaced. Default: not encrypted.
	Encrypt []string `json:"encrypt,omitempty"`

	// For how long dead letters are kept. Default: 30d.
	DeadLetterKeep caddy.Duration `json:"dead_letter_keep,omitempty"`

	// Secrets (whsec_…) with which deliveries are signed, as Standard Webhooks
	// defines it; several while one is being replaced. May hold placeholders.
	Sign []string `json:"sign,omitempty"`
}

const (
	defaultMaxSize = 10 << 30

	// DedupeOff is the DedupeWindow with which every callback is delivered.
	DedupeOff = caddy.Duration(-1)
)

// provisionSpool adds this handler's route to the app, which opens the inbox.
func (h *Handler) provisionSpool(ctx caddy.Context) error {
	if h.Spool == nil {
		return nil
	}
	s := h.Spool
	if h.batch == nil {
		return errors.New("spool: no upstreams for batch callbacks, to which it delivers")
	}
	if s.Concurrency < 0 {
		return fmt.Errorf("spool: concurrency: %d; it has to be more than zero", s.Concurrency)
	}
	window := s.DedupeWindow
	if window == DedupeOff {
		window = 0
	}
	if err := cmp.Or(
		checkSize("max_size", s.MaxSize),
		checkDuration("retry_for", s.RetryFor),
		checkDuration("dedupe_window", window),
		checkDuration("keep", s.Keep),
		checkDuration("dead_letter_keep", s.DeadLetterKeep),
	); err != nil {
		return fmt.Errorf("spool: %w", err)
	}
	if err := s.OrderBy.Check(); err != nil {
		return fmt.Errorf("spool: order_by: %w", err)
	}
	store, err := s.loadStore(ctx)
	if err != nil {
		return fmt.Errorf("spool: %w", err)
	}
	interval, err := ParseRate(s.Rate)
	if err != nil {
		return fmt.Errorf("spool: rate: %w", err)
	}
	keys, err := newKeys(s.Encrypt)
	if err != nil {
		return fmt.Errorf("spool: encrypt: %w", err)
	}
	signer, err := newSigner(s.Sign)
	if err != nil {
		return fmt.Errorf("spool: sign: %w", err)
	}
	route := &app.Route{
		Store: store, MaxSize: s.MaxSize, Name: s.Route, Settings: h.batchSettings, Users: h.Usernames(),
	}
	if route.MaxSize == 0 {
		route.MaxSize = defaultMaxSize
	}
	if route.MaxSize < h.maxBody {
		// A larger body would be answered 503 as often as its sender repeats it.
		return fmt.Errorf("spool: max_size: %d bytes are less than one body may have "+
			"(max_body: %d bytes); make one larger or the other smaller", route.MaxSize, h.maxBody)
	}
	if limit := h.limits.MaxMessage; h.Stream.Spool && route.MaxSize < limit {
		return fmt.Errorf("spool: max_size: %d bytes are less than one message of a stream may have "+
			"(max_message: %d bytes); make one larger or the other smaller", route.MaxSize, limit)
	}
	if route.Name == "" {
		route.Name = h.batchRoute
	}
	if h.Stream.Spool {
		h.streamRoute = route.Name
	}
	service := &deliver.Service{Proxy: h.batch, Signer: signer}
	route.Config = spool.RouteConfig{
		Deliver:        service.Deliver,
		OrderBy:        s.OrderBy,
		RetryFor:       time.Duration(s.RetryFor),
		Concurrency:    s.Concurrency,
		DedupeWindow:   time.Duration(s.DedupeWindow),
		Interval:       interval,
		Keep:           time.Duration(s.Keep),
		Encrypt:        keys,
		DeadLetterKeep: time.Duration(s.DeadLetterKeep),
	}
	for _, delay := range s.RetryDelays {
		if delay == 0 {
			return errors.New("spool: retry_delays: each has to be more than zero")
		}
		if err := checkDuration("spool: retry_delays", delay); err != nil {
			return err
		}
		route.Config.RetryDelays = append(route.Config.RetryDelays, time.Duration(delay))
	}
	if err := h.app.AddRoute(route); err != nil {
		return fmt.Errorf("spool: %w", err)
	}
	h.inbox = route
	return nil
}

// deliverySettings is the same for two handlers that deliver in the same way. It is a hash, since
// there may be secrets in what it is made of.
func deliverySettings(h *Handler) (string, error) {
	if h.Spool == nil {
		return "", nil
	}
	spool := *h.Spool
	spool.StoreRaw, spool.Path, spool.Route, spool.MaxSize = nil, "", "", 0 // which say where, not how
	settings, err := json.Marshal([]any{h.Relay, spool})
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(settings)
	return string(sum[:]), nil
}

// loadStore loads the module of the store.
func (s *Spool) loadStore(ctx caddy.Context) (spool.StoreModule, error) {
	if s.StoreRaw == nil {
		dir, err := json.Marshal(map[string]string{"dir": s.Path})
		if err != nil {
			return nil, err
		}
		loaded, err := ctx.LoadModuleByID("deepgram_callback.stores.disk", dir)
		if err != nil {
			return nil, fmt.Errorf("path: %w", err)
		}
		return asStore(loaded)
	}
	if s.Path != "" {
		return nil, errors.New("there is a path and a store; path is the short form of `store disk`")
	}
	loaded, err := ctx.LoadModule(s, "StoreRaw")
	if err != nil {
		return nil, fmt.Errorf("store: %w", err)
	}
	return asStore(loaded)
}

func asStore(loaded any) (spool.StoreModule, error) {
	store, ok := loaded.(spool.StoreModule)
	if !ok {
		return nil, fmt.Errorf("store: %T is no store of callbacks", loaded)
	}
	return store, nil
}

// newSigner makes the signer of deliveries, or nil where no secret is configured.
// Its errors show nothing of the secrets.
func newSigner(configured []string) (*webhook.Signer, error) {
	secrets, err := replaceAll("secret", configured)
	if err != nil || len(secrets) == 0 {
		return nil, err
	}
	return webhook.NewSigner(secrets...)
}

// newKeys makes the keys of an inbox. Its errors show none of them.
func newKeys(configured []string) (*seal.Keys, error) {
	keys, err := replaceAll("key", configured)
	if err != nil {
		return nil, err
	}
	return seal.NewKeys(keys...)
}

// replaceAll replaces the placeholders in secrets, and shows none of them in its error.
func replaceAll(what string, configured []string) ([]string, error) {
	repl := caddy.NewReplacer()
	values := make([]string, len(configured))
	for i, text := range configured {
		value, err := repl.ReplaceOrErr(text, true, true)
		if err != nil {
			return nil, fmt.Errorf("%s %d of %d: a placeholder in it is unknown or empty", what, i+1,
				len(configured))
		}
		values[i] = value
	}
	return values, nil
}

// ParseRate reads how many there may be in a second or a minute, such as 10/s, and returns the time
// from one to the next. An empty text is no limit, which is zero.
func ParseRate(text string) (interval time.Duration, err error) {
	if text == "" {
		return 0, nil
	}
	number, unit, _ := strings.Cut(text, "/")
	per, ok := map[string]time.Duration{"s": time.Second, "m": time.Minute}[unit]
	n, err := strconv.ParseUint(number, 10, 32)
	if !ok || err != nil || n == 0 {
		return 0, fmt.Errorf(
			"%q is not a number of deliveries in a second or a minute, such as 10/s or 300/m",
			text,
		)
	}
	return max(per/time.Duration(n), 1), nil
}

// accept takes a callback into the inbox, and answers it once it is safe there. A sender that goes
// away after it has sent everything, or shuts its sending half, does not stop that.
func (h *Handler) accept(w http.ResponseWriter, r *http.Request, user string) error {
	ctx := context.WithoutCancel(r.Context())
	inbox, err := h.inbox.Inbox(ctx)
	if err != nil {
		return h.refuseUnkept(w, r, err)
	}
	receipt, err := inbox.Accept(ctx, spool.Envelope{
		Route:         h.inbox.Name,
		Method:        r.Method,
		Host:          strings.ToLower(r.Host), // its case has no meaning (RFC 9110, section 4.2.3)
		User:          user,
		URI:           r.URL.RequestURI(),
		Header:        deliver.Stored(r),
		ContentLength: r.ContentLength,
	}, r.Body)
	if err != nil {
		return h.refuseUnkept(w, r, err)
	}
	app.CountRequest(kindBatch, outcomeAdmitted)
	w.Header().Set(webhook.HeaderID, receipt.ID.String())
	w.WriteHeader(http.StatusAccepted)
	return nil
}

// refuseUnkept turns away what the inbox does not take, or what is itself the reason.
func (h *Handler) refuseUnkept(w http.ResponseWriter, r *http.Request, err error) error {
	var refused *spool.RefusedError
	switch {
	case errors.As(err, &refused):
		err = unavailable(string(refused.Reason), err, refused.RetryAfter)
	case errors.Is(err, spool.ErrClosed), errors.Is(err, app.ErrNotOpen):
		err = unavailable(app.ReasonSpoolClosed, err, time.Second)
	}
	return h.refuse(w, r, err)
}

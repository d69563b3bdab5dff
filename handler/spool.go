package handler

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"path/filepath"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"golang.org/x/net/http/httpguts"

	"github.com/caddy-deepgram/deepgram-callback/app"
	"github.com/caddy-deepgram/deepgram-callback/relay"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
)

// Spool configures the inbox: batch callbacks are accepted onto disk, answered,
// and delivered later through relay.
type Spool struct {
	// The directory of the inbox. Handlers that name the same one share it.
	// Default: deepgram_callback in Caddy's data directory.
	Path string `json:"path,omitempty"`

	// The name under which this handler's callbacks are stored. Callbacks of a
	// name that is not configured any more wait, unless the inbox has only one
	// name left, which then takes them over. Default: the upstreams of relay.
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
	// are answered 503. Default: 10 GiB.
	MaxSize int64 `json:"max_size,omitempty"`

	// For how long the same callback again is answered without being delivered
	// again. Default: 24h.
	DedupeWindow caddy.Duration `json:"dedupe_window,omitempty"`

	// For how long dead letters are kept. Default: 30d.
	DeadLetterKeep caddy.Duration `json:"dead_letter_keep,omitempty"`

	// Secrets (whsec_…) with which deliveries are signed as Standard Webhooks
	// has it; several while one is being replaced. Placeholders are replaced.
	Sign []string `json:"sign,omitempty"`
}

const (
	defaultMaxSize = 10 << 30

	// deliveryTimeout is how long a service may take to answer a delivery: a
	// worker must not be lost to one that never does.
	deliveryTimeout = 5 * time.Minute
)

// provisionSpool makes this handler's route to its inbox part of the app,
// which opens it.
func (h *Handler) provisionSpool(a *app.App) error {
	if h.Spool == nil {
		return nil
	}
	s := h.Spool
	if h.batch == nil {
		return errors.New("spool: no upstreams for batch callbacks, which alone go through it")
	}
	if s.MaxSize < 0 || s.Concurrency < 0 || s.RetryFor < 0 || s.DedupeWindow < 0 || s.DeadLetterKeep < 0 {
		return errors.New("spool: sizes, numbers and durations have to be more than zero")
	}
	path, err := spoolPath(s.Path)
	if err != nil {
		return fmt.Errorf("spool: path: %w", err)
	}
	signer, err := newSigner(s.Sign)
	if err != nil {
		return fmt.Errorf("spool: sign: %w", err)
	}
	route := &app.Route{Path: path, MaxSize: s.MaxSize, Name: s.Route, Settings: h.batchSettings}
	if route.MaxSize == 0 {
		route.MaxSize = defaultMaxSize
	}
	if route.Name == "" {
		route.Name = h.batchRoute
	}
	d := &delivery{proxy: h.batch, signer: signer}
	route.Config = spool.RouteConfig{
		Deliver:        d.deliver,
		RetryFor:       time.Duration(s.RetryFor),
		Concurrency:    s.Concurrency,
		DedupeWindow:   time.Duration(s.DedupeWindow),
		DeadLetterKeep: time.Duration(s.DeadLetterKeep),
	}
	for _, delay := range s.RetryDelays {
		if delay <= 0 {
			return errors.New("spool: retry_delays: each has to be more than zero")
		}
		route.Config.RetryDelays = append(route.Config.RetryDelays, time.Duration(delay))
	}
	if err := a.AddRoute(route); err != nil {
		return fmt.Errorf("spool: %w", err)
	}
	h.inbox = route
	return nil
}

// deliverySettings tells one way to deliver from another, and nothing else: there may
// be secrets in it.
func deliverySettings(h *Handler) (string, error) {
	if h.Spool == nil {
		return "", nil
	}
	spool := *h.Spool
	spool.Path, spool.Route, spool.MaxSize = "", "", 0 // which say where, not how
	settings, err := json.Marshal([]any{h.Relay, spool})
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(settings)
	return string(sum[:]), nil
}

func spoolPath(configured string) (string, error) {
	if configured == "" {
		return filepath.Join(caddy.AppDataDir(), "deepgram_callback"), nil
	}
	return caddy.NewReplacer().ReplaceOrErr(configured, true, true)
}

// newSigner resolves the placeholders of signing secrets. Its errors show none
// of them.
func newSigner(configured []string) (*spool.Signer, error) {
	if len(configured) == 0 {
		return nil, nil
	}
	repl := caddy.NewReplacer()
	secrets := make([]string, len(configured))
	for i, secret := range configured {
		value, err := repl.ReplaceOrErr(secret, true, true)
		if err != nil {
			return nil, fmt.Errorf("secret %d of %d: a placeholder in it is unknown or empty", i+1, len(configured))
		}
		secrets[i] = value
	}
	return spool.NewSigner(secrets...)
}

// accept takes a callback into the inbox and answers it once it is on disk.
func (h *Handler) accept(w http.ResponseWriter, r *http.Request) error {
	inbox, err := h.inbox.Inbox(r.Context())
	if err != nil {
		return h.refuse(w, r, unavailable("spool_closed", err, time.Second))
	}
	receipt, err := inbox.Accept(r.Context(), spool.Envelope{
		Route:         h.inbox.Name,
		Method:        r.Method,
		URI:           r.URL.RequestURI(),
		Header:        storedHeader(r),
		ContentLength: r.ContentLength,
	}, r.Body)
	var refused *spool.RefusedError
	switch {
	case errors.As(err, &refused):
		return h.refuse(w, r, unavailable(string(refused.Reason), err, refused.RetryAfter))
	case errors.Is(err, spool.ErrClosed):
		return h.refuse(w, r, unavailable("spool_closed", err, time.Second))
	case err != nil:
		return h.refuse(w, r, err)
	}
	w.Header().Set(spool.HeaderWebhookID, receipt.ID.String())
	w.WriteHeader(http.StatusAccepted)
	return nil
}

// What of a request is no header field but needed to deliver it is stored
// beside the fields, under names that none can have.
const (
	storedHost    = ":host"
	storedScheme  = ":scheme"
	storedPeer    = ":peer"    // the address of the connection
	storedClient  = ":client"  // of the client, behind trusted proxies
	storedTrusted = ":trusted" // whether the peer is such a proxy
)

// hopByHop are the fields that concern one connection (RFC 9110, section
// 7.6.1), and those that the length of the stored body replaces.
var hopByHop = []string{
	"Connection", "Proxy-Connection", "Keep-Alive", "Proxy-Authenticate", "Proxy-Authorization",
	"Te", "Trailer", "Transfer-Encoding", "Upgrade", "Content-Length", "Expect",
}

// storedHeader is what is stored of a request beside its body.
func storedHeader(r *http.Request) http.Header {
	header := make(http.Header, len(r.Header)+5)
	for name, values := range r.Header {
		if !httpguts.HeaderValuesContainsToken(r.Header["Connection"], name) {
			header[name] = values
		}
	}
	for _, name := range hopByHop {
		delete(header, name)
	}
	header[storedHost] = []string{r.Host}
	header[storedPeer] = []string{r.RemoteAddr}
	header[storedClient] = []string{clientIP(r)}
	if r.TLS != nil {
		header[storedScheme] = []string{"https"}
	}
	if trusted, _ := caddyhttp.GetVar(r.Context(), caddyhttp.TrustedProxyVarKey).(bool); trusted {
		header[storedTrusted] = []string{"true"}
	}
	return header
}

// delivery hands stored callbacks to the service.
type delivery struct {
	proxy  *relay.Proxy
	signer *spool.Signer
}

// backgroundServer stands for the server of a request that no server took.
var backgroundServer = new(caddyhttp.Server)

// deliver makes one attempt, through the same proxy that forwards callbacks
// which are not stored.
func (d *delivery) deliver(ctx context.Context, msg *spool.Message, body spool.Body) (result spool.Result) {
	ctx, cancel := context.WithTimeout(ctx, deliveryTimeout)
	defer cancel()

	answer := &recorder{header: make(http.Header)}
	lent := &lentBody{body: body, left: body.Size()}
	defer lent.takeBack()
	r, err := d.request(ctx, msg, body, answer)
	if err != nil {
		return spool.Result{Err: err}
	}
	r.Body = lent
	defer func() {
		// The proxy panics with this, for net/http to see, where an answer breaks off.
		if p := recover(); p != nil && p != http.ErrAbortHandler { //nolint:errorlint // it is that very value
			panic(p)
		} else if p != nil {
			result = spool.Result{Err: errors.New("the service's answer broke off")}
		}
	}()
	switch err := d.proxy.Forward(answer, r); {
	case err != nil:
		return failure(err)
	case answer.status == statusClientClosedRequest && ctx.Err() != nil:
		return spool.Result{Err: context.Cause(ctx)}
	}
	return spool.Result{
		Status:     answer.status,
		RetryAfter: spool.ParseRetryAfter(answer.header.Get("Retry-After"), time.Now()),
	}
}

// statusClientClosedRequest is what the proxy answers to a request that was
// given up: there is no answer of the service then.
const statusClientClosedRequest = 499

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

// failure is the result of an attempt that got no answer.
func failure(err error) spool.Result {
	var handlerErr caddyhttp.HandlerError
	if errors.As(err, &handlerErr) && handlerErr.Err != nil {
		err = handlerErr.Err
	}
	return spool.Result{Err: err}
}

// request makes a stored callback the request that it was, but for its body.
func (d *delivery) request(ctx context.Context, msg *spool.Message, body spool.Body, w http.ResponseWriter) (*http.Request, error) {
	target, err := url.ParseRequestURI(msg.URI)
	if err != nil {
		return nil, fmt.Errorf("stored URI: %w", err)
	}
	header := maps.Clone(msg.Header)
	stored := func(name string) string {
		defer delete(header, name)
		if values := header[name]; len(values) > 0 {
			return values[0]
		}
		return ""
	}
	r := (&http.Request{
		Method:        msg.Method,
		URL:           target,
		RequestURI:    msg.URI,
		Proto:         "HTTP/1.1",
		ProtoMajor:    1,
		ProtoMinor:    1,
		Header:        header,
		Host:          stored(storedHost),
		RemoteAddr:    stored(storedPeer),
		ContentLength: body.Size(),
	}).WithContext(ctx)
	if stored(storedScheme) == "https" {
		r.TLS = &tls.ConnectionState{HandshakeComplete: true}
	}
	client, trusted := stored(storedClient), stored(storedTrusted) == "true"
	if err := d.signer.Sign(header, msg, body, time.Now()); err != nil {
		return nil, err
	}

	r = caddyhttp.PrepareRequest(r, caddy.NewReplacer(), w, backgroundServer)
	caddyhttp.SetVar(r.Context(), caddyhttp.ClientIPVarKey, client)
	caddyhttp.SetVar(r.Context(), caddyhttp.TrustedProxyVarKey, trusted)
	return r, nil
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

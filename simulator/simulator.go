// Package simulator plays the sending half of Deepgram's callbacks, as the
// vendor documents it, so that a receiver can be tried without an account and
// without a public address. It is a Caddy plugin of its own: the gateway does
// not import it, and production builds leave it out.
//
// A request takes this way through the files:
//
//	simulator.go    the module, its configuration, its endpoints: read this first
//	caller.go       who may call
//	listen.go       POST /v1/listen     speak.go  POST /v1/speak     read.go  POST /v1/read
//	live.go         GET /v1/listen, the WebSocket: one speaker, one callback
//	callbackurl.go  which callback URLs are taken
//	dial.go         which addresses are dialled; admin.go  which one never is
//	sender.go       callbacks by HTTP: attempts, retries, what is logged
//	outbox.go       what outlives a request: pending callbacks and live streams
//	story.go        the words and when they are said; transcript.go and script.go
//	                put them into a pre-recorded result and into streaming messages;
//	                recorded.go plays messages that the user has recorded
//	bodies.go       the recordings that results are made of
//	patch.go        making a recording fit its request
//
// How much was heard is measured by the package audio.
package simulator

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/gorilla/websocket"
	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
)

func init() {
	caddy.RegisterModule(Simulator{})
	httpcaddyfile.RegisterHandlerDirective("deepgram_simulator", parseCaddyfile)
	httpcaddyfile.RegisterDirectiveOrder("deepgram_simulator", httpcaddyfile.Before, "respond")
}

const (
	defaultLatency    = 500 * time.Millisecond
	defaultRetries    = 10
	defaultRetryDelay = 30 * time.Second
	defaultTimeout    = 10 * time.Second

	// The vendor takes files of up to 2 GB. Audio is counted and hashed as it
	// comes and never kept, so the limit costs no memory.
	defaultMaxBody = 2 << 30
)

// defaultPorts are the only ports that the vendor allows in callback URLs.
var defaultPorts = []int{80, 443, 8080, 8443}

// Simulator is an HTTP handler that answers Deepgram's endpoints `/v1/listen`
// (POST and WebSocket), `/v1/speak`, `/v2/speak` (POST) and `/v1/read` with
// simulated results, and delivers those results to callback URLs the way the vendor documents it.
// Requests for other paths go to the next handler.
//
// It is meant for development and tests. Nothing is transcribed: results take
// their duration from the audio and their words from a text, and say in
// `metadata.simulated` that they are simulated.
type Simulator struct {
	// The API keys that are accepted, as `Authorization: Token <key>`.
	// Without any, every key is accepted and its identifier derived from it,
	// but requests that a web page of another origin sends are refused.
	APIKeys []APIKey `json:"api_keys,omitempty"`

	// Whether callbacks carry the `dg-token` header, which is the identifier
	// of the API key of the request. The vendor no longer promises the header,
	// so try a receiver with it off, too. Default: true.
	DGToken *bool `json:"dg_token,omitempty"`

	// The ports that callback URLs may have. Default: 80, 443, 8080 and 8443,
	// as the vendor documents.
	Ports []int `json:"ports,omitempty"`

	// Whether callback URLs may have any port; excludes `ports`. Default: false.
	AnyPort bool `json:"any_port,omitempty"`

	// IP addresses and CIDR ranges that may be called besides loopback. They
	// are checked against the resolved address at the time of dialling, so no
	// host name gets around them. The address of Caddy's admin endpoint is
	// never called. Default: none.
	Allow []string `json:"allow,omitempty"`

	// How long to wait before the first attempt of a batch callback.
	// Default: 500ms.
	Latency *caddy.Duration `json:"latency,omitempty"`

	// How often a batch callback is tried again after it failed. Default: 10.
	Retries *int `json:"retries,omitempty"`

	// The time between the end of an attempt and the next one. Default: 30s.
	RetryDelay *caddy.Duration `json:"retry_delay,omitempty"`

	// How long an attempt may take, from dialling to the answer. For a
	// WebSocket callback it limits the handshake, and each message. The time
	// that the fault `slow_upload` takes is not counted. Default: 10s.
	Timeout caddy.Duration `json:"timeout,omitempty"`

	// A file or a folder of bodies to send instead of the built-in ones. The
	// beginning of a file's name tells its use: `prerecorded*.json`,
	// `stream*.json` (messages, in the order of the names), `read*.json`,
	// `speak*` (audio), and `transcript*.txt` (words for the built-in
	// transcripts). Default: built-in bodies.
	Results string `json:"results,omitempty"`

	// What is made to go wrong. Default: nothing.
	Faults Faults `json:"faults,omitzero"`

	// The largest request body in bytes; larger ones are answered 413.
	// Default: 2 GiB.
	MaxBody int64 `json:"max_body,omitempty"`

	// Files with PEM certificates of authorities to trust, besides those of
	// the system, when a callback goes to https or wss. Default: none.
	RootCAPEMFiles []string `json:"root_ca_pem_files,omitempty"`

	logger   *zap.Logger
	keyIDs   map[[sha256.Size]byte]string
	urls     urlPolicy
	latency  time.Duration
	timeout  time.Duration
	maxBody  int64
	bodies   *bodies
	sender   *sender
	sockets  *websocket.Dialer
	outbox   *outbox
	idle     time.Duration
	dgTokens bool
}

// APIKey is a key that requests may carry, and what callbacks tell of it.
type APIKey struct {
	// The key itself. Placeholders such as `{env.DEEPGRAM_API_KEY}` are
	// replaced when the configuration is loaded.
	Key string `json:"key,omitempty"`

	// The key's identifier: the value of `dg-token` in callbacks. Placeholders
	// are replaced as in the key.
	ID string `json:"id,omitempty"`
}

// Faults are deviations from a smooth delivery, to try a receiver with.
type Faults struct {
	// Send every callback by HTTP a second time after it succeeded.
	Duplicate bool `json:"duplicate,omitempty"`

	// Drop a live stream, both its sockets and without a Close frame, after
	// this many `Results` messages. Default: 0, which never does.
	DropAfter int `json:"drop_after,omitempty"`

	// Leave the WebSocket to the callback server open after the last message.
	NeverClose bool `json:"never_close,omitempty"`

	// Send callbacks at no more than this many bytes per second. Default: 0,
	// which is no limit.
	SlowUpload int64 `json:"slow_upload,omitempty"`
}

// CaddyModule returns the Caddy module information.
func (Simulator) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.handlers.deepgram_simulator",
		New: func() caddy.Module { return new(Simulator) },
	}
}

// Provision checks the configuration and sets up the simulator.
func (s *Simulator) Provision(ctx caddy.Context) error {
	s.logger = ctx.Logger()
	if err := s.check(); err != nil {
		return err
	}

	s.idle = streamIdleTimeout
	s.latency = durationOr(s.Latency, defaultLatency)
	s.timeout = defaultTimeout
	if s.Timeout > 0 {
		s.timeout = time.Duration(s.Timeout)
	}
	s.maxBody = defaultMaxBody
	if s.MaxBody > 0 {
		s.maxBody = s.MaxBody
	}
	s.dgTokens = s.DGToken == nil || *s.DGToken

	repl := caddy.NewReplacer()
	if err := s.loadKeys(repl); err != nil {
		return err
	}
	loaded, err := loadBodies(repl.ReplaceKnown(s.Results, ""))
	if err != nil {
		return fmt.Errorf("results: %w", err)
	}
	s.bodies = loaded

	allowed, err := parseAllowed(s.Allow)
	if err != nil {
		return err
	}
	s.urls = urlPolicy{
		ports: s.Ports, anyPort: s.AnyPort,
		addresses: addressPolicy{allowed: allowed, admin: newAdminEndpoint(ctx)},
	}
	if len(s.urls.ports) == 0 {
		s.urls.ports = defaultPorts
	}
	if err := s.setUpSending(); err != nil {
		return err
	}

	shared, _, err := outboxes.LoadOrNew(outboxKey, func() (caddy.Destructor, error) {
		return newOutbox(), nil
	})
	if err != nil {
		return err
	}
	s.outbox = shared.(*outbox)
	s.adviseOnLogs(ctx)
	return nil
}

// adviseOnLogs warns of what the access log of the simulator's server shows. Caddy encodes
// a request for it before any handler runs, and hides Authorization, but neither the
// callback's credentials in the query nor an API key that a browser sends as a subprotocol.
func (s *Simulator) adviseOnLogs(ctx caddy.Context) {
	server, ok := ctx.Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server)
	if !ok || server.Logs == nil {
		return
	}
	s.outbox.advice.Do(func() {
		s.logger.Warn("the access log shows the credentials of callback URLs "+
			"unless a filter hides them; the simulator's README has one to copy",
			zap.Strings("log_fields", []string{
				"request>uri (parameters callback and extra)",
				"request>headers>Sec-Websocket-Protocol",
			}))
	})
}

func (s *Simulator) setUpSending() error {
	tlsConfig, err := trust(s.RootCAPEMFiles)
	if err != nil {
		return err
	}
	dial := dialer(s.urls.addresses, s.timeout, s.Faults.SlowUpload)
	s.sender = &sender{
		retries:    defaultRetries,
		retryDelay: durationOr(s.RetryDelay, defaultRetryDelay),
		timeout:    s.timeout,
		duplicate:  s.Faults.Duplicate,
		uploadRate: s.Faults.SlowUpload,
	}
	if s.Retries != nil {
		s.sender.retries = *s.Retries
	}
	s.sender.logger.Store(s.logger)
	// Neither of the two has a Proxy: an environment variable must not make callbacks go
	// past the check of their addresses.
	s.sender.transport = &http.Transport{
		DialContext:         dial,
		TLSClientConfig:     tlsConfig,
		TLSHandshakeTimeout: s.sender.limit(overhead),
		IdleConnTimeout:     10 * time.Second,
	}
	s.sockets = &websocket.Dialer{
		NetDialContext:   dial,
		TLSClientConfig:  tlsConfig.Clone(),
		HandshakeTimeout: s.sender.limit(overhead),
	}
	return nil
}

// Cleanup implements [caddy.CleanerUpper]. Pending callbacks and live streams go on if a
// newer configuration has a simulator. The last simulator cancels them, and its Cleanup
// blocks until they have ended.
func (s *Simulator) Cleanup() error {
	if s.outbox == nil {
		return nil
	}
	// The logs of this configuration may be closed from here on.
	s.sender.logger.Store(caddy.Log().Named("http.handlers.deepgram_simulator"))
	_, err := outboxes.Delete(outboxKey)
	if transport, ok := s.sender.transport.(*http.Transport); ok {
		transport.CloseIdleConnections()
	}
	return err
}

// ServeHTTP answers the vendor's endpoints and passes on everything else.
func (s *Simulator) ServeHTTP(
	w http.ResponseWriter, r *http.Request, next caddyhttp.Handler,
) error {
	methods, ok := endpoints[r.URL.Path]
	if !ok {
		return next.ServeHTTP(w, r)
	}
	c := &call{requestID: uuid.NewString(), query: r.URL.Query()}
	w.Header().Set("Dg-Request-Id", c.requestID)
	if err := s.serve(w, r, c, methods); err != nil {
		// The request is answered as far as possible. Returning the error would put it into
		// Caddy's log of errors, which shows the callback's credentials.
		s.sender.logger.Load().Error("answering failed",
			zap.String("request_id", c.requestID), zap.String("path", r.URL.Path), zap.Error(err))
	}
	return nil
}

// endpoints are the paths that the simulator has, and their methods.
var endpoints = map[string][]string{
	"/v1/listen": {http.MethodGet, http.MethodPost},
	"/v1/read":   {http.MethodPost},
	"/v1/speak":  {http.MethodPost},
	"/v2/speak":  {http.MethodPost},
}

func (s *Simulator) serve(w http.ResponseWriter, r *http.Request, c *call, methods []string) error {
	if len(s.keyIDs) == 0 && fromForeignPage(r) {
		return c.refuse(w, errForeignPage)
	}
	var known bool
	if c.keyID, known = s.authenticate(r); !known {
		// Every 401 must have a challenge (RFC 9110, section 15.5.2).
		w.Header().Set("WWW-Authenticate", `Token realm="deepgram_simulator"`)
		return c.refuse(w, errInvalidAuth)
	}
	if !slices.Contains(methods, r.Method) {
		w.Header().Set("Allow", strings.Join(methods, ", "))
		return c.refuse(w, refusal(http.StatusMethodNotAllowed, "method not allowed"))
	}
	switch {
	case strings.HasSuffix(r.URL.Path, "/speak"):
		return s.serveBatch(w, r, c, s.speak)
	case r.URL.Path == "/v1/read":
		return s.serveBatch(w, r, c, s.read)
	case r.Method == http.MethodGet:
		return s.serveLive(w, r, c)
	default:
		return s.serveBatch(w, r, c, s.listen)
	}
}

// check returns an error for values that cannot be right. The Caddyfile's grammar refuses
// them too, and names the line; this is for configurations in JSON.
func (s *Simulator) check() error {
	if s.AnyPort && len(s.Ports) > 0 {
		return errors.New("ports and any_port exclude each other")
	}
	for _, port := range s.Ports {
		if port < 1 || port > 65535 {
			return fmt.Errorf("ports: %d is not a port", port)
		}
	}
	for name, negative := range map[string]bool{
		"latency":             s.Latency != nil && *s.Latency < 0,
		"retries":             s.Retries != nil && *s.Retries < 0,
		"retry_delay":         s.RetryDelay != nil && *s.RetryDelay < 0,
		"timeout":             s.Timeout < 0,
		"max_body":            s.MaxBody < 0,
		"faults: drop_after":  s.Faults.DropAfter < 0,
		"faults: slow_upload": s.Faults.SlowUpload < 0,
	} {
		if negative {
			return fmt.Errorf("%s must not be negative", name)
		}
	}
	return nil
}

// simulatorNamespace is the namespace of identifiers that are always the same for the same
// input (UUID version 5: RFC 9562, section 5.5).
var simulatorNamespace = uuid.MustParse("5b0ae1f7-6d3e-4d0a-9f57-0e3c1f1d2a64")

func durationOr(configured *caddy.Duration, otherwise time.Duration) time.Duration {
	if configured == nil {
		return otherwise
	}
	return time.Duration(*configured)
}

// trust returns a TLS configuration that trusts the system's authorities and
// those in the files.
func trust(files []string) (*tls.Config, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if len(files) == 0 {
		return config, nil
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		return nil, fmt.Errorf("root_ca_pem_files: reading the system's authorities: %w", err)
	}
	for _, file := range files {
		pem, err := os.ReadFile(file)
		if err != nil {
			return nil, fmt.Errorf("root_ca_pem_files: %w", err)
		}
		if !pool.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("root_ca_pem_files: %s: no certificate in it", file)
		}
	}
	config.RootCAs = pool
	return config, nil
}

// Interface guards
var (
	_ caddy.Provisioner           = (*Simulator)(nil)
	_ caddy.CleanerUpper          = (*Simulator)(nil)
	_ caddyhttp.MiddlewareHandler = (*Simulator)(nil)
)

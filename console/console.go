// Package console is the operator's door for people: the handler
// http.handlers.deepgram_console, which serves pages for a browser and, for those, what the
// package operate has to see and to do.
//
//	console.go  the module, and a request's way through: read this first
//	guard.go    what a request must be to come in, and what no answer may do
//	pages.go    the pages, as they are embedded
//	pages/      what a browser gets: index.html, style.css, and modules of JavaScript, of
//	            which app.js says where the others come in
//
// The pages ask operate/api for all that they show, below `api/`: it is the same handler as the
// admin endpoint's. But Caddy protects that endpoint, and nothing does this one, so it protects
// itself, see guard.go.
package console

import (
	"context"
	"errors"
	"net/http"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"go.uber.org/zap"

	"github.com/caddy-deepgram/deepgram-callback/app"
	"github.com/caddy-deepgram/deepgram-callback/auth"
	"github.com/caddy-deepgram/deepgram-callback/internal/printable"
	"github.com/caddy-deepgram/deepgram-callback/internal/sender"
	"github.com/caddy-deepgram/deepgram-callback/operate"
	"github.com/caddy-deepgram/deepgram-callback/operate/api"
)

// Console serves pages on which people see what the gateways of this Caddy have and do: inboxes
// with their callbacks, live streams, the last refusals. They can send callbacks again and drop
// them, pause a route, and end streams.
//
// It works below any path that is taken off before, as `handle_path` does. Everything that it
// shows of a callback but its body is without credentials; a body is shown to who asks for it.
type Console struct {
	// Who may use it: accounts with hashed passwords.
	BasicAuth *auth.BasicAuth `json:"basic_auth,omitempty"`

	// Who may use it: accounts whose passwords are long random secrets.
	BasicAuthPlain *auth.BasicAuthPlain `json:"basic_auth_plain,omitempty"`

	// Lets everyone in: something in front decides who comes. Either this or an
	// account is needed.
	Anonymous bool `json:"anonymous,omitempty"`

	// Shows everything and changes nothing.
	ReadOnly bool `json:"read_only,omitempty"`

	policy  auth.Policy
	api     *api.Handler
	origins *http.CrossOriginProtection
	logger  *zap.Logger
	logins  *zap.Logger // those that failed
}

// CaddyModule returns the Caddy module information.
func (*Console) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "http.handlers.deepgram_console",
		New: func() caddy.Module { return new(Console) },
	}
}

// Check finds what cannot be right in the configuration: above all, that nothing says who may
// come.
func (c *Console) Check() error {
	if c.BasicAuth == nil && c.BasicAuthPlain == nil && !c.Anonymous {
		return errors.New("nothing says who may use the console, which shows transcripts and can " +
			"drop them: give it basic_auth or, where something in front decides who comes, say anonymous")
	}
	c.policy = auth.Policy{
		BasicAuth: c.BasicAuth, BasicAuthPlain: c.BasicAuthPlain, Anonymous: c.Anonymous,
	}
	return c.policy.Check()
}

// Provision implements [caddy.Provisioner].
func (c *Console) Provision(ctx caddy.Context) error {
	c.logger = printable.Logger(ctx.Logger())
	c.logins = printable.Sampled(c.logger)
	if err := c.Check(); err != nil {
		return err
	}
	if err := c.policy.Provision(ctx); err != nil {
		return err
	}
	loaded, err := app.Of(ctx)
	if err != nil {
		return err
	}
	c.origins = http.NewCrossOriginProtection()
	c.api = api.New(operate.New(loaded.Process()), api.Options{
		ReadOnly: c.ReadOnly,
		Console:  &api.Console{User: user, Ended: ended(ctx)},
	})
	return nil
}

// ended is closed when the configuration ends, or the process is about to: Caddy would wait for
// those who follow events.
func ended(ctx caddy.Context) <-chan struct{} {
	exiting := make(chan struct{})
	ctx.OnExit(func(context.Context) { close(exiting) })
	over := make(chan struct{})
	go func() {
		defer close(over)
		select {
		case <-exiting:
		case <-ctx.Done():
		}
	}()
	return over
}

// user is who a request comes from, as its admission has set it.
func user(r *http.Request) string {
	if repl, ok := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer); ok {
		name, _ := repl.GetString("http.auth.user.id")
		return name
	}
	return ""
}

// ServeHTTP implements [caddyhttp.MiddlewareHandler]. It never calls the next handler.
func (c *Console) ServeHTTP(w http.ResponseWriter, r *http.Request, _ caddyhttp.Handler) error {
	protect(w.Header())
	if c.Anonymous {
		if err := checkHost(r); err != nil {
			return caddyhttp.Error(http.StatusForbidden, err)
		}
	}
	admission, err := c.policy.Admit(r)
	if err != nil {
		return c.refuse(w, r, err)
	}
	admission.Identify(r)
	if strings.HasPrefix(r.URL.Path, apiPath+"/") {
		http.StripPrefix(apiPath, http.HandlerFunc(c.serveAPI)).ServeHTTP(w, r)
		return nil
	}
	return servePage(w, r)
}

// apiPath is what the API is below.
const apiPath = "/api"

// refuse turns away who may not come in.
func (c *Console) refuse(w http.ResponseWriter, r *http.Request, cause error) error {
	var refusal *auth.Refusal
	if !errors.As(cause, &refusal) {
		return caddyhttp.Error(http.StatusInternalServerError, cause)
	}
	refusal.WriteHeaders(w.Header())
	if refusal.Reason != auth.ReasonBasicAuthMissing { // by which a browser finds out that it has to ask
		c.logins.Warn("console: login refused",
			zap.String("reason", refusal.Reason), zap.String("client_ip", sender.IP(r)))
	}
	return caddyhttp.Error(refusal.Status, cause)
}

// serveAPI answers what the pages ask for. Of each action there is a line in the log.
func (c *Console) serveAPI(w http.ResponseWriter, r *http.Request) {
	err := c.checkOrigin(r)
	if err == nil {
		err = c.api.Serve(w, r)
	}
	if changes(r) {
		c.logAction(r, err)
	}
	if err != nil {
		api.WriteError(w, err)
	}
}

func (c *Console) logAction(r *http.Request, err error) {
	log, message := c.logger.Info, "console: action"
	if err != nil {
		log, message = c.logger.Warn, "console: action failed"
	}
	log(message,
		zap.String("user", user(r)),
		zap.String("client_ip", sender.IP(r)),
		zap.String("method", r.Method),
		zap.String("resource", r.URL.Path),
		zap.String("selection", r.URL.RawQuery), // filters alone, of which none is a secret
		zap.Error(err),
	)
}

// Interface guards
var (
	_ caddy.Provisioner           = (*Console)(nil)
	_ caddyhttp.MiddlewareHandler = (*Console)(nil)
)

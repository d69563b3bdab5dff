// Package admin is the operator's door for programs and for a terminal: the routes under
// /deepgram_callback of Caddy's admin API, and the commands that use them. What there is
// to see and to do is in the package operate.
//
//	api.go              the module: operate/api on Caddy's admin endpoint
//	command.go          the commands, and what all of them have
//	spoolcommand.go     those that show what inboxes have
//	change.go           those that replay and drop, pause and resume
//	replay.go           a replay of many, and how far it is
//	recover.go          the one that saves a damaged inbox
//	streamscommand.go   those for streams
//	refusalscommand.go  the one for refused callbacks
//	client.go           how the commands use the API, and their exit codes
//	table.go            what they print for people
package admin

import (
	"net/http"
	"net/url"
	"strings"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-deepgram/deepgram-callback/app"
	"github.com/caddy-deepgram/deepgram-callback/operate"
	"github.com/caddy-deepgram/deepgram-callback/operate/api"
)

// base is where all of the API is.
const base = "/deepgram_callback"

// API serves the inboxes, the live streams and the last refusals of deepgram_callback on
// Caddy's admin endpoint, under /deepgram_callback.
//
// Credentials are not shown: headers not at all, and of a URI's query only the
// names. The one exception is the body of a message, which may carry a
// callback secret and is given as it is.
type API struct{}

// CaddyModule returns the Caddy module information.
func (API) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "admin.api.deepgram_callback",
		New: func() caddy.Module { return new(API) },
	}
}

// Routes implements [caddy.AdminRouter]. Caddy makes admin modules before the apps, so this
// one has the gateway from the process.
func (API) Routes() []caddy.AdminRoute {
	handler := api.New(operate.New(app.ThisProcess()), api.Options{})
	serve := caddy.AdminHandlerFunc(func(w http.ResponseWriter, r *http.Request) error {
		if err := handler.Serve(w, below(base, r)); err != nil {
			return caddy.APIError{HTTPStatus: api.Status(err), Err: err}
		}
		return nil
	})
	routes := []caddy.AdminRoute{{Pattern: base + "/", Handler: serve}}
	for _, pattern := range handler.Patterns() { // by which Caddy counts requests
		routes = append(routes, caddy.AdminRoute{Pattern: base + pattern, Handler: serve})
	}
	return routes
}

// below is a request as whoever is mounted below a path gets it.
func below(path string, r *http.Request) *http.Request {
	stripped := *r
	stripped.URL = new(url.URL)
	*stripped.URL = *r.URL
	stripped.URL.Path = strings.TrimPrefix(r.URL.Path, path)
	stripped.URL.RawPath = strings.TrimPrefix(r.URL.RawPath, path)
	return &stripped
}

// Interface guard
var _ caddy.AdminRouter = API{}

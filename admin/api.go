// Package admin lets an operator see and change what the gateway keeps: the
// messages of its inboxes, its live streams, and what it refused. It has two halves, the routes
// under /deepgram_callback of Caddy's admin API, and the commands that use
// them.
//
//	api.go             the module, its routes, and how it answers
//	spool.go           what it says of inboxes and their messages
//	users.go           what is told, and dropped, by the user who brought it in
//	streams.go         what it says of streams
//	refusals.go        what it says of refused callbacks
//	redact.go          what is shown of a URI
//	command.go         the commands
//	streamscommand.go  those for streams
//	refusalscommand.go that for refused callbacks
//	client.go          how the commands use the API, and their exit codes
//	table.go           what they print for people
package admin

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
)

// base is where all of the API is.
const base = "/deepgram_callback"

// API serves the inboxes and the live streams of deepgram_callback on Caddy's
// admin endpoint, under /deepgram_callback.
//
// Credentials are not shown: headers not at all, and of a URI's query only the
// names. The one exception is the body of a message, which may carry a
// callback secret and is given as it is.
//
// It keeps nothing itself. Admin modules are provisioned before the apps, and
// a reload may open and close inboxes, so every request looks anew.
type API struct{}

// CaddyModule returns the Caddy module information.
func (API) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "admin.api.deepgram_callback",
		New: func() caddy.Module { return new(API) },
	}
}

// Routes implements [caddy.AdminRouter].
func (a API) Routes() []caddy.AdminRoute {
	const get, post, del = http.MethodGet, http.MethodPost, http.MethodDelete
	return []caddy.AdminRoute{
		{Pattern: base + "/spool", Handler: methods{get: a.status}},
		{Pattern: base + "/spool/replay", Handler: methods{post: a.replayDead}},
		{Pattern: base + "/spool/messages", Handler: methods{get: a.list, del: a.dropAll}},
		{Pattern: base + "/spool/messages/{id}", Handler: methods{get: a.show, del: a.drop}},
		{Pattern: base + "/spool/messages/{id}/body", Handler: methods{get: a.body}},
		{Pattern: base + "/spool/messages/{id}/replay", Handler: methods{post: a.replay}},
		{Pattern: base + "/streams", Handler: methods{get: a.listStreams, del: a.killStreams}},
		{Pattern: base + "/streams/{id}", Handler: methods{del: a.killStream}},
		{Pattern: base + "/refusals", Handler: methods{get: a.listRefusals}},
		{Pattern: base + "/", Handler: caddy.AdminHandlerFunc(noResource)},
	}
}

func noResource(_ http.ResponseWriter, r *http.Request) error {
	return failure(http.StatusNotFound, fmt.Errorf("no such resource: %s", r.URL.Path))
}

// methods are what a resource understands. GET includes HEAD, for which
// net/http leaves the body out. No method has a body that would be read.
type methods map[string]caddy.AdminHandlerFunc

// ServeHTTP implements [caddy.AdminHandler].
func (m methods) ServeHTTP(w http.ResponseWriter, r *http.Request) error {
	method := r.Method
	if method == http.MethodHead {
		method = http.MethodGet
	}
	if handle, ok := m[method]; ok {
		return handle(w, r)
	}
	allowed := slices.Collect(maps.Keys(m))
	if _, ok := m[http.MethodGet]; ok {
		allowed = append(allowed, http.MethodHead)
	}
	slices.Sort(allowed)
	w.Header().Set("Allow", strings.Join(allowed, ", ")) // RFC 9110, section 15.5.6
	return failure(http.StatusMethodNotAllowed, fmt.Errorf("method %s is not allowed", r.Method))
}

// parameters reads the query. A parameter that is not known is an error: a
// misspelt route must not make a request mean all routes.
func parameters(r *http.Request, known ...string) (url.Values, error) {
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return nil, failure(http.StatusBadRequest, fmt.Errorf("query: %w", err))
	}
	for name, values := range query {
		if !slices.Contains(known, name) {
			return nil, failure(http.StatusBadRequest, fmt.Errorf("unknown parameter %q", name))
		}
		if len(values) > 1 {
			return nil, failure(http.StatusBadRequest, fmt.Errorf("parameter %s is given twice", name))
		}
	}
	return query, nil
}

// failure is an answer that Caddy writes as JSON.
func failure(status int, err error) error { return caddy.APIError{HTTPStatus: status, Err: err} }

// spoolFailure gives an error of an inbox its status.
func spoolFailure(err error) error {
	var refused *spool.RefusedError
	switch {
	case errors.Is(err, spool.ErrNotFound):
		return failure(http.StatusNotFound, err)
	case errors.Is(err, spool.ErrInFlight):
		return failure(http.StatusConflict, err)
	case errors.Is(err, spool.ErrClosed), errors.As(err, &refused):
		return failure(http.StatusServiceUnavailable, err)
	}
	return failure(http.StatusInternalServerError, err)
}

// reply answers with JSON.
func reply(w http.ResponseWriter, value any) error {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	encoder := json.NewEncoder(w)
	encoder.SetEscapeHTML(false) // it is not HTML, and the & of a URI is easier to read than its escape
	_ = encoder.Encode(value)    // the client is gone
	return nil
}

// Interface guards
var (
	_ caddy.AdminRouter  = API{}
	_ caddy.AdminHandler = (methods)(nil)
)

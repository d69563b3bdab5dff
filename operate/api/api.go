// Package api offers what an operator can see and do as JSON over HTTP: one handler, which
// Caddy's admin endpoint serves below /deepgram_callback, and which can be mounted below
// any other path.
//
//	api.go         the handler, its resources, and how it answers
//	parameters.go  what it reads from a query
//	messages.go    inboxes and their messages
//	streams.go     streams
//	refusals.go    refused callbacks
//	overview.go    all of it at a glance, once or for as long as somebody looks
package api

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/caddy-deepgram/deepgram-callback/operate"
)

// Options say what a handler is for.
type Options struct {
	// ReadOnly refuses all that would change anything.
	ReadOnly bool

	// Console is what only the console needs; nil elsewhere.
	Console *Console
}

// Console is what the console's pages need beside.
type Console struct {
	// User names who asks; empty where that is not known.
	User func(*http.Request) string

	// Ended is closed when events have to end, since nothing may go on any more.
	Ended <-chan struct{}
}

// Handler serves a gateway. It checks neither who asks nor from what origin a browser does:
// that is for whoever mounts it. The paths that it knows begin with a slash, so the path
// that it is mounted below has to be stripped.
type Handler struct {
	gateway   *operate.Gateway
	options   Options
	resources []resource
	followers chan struct{} // a place for each that follows events
	topics    map[string]*topic
}

// A resource is what is at a path, of whose segments the one in braces is any.
type resource struct {
	pattern string
	methods methods
}

// methods are what a resource understands. GET includes HEAD, for which net/http leaves
// the body out. No method has a body that would be read.
type methods map[string]func(http.ResponseWriter, *http.Request) error

// New returns a handler of a gateway.
func New(gateway *operate.Gateway, options Options) *Handler {
	const get, post, del = http.MethodGet, http.MethodPost, http.MethodDelete
	h := &Handler{
		gateway:   gateway,
		options:   options,
		followers: make(chan struct{}, maxFollowers),
		topics:    newTopics(gateway),
	}
	h.resources = []resource{
		{"/overview", methods{get: h.overview}},
		{"/spool", methods{get: h.status}},
		{"/spool/count", methods{get: h.count}},
		{"/spool/replay", methods{post: h.replayMany}},
		{"/spool/replays", methods{get: h.replays}},
		{"/spool/replays/{id}", methods{del: h.stopReplay}},
		{"/spool/routes/{route}/pause", methods{post: h.pause}},
		{"/spool/routes/{route}/resume", methods{post: h.resume}},
		{"/spool/messages", methods{get: h.list, del: h.dropMany}},
		{"/spool/messages/{id}", methods{get: h.show, del: h.drop}},
		{"/spool/messages/{id}/body", methods{get: h.body}},
		{"/spool/messages/{id}/replay", methods{post: h.replay}},
		{"/streams", methods{get: h.listStreams, del: h.killStreams}},
		{"/streams/{id}", methods{del: h.killStream}},
		{"/refusals", methods{get: h.listRefusals}},
	}
	if options.Console != nil {
		h.resources = append(h.resources, resource{"/events", methods{get: h.events}})
	}
	return h
}

// Patterns are the paths of the resources, as [http.ServeMux] has them.
func (h *Handler) Patterns() []string {
	patterns := make([]string, len(h.resources))
	for i, r := range h.resources {
		patterns[i] = r.pattern
	}
	return patterns
}

// ServeHTTP implements [http.Handler].
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if err := h.Serve(w, r); err != nil {
		WriteError(w, err)
	}
}

// WriteError answers a request that has failed.
func WriteError(w http.ResponseWriter, err error) {
	prepare(w)
	w.WriteHeader(Status(err))
	encode(w, struct {
		Error string `json:"error"`
	}{err.Error()})
}

// Serve answers a request, or returns an error before it has written any of the answer. For
// those who have a way of their own to answer with errors; [Status] is that of the answer.
func (h *Handler) Serve(w http.ResponseWriter, r *http.Request) error {
	understood, ok := h.match(r)
	if !ok {
		return failure(http.StatusNotFound, fmt.Errorf("no such resource: %s", r.URL.Path))
	}
	method := r.Method
	if method == http.MethodHead {
		method = http.MethodGet
	}
	handle, ok := understood[method]
	if !ok {
		w.Header().Set("Allow", understood.allow()) // RFC 9110, section 15.5.6
		return failure(http.StatusMethodNotAllowed, fmt.Errorf("method %s is not allowed", r.Method))
	}
	if h.options.ReadOnly && method != http.MethodGet {
		return &operate.Error{Kind: operate.Forbidden, Err: errReadOnly}
	}
	return handle(w, r)
}

var errReadOnly = errors.New("this is read-only: nothing can be changed here")

// match finds the resource of a request, and gives the request the values of its path. A slash
// that is escaped is a part of a value: the route to a socket has one in its name.
func (h *Handler) match(r *http.Request) (methods, bool) {
	segments := strings.Split(r.URL.EscapedPath(), "/")
	for i, segment := range segments {
		var err error
		if segments[i], err = url.PathUnescape(segment); err != nil {
			return nil, false
		}
	}
	for _, resource := range h.resources {
		pattern := strings.Split(resource.pattern, "/")
		if slices.EqualFunc(pattern, segments, matches) {
			for i, name := range pattern {
				if isVariable(name) {
					r.SetPathValue(strings.Trim(name, "{}"), segments[i])
				}
			}
			return resource.methods, true
		}
	}
	return nil, false
}

func matches(pattern, segment string) bool {
	return pattern == segment || isVariable(pattern) && segment != ""
}

func isVariable(pattern string) bool { return strings.HasPrefix(pattern, "{") }

// allow lists the methods for the field Allow.
func (m methods) allow() string {
	allowed := slices.Collect(maps.Keys(m))
	if _, ok := m[http.MethodGet]; ok {
		allowed = append(allowed, http.MethodHead)
	}
	slices.Sort(allowed)
	return strings.Join(allowed, ", ")
}

// statusError is an error that concerns HTTP alone.
type statusError struct {
	error
	status int
}

func (e *statusError) Unwrap() error { return e.error }

func failure(status int, err error) error { return &statusError{err, status} }

// Status is the HTTP status of an answer to a request that has failed.
func Status(err error) int {
	var known *statusError
	if errors.As(err, &known) {
		return known.status
	}
	switch operate.KindOf(err) {
	case operate.NotFound:
		return http.StatusNotFound
	case operate.Invalid:
		return http.StatusBadRequest
	case operate.InFlight:
		return http.StatusConflict
	case operate.Unavailable:
		return http.StatusServiceUnavailable
	case operate.Forbidden:
		return http.StatusForbidden
	}
	return http.StatusInternalServerError
}

// reply answers with JSON.
func reply(w http.ResponseWriter, value any) error {
	prepare(w)
	encode(w, value)
	return nil
}

// prepare says what kind of answer comes: one that no browser takes for a page.
func prepare(w http.ResponseWriter) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Content-Type-Options", "nosniff")
}

func encode(w http.ResponseWriter, value any) {
	encoder := json.NewEncoder(w)
	encoder.SetEscapeHTML(false) // it is not HTML, and the & of a URI is easier to read
	_ = encoder.Encode(value)    // the client is gone
}

// Interface guard
var _ http.Handler = (*Handler)(nil)

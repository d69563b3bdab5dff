// Package operate is what an operator can see and do of a running gateway, once, without
// HTTP and without a terminal. The handler in operate/api offers it as JSON, which Caddy's
// admin endpoint serves and the commands use.
//
//	operate.go   the gateway, and how its errors are told apart
//	inboxes.go   what its inboxes have
//	messages.go  one message: shown, read, replayed, dropped
//	selection.go which messages something is about
//	many.go      many messages at once
//	streams.go   streams that are live, and those that ended
//	refusals.go  callbacks that were refused
//	overview.go  all of it at a glance
//	redact.go    what is shown of a URI
//	when.go      how times are written
//
// Credentials are not shown: headers not at all, and of a URI's query only the names. The
// one exception is the body of a message, which may carry a callback secret and is given
// as it is.
package operate

import (
	"errors"

	"github.com/caddy-deepgram/deepgram-callback/app"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
)

// A Gateway is a running gateway as its operator has it. It keeps nothing itself: a reload
// may open and close inboxes, so every call looks anew.
type Gateway struct{ process *app.Process }

// New returns the gateway that a process is.
func New(process *app.Process) *Gateway { return &Gateway{process} }

// Kind says in what way something could not be done.
type Kind int

const (
	// Internal: something failed in the gateway.
	Internal Kind = iota

	// NotFound: there is no such inbox, message or stream.
	NotFound

	// Invalid: what was asked for makes no sense.
	Invalid

	// InFlight: the message is being delivered right now.
	InFlight

	// Unavailable: there is no inbox open, or it can do nothing at present.
	Unavailable

	// Forbidden: whoever asks may look at things, but change none.
	Forbidden
)

// An Error is one of a kind.
type Error struct {
	Kind Kind
	Err  error
}

func (e *Error) Error() string { return e.Err.Error() }
func (e *Error) Unwrap() error { return e.Err }

// KindOf tells of what kind an error is that this package returned.
func KindOf(err error) Kind {
	var known *Error
	var refused *spool.RefusedError
	switch {
	case errors.As(err, &known):
		return known.Kind
	case errors.Is(err, spool.ErrNotFound):
		return NotFound
	case errors.Is(err, spool.ErrInFlight):
		return InFlight
	case errors.Is(err, spool.ErrClosed), errors.As(err, &refused):
		return Unavailable
	}
	return Internal
}

func notFound(err error) error    { return &Error{NotFound, err} }
func invalid(err error) error     { return &Error{Invalid, err} }
func unavailable(err error) error { return &Error{Unavailable, err} }

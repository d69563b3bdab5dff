// What the inbox keeps: messages, their states, and what comes of trying to
// deliver one.

package spool

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"
)

// State says where a message is in its life.
type State string

const (
	// Pending messages wait for their first attempt or the next one, or are
	// being delivered right now.
	Pending State = "pending"

	// Dead messages, the dead letters, are not tried any more, until somebody replays them.
	Dead State = "dead"

	// Delivered messages are kept for a time, to be looked at and sent again. Where nothing is kept,
	// a message that was delivered is gone.
	Delivered State = "delivered"
)

// Message is one accepted callback without its body. Its JSON form is what
// the admin API shows.
type Message struct {
	// ID is also the webhook-id towards the service, the same over attempts and replays.
	ID ID `json:"id"`

	State State `json:"state"`

	// Route names the configured route that accepted the message and delivers it.
	Route string `json:"route"`

	// Method and URI (path and query) of the request, as they are to be delivered.
	Method string `json:"method"`
	URI    string `json:"uri"`

	// Header of the request, without hop-by-hop fields and credentials: those
	// are for the caller of Accept to remove. A store keeps it as it is, whatever its names and
	// values are.
	Header http.Header `json:"-"`

	// User is who sent the message, where its credentials name one. Empty where they do not, and
	// for messages that an earlier version accepted.
	User string `json:"user,omitempty"`

	// RequestID is what the body says in metadata.request_id, or in request_id
	// at its top. Empty where the body has neither.
	RequestID string `json:"request_id,omitempty"`

	ReceivedAt time.Time `json:"received_at"`

	// Tries counts the finished attempts since the message was accepted or last replayed.
	Tries int `json:"attempts"`

	// Attempts are the last ten attempts, whenever they were, the latest one last.
	Attempts []Attempt `json:"history,omitempty"`

	// NextAttemptAt is the moment before which the message is not tried again. Zero: as
	// soon as its turn comes.
	NextAttemptAt time.Time `json:"next_attempt_at,omitzero"`

	// LastError says why the last attempt failed, or why the message died without one. At most
	// 512 bytes.
	LastError string `json:"last_error,omitempty"`

	// Size of the body in bytes.
	Size int64 `json:"size"`

	// DiedAt is when a dead letter became one, DeliveredAt when a message that is kept was
	// delivered.
	DiedAt      time.Time `json:"died_at,omitzero"`
	DeliveredAt time.Time `json:"delivered_at,omitzero"`

	// Replayed messages are leased after those that never were.
	Replayed bool `json:"replayed,omitempty"`

	// ScheduledFrom is where retry_for starts to count: receipt, or the last replay.
	ScheduledFrom time.Time `json:"-"`

	// OrderKey is equal for messages of a route that must be delivered in order, see OrderBy of
	// [RouteConfig]. Zero: the message waits for nobody.
	OrderKey uint64 `json:"-"`

	// Destination is where the message goes.
	Destination Destination `json:"-"`
}

// Attempt is what is kept of one finished attempt to deliver a message.
type Attempt struct {
	// At is when it began, Took how long it lasted.
	At   time.Time     `json:"at"`
	Took time.Duration `json:"took"`

	// Status is what the service answered; 0 where there was no answer.
	Status int `json:"status,omitempty"`

	// Error says why it failed, empty where it did not. At most 512 bytes.
	Error string `json:"error,omitempty"`

	// Upstream is the address that it went to, where one was chosen.
	Upstream string `json:"upstream,omitempty"`

	// Gateway is who made it, where several share the store.
	Gateway string `json:"gateway,omitempty"`
}

// Body is the stored body of a message, read while it is delivered. Reading
// it from start to end returns [ErrDamaged] instead of io.EOF where the bytes
// are not those that were accepted.
type Body interface {
	io.ReadSeekCloser
	Size() int64
}

// Delivery hands one message to its service. It is called by several
// goroutines at once, for messages with different order keys, and must return soon after
// ctx is cancelled. msg and body are its own only until it returns. It must not
// treat msg.Header as its own: clone it before changing it.
type Delivery func(ctx context.Context, msg *Message, body Body) Result

// Result is what came of one attempt.
type Result struct {
	// Status is the HTTP status with which the service answered; 0 if it did not.
	Status int

	// Err says why there was no answer. It ends up in LastError, so it must not
	// carry secrets.
	Err error

	// Unreachable says that there was not even a connection to the service.
	Unreachable bool

	// Upstream is the address that the attempt went to, where one was chosen.
	Upstream string

	// RetryAfter is how long the service asked to be left alone, see [ParseRetryAfter].
	// Zero where it did not say.
	RetryAfter time.Duration
}

// Outcome classifies a [Result].
type Outcome string

const (
	// OutcomeDelivered: the service answered 2xx. The message is done.
	OutcomeDelivered Outcome = "delivered"

	// OutcomeRejected: the service answered, and did not take this message. It is tried again on the
	// message's own schedule, and says nothing about other messages.
	OutcomeRejected Outcome = "rejected"

	// OutcomeUnavailable: no answer, or 429, 502, 503 or 504, by which a service or what stands
	// before it says that it is not there or overloaded. The message is tried again, and
	// several of these in a row mean that something is down (see [Inbox]).
	OutcomeUnavailable Outcome = "unavailable"

	// OutcomeGone: the service answered 410 and never wants this message. It dies at once.
	OutcomeGone Outcome = "gone"

	// OutcomeUndeliverable: the message cannot be made into a request any more. It dies at once, and
	// that says nothing of the service.
	OutcomeUndeliverable Outcome = "undeliverable"
)

// ErrUndeliverable is what the error of a [Result] wraps where it is the message that cannot be
// made into a request.
var ErrUndeliverable = errors.New("cannot be made into a request")

// Outcome tells what the result means for the message and for its route.
func (r Result) Outcome() Outcome {
	switch {
	case errors.Is(r.Err, ErrUndeliverable), errors.Is(r.Err, ErrUndecryptable):
		return OutcomeUndeliverable
	case r.Err != nil || r.Status == 0:
		return OutcomeUnavailable
	case r.Status >= 200 && r.Status <= 299:
		return OutcomeDelivered
	case r.Status == http.StatusGone:
		return OutcomeGone
	}
	switch r.Status {
	case http.StatusTooManyRequests,
		http.StatusBadGateway,
		http.StatusServiceUnavailable,
		http.StatusGatewayTimeout:
		return OutcomeUnavailable
	}
	return OutcomeRejected
}

// String says in words why the attempt failed, or that it did not.
func (r Result) String() string {
	switch {
	case r.Err != nil:
		return r.Err.Error()
	case r.Status == 0:
		return "no answer"
	}
	return strings.TrimSpace(
		fmt.Sprintf("the service answered %d %s", r.Status, http.StatusText(r.Status)),
	)
}

// Store is the contract between the inbox, which decides when and whether to
// deliver, and the engine, which keeps messages safe and in order.

package spool

import (
	"context"
	"io"
	"time"
)

// Store keeps messages. [OpenDisk] is the engine for one process on one file
// system; the contract is written so that an engine shared by several
// processes can stand in its place. All methods may be called concurrently.
//
// Durability. When Accept returns without an error, the message survives a
// crash of the process and of the machine, whoever else has failed by then. When it
// returns an error, the message may or may not have been kept: the sender will
// send it again, and deduplication makes one of the two. Everything else (Settle, Replay, Drop)
// may be lost in a crash, always together with everything that was done
// later: what is on disk after a crash is the state at some moment in the past,
// and never older than the last Accept that had returned.
//
// Order. Ids rise in the order in which messages are accepted. Messages of one route with
// equal OrderKey are leased in the order of their ids, each only when the one before was
// settled as delivered or dead or was dropped. Messages with different keys never
// wait for each other. A replayed dead letter takes its old place: it comes before
// everything of its key that waits, but not before what is leased already.
//
// Deduplication. A fingerprint is kept from the acceptance of its message on, whatever becomes of
// the message. Accept of a known one returns a duplicate, which is as
// durable as its original: of two that arrive at once, the second is answered
// only when the first is safe, and fails if the first fails.
//
// Leases. A lease makes its holder the only one to deliver the message. It lasts until
// Settle, or until its holder dies: then the message is pending again with its place in the
// order. For the engine on disk the holder is the process. An engine shared by several
// must find out itself that a holder died, and must ignore a Settle by one that
// lost its lease.
type Store interface {
	// NewBody starts a body that is to be accepted. The hint is its expected
	// size, negative if unknown. It fails with a *RefusedError.
	NewBody(ctx context.Context, sizeHint int64) (BodyWriter, error)

	// Accept makes a message durable together with its body and fingerprint, and
	// takes over msg and body whatever happens. The id comes with the receipt.
	// A message whose fingerprint was accepted within the window before now is a
	// duplicate and not kept; with a window of zero nothing is one. It fails with a *RefusedError, with
	// ErrClosed, or with the error of ctx (and then may still come to be accepted).
	Accept(ctx context.Context, msg *Message, fingerprint Fingerprint, window time.Duration, body BodyWriter) (Receipt, error)

	// Lease hands out messages that may be delivered now. Where a request for tried ones returns
	// fewer than asked for, next is the time at which the earliest of
	// the waiting ones is due, or zero if none waits for a time. It may return fewer than
	// there are; then the function given to Watch is called when it is worth asking again.
	Lease(ctx context.Context, request LeaseRequest) (leased []*Lease, next time.Time, err error)

	// Settle ends a lease. It takes effect at once for what is leased next, and gets to
	// disk soon, in the order of the calls. It never fails: what cannot be written
	// now is written when that is possible again.
	Settle(lease *Lease, settlement Settlement)

	// Body opens the body of a message that exists: ErrNotFound otherwise, ErrDamaged if
	// the bytes are there no more.
	Body(ctx context.Context, id ID) (Body, error)

	// Get returns one message, or ErrNotFound.
	Get(ctx context.Context, id ID) (*Message, error)

	// List returns messages by rising id.
	List(ctx context.Context, filter Filter) ([]*Message, error)

	// Replay makes a message due now with a fresh schedule, a dead letter pending again. It
	// returns ErrNotFound, or ErrInFlight for one that is leased.
	Replay(ctx context.Context, id ID) error

	// ReplayDead does that for dead letters that died before the time given, at most limit of them,
	// oldest id first, and returns how many. An empty route means all of them.
	ReplayDead(ctx context.Context, route string, diedBefore time.Time, limit int) (int, error)

	// Drop forgets a message in whatever state. One that is leased is forgotten
	// when its delivery ends, however it ends: ErrInFlight says so.
	Drop(ctx context.Context, id ID) (*Message, error)

	// Expire makes dead letters of the route's messages that could be leased now and whose schedule
	// started before the time given, at most limit of them. They get lastError unless they
	// have an own one. What waits behind them may come with the next call.
	Expire(ctx context.Context, route string, scheduledBefore time.Time, lastError string, limit int) ([]*Message, error)

	// DropDead forgets the route's dead letters that died before the time given, at most limit of
	// them, and returns them.
	DropDead(ctx context.Context, route string, diedBefore time.Time, limit int) ([]*Message, error)

	// SetLimits says how much there may be, and how far back fingerprints are needed.
	SetLimits(limits Limits)

	// Watch has f called with the name of a route whenever messages of it may have become leasable
	// otherwise than by the passing of time. f must not block nor call the store.
	Watch(f func(route string))

	// Counts returns how much is there, without looking at every message.
	Counts(ctx context.Context) (Counts, error)

	// Flush waits until everything settled before the call is on disk.
	Flush(ctx context.Context) error

	// Close writes what is left to be written and closes the store. Leases that are not
	// settled end with it.
	Close(ctx context.Context) error
}

// StoreModule makes a store from configuration. It is a Caddy module in the namespace
// deepgram_callback.stores, with the inline key `engine`, and in a Caddyfile what follows `store <engine>`,
// where it implements caddyfile.Unmarshaler. It is provisioned for every configuration that is loaded or
// only validated, so provisioning touches nothing that is stored.
type StoreModule interface {
	// Identity names what is stored, over all configurations: modules of one identity stand for one store, which
	// is opened once and shared between directives and over reloads. It is shown to operators, in logs and metrics,
	// and so has no secret in it.
	Identity() string

	// Open opens the store, with limits that may change later ([Store.SetLimits]). ctx bounds the opening alone. Its error names what it is about
	// and what to do. An engine whose store can be away for a time opens all the same, and refuses messages.
	Open(ctx context.Context, limits Limits, events StoreEvents) (Store, error)
}

// StoreEvents are what a store tells by itself, for metrics, events and logs. Each may be nil. They are
// called from any goroutine and must not block.
type StoreEvents struct {
	// Refusing: the store has begun to refuse new messages, with the cause (nil for [ReasonFull]), or
	// accepts them again.
	Refusing func(reason Reason, refusing bool, cause error)

	// Synced: a group commit took so long.
	Synced func(took time.Duration)

	// Problem: something that is stored cannot be read, or something failed in the background, and an
	// operator should know of it.
	Problem func(err error)
}

// BodyWriter takes a body as it comes in and keeps at most a small part of it in memory.
type BodyWriter interface {
	io.Writer

	// Discard forgets the body. It does nothing after Accept took the body over.
	Discard()
}

// Receipt is the answer to an accepted message.
type Receipt struct {
	// ID of the message; of the original, where this is a duplicate.
	ID ID

	// Duplicate says that the message was there already and is not delivered again.
	Duplicate bool

	// Size of the body in bytes.
	Size int64
}

// Limits bound a store. They may change while it is open.
type Limits struct {
	// MaxBytes is how much the store may take up. 0: no limit. Beyond it, messages are refused.
	MaxBytes int64

	// Fingerprints is how far back fingerprints are needed.
	Fingerprints time.Duration
}

// Lease is a message that its holder alone may deliver, until the lease is settled or lost.
type Lease struct {
	// Message is the holder's own copy.
	Message *Message

	// Lost is closed when the store has found that it could not renew the lease in time, so that another
	// may have the message by now. It is nil where that cannot happen.
	Lost <-chan struct{}

	// Token is for the store, to tell this lease of the message from a later one.
	Token any
}

// LeaseRequest says which messages [Store.Lease] is to hand out.
type LeaseRequest struct {
	Route string

	// Now is the time up to which a message must be due.
	Now time.Time

	// Max is how many at most.
	Max int

	// Tried selects the messages that wait for another attempt: those that have a NextAttemptAt,
	// in its order. Without it, those that have none, because they were not tried since they
	// were accepted or replayed, by rising id.
	Tried bool

	// Newest has messages that were not tried come by falling id.
	Newest bool

	// Avoid leaves out what goes to these destinations or hosts. They are few hundreds at most. A
	// store that has to look through many messages to find others may stop after some
	// thousands and go on with the next call, see Watch.
	Avoid Destinations
}

// Settlement says how a lease ends.
type Settlement struct {
	Verdict Verdict

	// At is the time of the next attempt, or of death.
	At time.Time

	// LastError for Retry and Bury; at most 512 bytes of it are kept.
	LastError string
}

// Verdict is the kind of a [Settlement].
type Verdict int

const (
	// Done: delivered; the message is forgotten.
	Done Verdict = iota

	// Retry: one more attempt has failed; due again at a later time.
	Retry

	// Bury: one more attempt has failed, and it was the last: a dead letter now.
	Bury

	// Return: the attempt did not take place or was broken off here; the message is as before.
	Return
)

// Filter selects what [Store.List] returns.
type Filter struct {
	// State selects one state; empty means both.
	State State

	// Route selects one route; empty means all.
	Route string

	// User selects what one user's credentials brought in; empty means all.
	User string

	// After skips messages up to and including this id: the last one of the page before.
	After ID

	// Limit is how many at most; 0 means 100.
	Limit int
}

// DefaultListLimit is how many messages [Store.List] returns at most where a [Filter] does not say.
const DefaultListLimit = 100

// Counts says how much a store holds.
type Counts struct {
	// Routes has every route of which there are messages, by name.
	Routes map[string]RouteCounts

	// DiskBytes is what the store takes up on disk. MaxBytes is its limit, 0 if it has none.
	DiskBytes int64
	MaxBytes  int64

	// Fingerprints is how many are kept for deduplication.
	Fingerprints int

	// Refusing is why new messages are refused at present, empty if they are not.
	Refusing Reason

	// RefusingSince is when that began.
	RefusingSince time.Time
}

// RouteCounts says how much a store holds of one route.
type RouteCounts struct {
	Pending      int64
	PendingBytes int64
	Dead         int64
	DeadBytes    int64

	// InFlight is how many of the pending ones are leased.
	InFlight int

	// OldestPending is when the oldest pending message was received; zero if there is none.
	OldestPending time.Time
}

// MaxErrorSize is how many bytes are kept of the text of an error.
const MaxErrorSize = 512

// ClipError bounds the text of an error to [MaxErrorSize] without cutting through a character.
func ClipError(text string) string {
	if len(text) <= MaxErrorSize {
		return text
	}
	size := MaxErrorSize
	for size > 0 && text[size]&0xc0 == 0x80 { // a continuation byte of UTF-8
		size--
	}
	return text[:size]
}

// earlier returns the earlier of two times, of which a zero one is none.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

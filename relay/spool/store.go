// Store is the contract between the inbox, which decides when and whether to
// deliver, and the engine, which keeps messages safe and in order.

package spool

import (
	"context"
	"crypto/sha256"
	"io"
	"slices"
	"strings"
	"time"
)

// Store keeps messages safe, in order, and apart from their duplicates. The inbox decides when and
// whether to deliver; a store never delivers. One package is one engine: disk for one process on
// one file system. The package storetest has this contract as tests.
//
// All methods may be called concurrently. Those that take a context may block on a disk or a
// network, and return its error when it ends; the others return at once. Times are those of the
// store's own clock, for a shared store that of its database. So callers give durations, not
// moments, wherever it matters.
//
// Durability. When Accept returns without an error, the message survives a crash of the process and
// of the machine; in a shared store it survives whatever its database promises to survive. When
// Accept returns an error, the message may or may not have been kept: the sender will send it
// again, and deduplication makes one of the two. Pause is as durable. Everything else may be lost
// in a crash, always together with everything that the same process did later.
//
// Order. Ids rise in the order in which messages of one order key are accepted, over all users of
// the store. Messages of one route with the same OrderKey are leased in the order of their
// ids, each only when the one before was settled as delivered or dead, or was dropped. A message
// with the key 0 waits for nobody, and messages of different keys never wait for each other. A
// replayed message takes its old place: it comes before everything of its key that waits, but not
// before what is leased already.
//
// Deduplication. A fingerprint is kept from the acceptance of its message on, whatever becomes of
// the message, for at least the time that [Limits] gives. Accept of a known one returns a
// duplicate, which is as durable as its original: of two that arrive at once, the second is
// answered only when the first is safe, and fails, or takes its place, if the first fails. The zero
// fingerprint is none: such a message is never a duplicate.
//
// Leases. A lease makes its holder the only one to deliver a message. The store renews it for as
// long as the process lives and can reach it. It ends with Settle, with Close, or when the store
// finds that it was not renewed in time: then Lost is closed, the message is pending again with its
// place in the order, and a Settle of that lease changes nothing. Where the holder died, another
// one's Lease gets the message when the time of leases is over.
//
// Paused routes go on accepting, and Lease returns nothing of them.
type Store interface {
	// NewBody starts a body that is to be accepted. The hint is its expected size in bytes,
	// negative if unknown. It fails with a *RefusedError, at once where the store is known to
	// be unavailable.
	NewBody(ctx context.Context, sizeHint int64) (BodyWriter, error)

	// Accept makes a message durable together with its body and fingerprint, and takes over msg and
	// body whatever happens. It sets ID, State, Size, ReceivedAt and ScheduledFrom. A message whose
	// fingerprint was accepted within the window before now is a duplicate, and not kept. It fails
	// with a *RefusedError, with ErrClosed, or with the error of ctx (and then may still come to be
	// accepted).
	Accept(ctx context.Context, msg *Message, fingerprint Fingerprint, window time.Duration,
		body BodyWriter) (Receipt, error)

	// Lease hands out messages that may be delivered now. It may return fewer than there are;
	// then the function given to Watch is called when it is worth asking again.
	Lease(ctx context.Context, request LeaseRequest) (Leased, error)

	// Settle ends a lease. It takes effect at once for what this process leases next, and is
	// recorded soon, in the order of the calls. It never blocks and never fails: what cannot be
	// recorded now is recorded when that is possible again, as long as the lease is not lost.
	Settle(lease *Lease, settlement Settlement)

	// Body opens the body of a message: ErrNotFound where there is no such message, ErrDamaged
	// where the bytes are there no more.
	Body(ctx context.Context, id ID) (Body, error)

	// Get returns one message with its attempts, or ErrNotFound.
	Get(ctx context.Context, id ID) (*Message, error)

	// List returns the messages that a filter selects, by rising id, or by falling id with
	// Newest. Finding by RequestID is quick however many messages there are.
	List(ctx context.Context, filter Filter) ([]*Message, error)

	// Count counts what a filter selects. Its After, Newest and Limit have no meaning.
	Count(ctx context.Context, filter Filter) (int64, error)

	// Replay makes a message due now with a fresh schedule: a dead or delivered one is pending
	// again, with Replayed set; one that waits for its next attempt does not wait any more. It returns
	// ErrNotFound, or ErrInFlight for one that is leased.
	Replay(ctx context.Context, id ID) error

	// ReplayAll does that for dead and delivered messages that a filter selects, Limit of them,
	// by rising id. last is the After of the next call: the id of the last message that was
	// looked at, or filter.After where none was. done says that there are no more.
	ReplayAll(ctx context.Context, filter Filter) (replayed int, last ID, done bool, err error)

	// Drop forgets a message in whatever state, and returns what it was. One that is leased is
	// forgotten when its delivery ends, however it ends: ErrInFlight says so.
	Drop(ctx context.Context, id ID) (*Message, error)

	// DropAll forgets what a filter selects and is not leased, Limit of them: by rising id, or,
	// with EndedFor, those that ended longest ago. Its Newest has no meaning, with EndedFor nor has
	// After.
	DropAll(ctx context.Context, filter Filter) ([]*Message, error)

	// Expire makes dead letters of the route's messages that could be leased now and whose
	// schedule started longer ago than age, at most limit of them. They get lastError unless
	// they have one of their own. What waits behind them may come with the next call.
	Expire(ctx context.Context, route string, age time.Duration, lastError string,
		limit int) ([]*Message, error)

	// Pause has a route not leased any more, or again. It is kept, also for a route of which
	// there is no message.
	Pause(ctx context.Context, route string, paused bool) error

	// NoteStream notes that this process takes the messages of a live stream, as durably as Accept.
	// It fails as Accept does.
	NoteStream(ctx context.Context, stream OpenStream) error

	// ForgetStream forgets a stream that was noted, because its end is safe. It is no error if there
	// is none.
	ForgetStream(ctx context.Context, id string) error

	// LostStreams returns the streams that were noted by processes which are gone: by an earlier one,
	// or by one with which this one shares the store, and which was not heard of for the time of
	// leases. They are returned until they are forgotten.
	LostStreams(ctx context.Context) ([]OpenStream, error)

	// SetLimits says how much there may be, and how far back fingerprints are needed.
	SetLimits(limits Limits)

	// Watch has f called with the name of a route whenever messages of it may have become
	// leasable otherwise than by the passing of time, with an empty name for any route. f must
	// not block nor call the store.
	Watch(f func(route string))

	// Counts returns how much is there, without looking at every message.
	Counts(ctx context.Context) (Counts, error)

	// Flush waits until everything settled before the call is recorded.
	Flush(ctx context.Context) error

	// Close records what is left to be recorded, gives back leases that are not settled, and
	// closes the store. A store that cannot be reached returns that error without waiting.
	Close(ctx context.Context) error
}

// Shared is what a store has beside, if several gateways can use it at a time.
type Shared interface {
	// Gateways lists those that use the store now or did lately, by name.
	Gateways(ctx context.Context) ([]Gateway, error)
}

// Gateway is one user of a shared store.
type Gateway struct {
	Name        string    `json:"name"`
	Version     string    `json:"version"`
	Since       time.Time `json:"since"`
	LastSeen    time.Time `json:"last_seen"`
	LiveStreams int       `json:"live_streams"`
	Leases      int       `json:"delivering"`
	Self        bool      `json:"self,omitempty"`
}

// StoreModule makes a store from configuration. It is a Caddy module in the namespace
// deepgram_callback.stores, with the inline key `engine`, and in a Caddyfile what follows
// `store <engine>`, where it implements caddyfile.Unmarshaler. It is provisioned for every
// configuration that is loaded or only validated, so provisioning touches nothing that is stored.
type StoreModule interface {
	// Identity names what is stored, over all configurations: modules of one identity stand for
	// one store, which is opened once and shared between directives and over reloads. It is
	// shown to operators, in logs and metrics, and so has no secret in it.
	Identity() string

	// Open opens the store, with limits that may change later ([Store.SetLimits]). ctx bounds
	// the opening alone. Its error names what it is about and what to do. An engine whose store
	// can be away for a time opens all the same, and refuses messages.
	Open(ctx context.Context, limits Limits, events StoreEvents) (Store, error)
}

// Reconfigurable is what a store has beside, if its module says more than its identity.
type Reconfigurable interface {
	// Reconfigure takes from a module of the same identity what can change while the store is
	// open, such as a password. It is called when a configuration joins a store that is open
	// already, and when an older one is in charge again.
	Reconfigure(module StoreModule) error
}

// WithSchema is what a [StoreModule] has beside, if its store has tables that somebody else can
// make. It is asked of a module that is not provisioned.
type WithSchema interface {
	// SchemaSQL returns what makes the tables in a schema, an empty name for its default one.
	SchemaSQL(schema string) (string, error)
}

// WithExists is what a [StoreModule] has beside, if it can tell whether there is something to open:
// Open makes what is missing.
type WithExists interface {
	// Exists looks, and changes nothing. An error says that nobody can tell at present.
	Exists(ctx context.Context) (bool, error)
}

// StoreEvents are what a store tells by itself, for metrics, events and logs, and what it asks.
// Each may be nil. They are called from any goroutine and must not block.
type StoreEvents struct {
	// Refusing: the store has begun to refuse new messages, with the cause (nil for
	// [ReasonFull]), or accepts them again.
	Refusing func(reason Reason, refusing bool, cause error)

	// Synced: a group commit took so long.
	Synced func(took time.Duration)

	// Evicted: kept messages of a route gave way to new ones for lack of room, so many of them.
	Evicted func(route string, messages int)

	// LiveStreams is asked how many streams this gateway has, for others that share the store to
	// see.
	LiveStreams func() int

	// Problem: something that is stored cannot be read, or something failed in the background,
	// and an operator should know of it.
	Problem func(err error)
}

// OpenStream is a live stream whose messages a process accepts. See [Inbox.OpenStream].
type OpenStream struct {
	// ID names it, and is never used again.
	ID string

	// Route is that of its messages.
	Route string

	// Data is what its end will need, for the inbox alone to read.
	Data []byte
}

// BodyWriter takes a body as it comes in and keeps at most a small part of it in memory.
type BodyWriter interface {
	io.Writer

	// Discard forgets the body. It does nothing after Accept took the body over.
	Discard()
}

// Fingerprint tells whether two callbacks are the same: SHA-256 over route, host, user, method,
// URI, content type and body. The zero fingerprint is that of a message which is the same as no
// other one.
type Fingerprint [sha256.Size]byte

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
	// MaxBytes is how much the store may take up, 0 for no limit. Beyond it messages are refused.
	// Kept (delivered) messages count, and give way, oldest first, before anything is refused.
	MaxBytes int64

	// Fingerprints is how far back fingerprints are needed.
	Fingerprints time.Duration
}

// LeaseRequest says which messages [Store.Lease] is to hand out.
type LeaseRequest struct {
	Route string

	// Max is how many at most.
	Max int

	// Tried selects the messages that wait for another attempt, those with a NextAttemptAt, in
	// its order. Without it, those that have none, because they were not tried since they were
	// accepted or replayed, by rising id. Either way, messages that were replayed come after those
	// that were not.
	Tried bool

	// Newest has messages that were not tried come by falling id.
	Newest bool

	// Avoid leaves out what goes to these destinations or hosts. They are a thousand at most. A
	// store that has to look through many messages to find others may stop after some thousands
	// and go on with the next call, see Watch.
	Avoid Destinations
}

// Leased is what [Store.Lease] returns.
type Leased struct {
	Leases []*Lease

	// Next is how long from now the earliest of those that wait for a time is due, which is worth
	// asking for; negative if none does. It is set for a request of tried ones that got
	// fewer than it asked for.
	Next time.Duration
}

// Lease is a message that its holder alone may deliver, until the lease is settled or lost.
type Lease struct {
	// Message is the holder's own copy.
	Message *Message

	// At is the store's time when the lease was given.
	At time.Time

	// Lost is closed when the store has found that it could not renew the lease in time, so that
	// another may have the message by now. It is nil where that cannot happen.
	Lost <-chan struct{}

	// Token is for the store, to tell this lease of the message from a later one.
	Token any
}

// Settlement says how a lease ends.
type Settlement struct {
	Verdict Verdict

	// Attempt is the one that was made. It has no meaning with Return.
	Attempt Attempt

	// Delay is how long from now the next attempt is due, for Retry.
	Delay time.Duration

	// Keep has a message that was delivered kept in the state Delivered, instead of forgotten.
	Keep bool
}

// Verdict is the kind of a [Settlement].
type Verdict int

const (
	// Done: delivered.
	Done Verdict = iota

	// Retry: one more attempt has failed; due again after Delay.
	Retry

	// Bury: one more attempt has failed, and it was the last: a dead letter now.
	Bury

	// Return: the attempt did not take place or was broken off here; the message is as before.
	Return
)

// Filter selects messages. What is zero selects everything.
type Filter struct {
	State State
	Route string

	// RequestID is what the body of the message said in request_id.
	RequestID string

	// User selects what one user's credentials brought in.
	User string

	// Since and Until bound the time of receipt, Until itself excluded.
	Since, Until time.Time

	// EndedFor selects dead and delivered messages that have been so for at least as long.
	EndedFor time.Duration

	// After skips messages up to and including this id, with Newest from this id on upwards: it
	// is the last one of the page before.
	After ID

	// Newest lists by falling id.
	Newest bool

	// Limit is how many at most; 0 means [DefaultListLimit].
	Limit int
}

// Matches reports whether a message is one that the filter selects, apart from After and Limit. now
// is the time of the store, which EndedFor is counted back from.
func (f Filter) Matches(m *Message, now time.Time) bool {
	return (f.State == "" || m.State == f.State) &&
		(f.Route == "" || m.Route == f.Route) &&
		(f.RequestID == "" || m.RequestID == f.RequestID) &&
		(f.User == "" || m.User == f.User) &&
		(f.Since.IsZero() || !m.ReceivedAt.Before(f.Since)) &&
		(f.Until.IsZero() || m.ReceivedAt.Before(f.Until)) &&
		(f.EndedFor == 0 || m.State != Pending && !m.EndedAt().After(now.Add(-f.EndedFor)))
}

// DefaultListLimit is how many messages [Store.List] returns at most where a [Filter] does not say.
const DefaultListLimit = 100

// Counts says how much a store holds.
type Counts struct {
	// Routes has every route of which there are messages, or that is paused, by name.
	Routes map[string]RouteCounts

	// Bytes is what the store takes up. MaxBytes is its limit, 0 if it has none.
	Bytes    int64
	MaxBytes int64

	// Fingerprints is how many are kept for deduplication.
	Fingerprints int64

	// Refusing is why new messages are refused at present, empty if they are not.
	Refusing Reason

	// RefusingSince is when that began.
	RefusingSince time.Time
}

// RouteCounts says how much a store holds of one route.
type RouteCounts struct {
	Totals

	// Paused says that nothing of the route is leased until it is resumed.
	Paused bool
}

const (
	// MaxRetrying is up to where a store counts the messages of a route that are to be tried again.
	// While a service is away that may be all of them, and nobody asks whether it is 50,000 or 60,000.
	MaxRetrying = 1000

	// MaxAttempts is how many attempts are kept of each message.
	MaxAttempts = 10

	// MaxErrorSize is how many bytes are kept of the text of an error.
	MaxErrorSize = 512
)

// ClipError bounds the text of an error to [MaxErrorSize] without cutting through a character, and
// takes out what is not text.
func ClipError(text string) string {
	text = strings.ReplaceAll(strings.ToValidUTF8(text, "\uFFFD"), "\x00", "\uFFFD")
	if len(text) <= MaxErrorSize {
		return text
	}
	size := MaxErrorSize
	for size > 0 && text[size]&0xc0 == 0x80 { // a continuation byte of UTF-8
		size--
	}
	return text[:size]
}

// AddAttempt takes note of a finished attempt, as every store does when a lease is settled.
func (m *Message) AddAttempt(a Attempt) {
	a.Error = ClipError(a.Error)
	m.Tries++
	m.LastError = a.Error
	m.Attempts = append(slices.Clone(m.Attempts[max(0, len(m.Attempts)-MaxAttempts+1):]), a)
}

// Earlier returns the earlier of two times, of which a zero one is none.
func Earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// EndedAt is when a message died or was delivered. It is zero for one that is pending.
func (m *Message) EndedAt() time.Time {
	switch m.State {
	case Dead:
		return m.DiedAt
	case Delivered:
		return m.DeliveredAt
	}
	return time.Time{}
}

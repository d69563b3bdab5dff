// Inbox decides when and whether to deliver what a Store keeps. This file takes messages in, and
// has them forgotten when they were kept long enough. operator.go answers an operator, turns.go and
// attempt.go deliver.

package spool

import (
	"context"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"sync"
	"time"
)

const (
	// sweepInterval is how often dead letters are looked through for those kept long enough.
	sweepInterval = time.Minute

	// bulk is how many messages are changed in one go.
	bulk = 256

	// lateGrace is how long a delivery that was cancelled may take to return before nobody waits for
	// it any more.
	lateGrace = 10 * time.Second
)

// Hooks are told what happens, for metrics, events and logs. Each may be nil. They are called
// from many goroutines, must not block, and must not change the messages they
// are given.
type Hooks struct {
	// Accepted: a new message is safe.
	Accepted func(route string, size int64)

	// Duplicate: a message was there already.
	Duplicate func(route string)

	// Refused: a message could not be taken.
	Refused func(route string, reason Reason)

	// Attempted: an attempt to deliver has ended.
	Attempted func(msg *Message, result Result, took time.Duration)

	// Delivered: a message is done.
	Delivered func(msg *Message)

	// Died: a message became a dead letter.
	Died func(msg *Message)

	// Dropped: a dead letter was dropped because it was kept long enough.
	Dropped func(msg *Message)

	// Paused: an operator has paused the deliveries of a route, or resumed them.
	Paused func(route string, paused bool)

	// Down: the service of a route was found to be down (or overloaded), or to be up again. cause is
	// why it is down.
	Down func(route string, down bool, cause string)

	// Unconfigured: there are messages of a route that no configuration has. They go to the route
	// named by to; where it is empty they wait.
	Unconfigured func(route string, counts RouteCounts, to string)

	// Elsewhere is called in place of Unconfigured where the store is [Shared]: the route may be one
	// that another gateway delivers, so its messages wait.
	Elsewhere func(route string, counts RouteCounts)

	// Problem: something failed in the background that an operator should know of.
	Problem func(err error)
}

// Envelope is what comes with the body of a message to be accepted.
type Envelope struct {
	Route  string
	Method string

	// Host is the one that the sender called, User who it is as far as its credentials say.
	// Both keep the messages of one from being taken for another's.
	Host string
	User string

	// URI is path and query as they are to be delivered.
	URI string

	// Header is kept as it is; so credentials and hop-by-hop fields must have been removed.
	Header http.Header

	// ContentLength is the expected size of the body; negative if unknown.
	ContentLength int64
}

// Inbox accepts messages onto disk and delivers them, with order,
// retries and dead letters.
//
// Messages of a route that differ in their order key are delivered at the same time, up to the
// route's concurrency. One that fails is tried again on its own schedule (RouteConfig.RetryDelays,
// or when the service says), and only those with the same order key wait for it.
//
// What others do is found out for each destination, for each host and for the route, and decides
// how attempts are spread: so that what a service would take is delivered within 15 seconds (60
// where others get no answer at all) whatever becomes of the rest, and a service that is down is
// not hammered. The schedule is on the page of health (health.go); attempt.go carries it out.
//
// A failed attempt while the service is down stands for one of all that wait: with it, the messages
// that were pending for RetryFor die. So nothing dies only because the inbox itself was switched
// off for long.
type Inbox struct {
	store Store
	hooks Hooks

	ctx    context.Context // ends when the inbox closes
	cancel context.CancelFunc

	look chan struct{} // has findOthers look

	configuring sync.Mutex // held while the configurations are changed; before mu

	mu             sync.Mutex
	routes         map[string]*route
	configurations []*configuration // those that are not released, the newest last
	closed         bool
	work           sync.WaitGroup // goroutines, other than deliveries
}

// New makes an inbox of a store, which it owns from then on.
func New(store Store, hooks Hooks) *Inbox {
	in := &Inbox{
		store:  store,
		hooks:  hooks,
		routes: make(map[string]*route),
		look:   make(chan struct{}, 1),
	}
	in.ctx, in.cancel = context.WithCancel(context.Background())
	store.Watch(in.wake)
	in.work.Go(in.sweep)
	in.work.Go(in.findOthers)
	return in
}

// Store returns what the inbox is made of.
func (in *Inbox) Store() Store { return in.store }

// wake has a route look for what it can deliver, or a route be found that delivers it.
func (in *Inbox) wake(name string) {
	in.mu.Lock()
	r := in.routes[name]
	in.mu.Unlock()
	if r == nil || !r.configured() {
		if !in.reported(name) {
			in.lookForOthers()
		}
		return
	}
	r.signal()
}

// copyBuffers are for reading bodies.
var copyBuffers = sync.Pool{New: func() any { b := make([]byte, 32<<10); return &b }}

// Accept takes a message in. When it returns without an error the message is
// safe, and will be delivered; or it was so before, and the receipt says duplicate. A
// *RefusedError says that it cannot be kept at present. An error of reading
// the body is returned wrapped. Once the body was read, the end of ctx changes nothing any more.
//
// Only what says who it is can be a duplicate: a message without a request id never is, however
// equal its bytes are to those of another. Two live streams have the same UtteranceEnd.
func (in *Inbox) Accept(ctx context.Context, envelope Envelope, body io.Reader) (Receipt, error) {
	receipt, err := in.accept(ctx, envelope, body)
	var refused *RefusedError
	switch {
	case errors.As(err, &refused):
		if in.hooks.Refused != nil {
			in.hooks.Refused(envelope.Route, refused.Reason)
		}
	case err != nil:
	case receipt.Duplicate:
		if in.hooks.Duplicate != nil {
			in.hooks.Duplicate(envelope.Route)
		}
	case in.hooks.Accepted != nil:
		in.hooks.Accepted(envelope.Route, receipt.Size)
	}
	return receipt, err
}

func (in *Inbox) accept(ctx context.Context, envelope Envelope, body io.Reader) (Receipt, error) {
	config := in.configOf(envelope.Route)
	writer, err := in.store.NewBody(ctx, envelope.ContentLength)
	if err != nil {
		return Receipt{}, err
	}
	var sealing *sealer
	if config.Encrypt != nil {
		if sealing, err = config.Encrypt.sealBody(writer); err != nil {
			writer.Discard()
			return Receipt{}, err
		}
		writer = sealing
	}
	digest := newFingerprint(envelope)
	scanner := newRequestIDScanner()
	if err := readBody(body, writer, digest, scanner); err != nil {
		writer.Discard()
		return Receipt{}, err
	}

	msg := &Message{
		Route:       envelope.Route,
		Method:      envelope.Method,
		URI:         envelope.URI,
		Header:      envelope.Header,
		User:        envelope.User,
		RequestID:   scanner.RequestID(),
		OrderKey:    config.OrderBy.key(envelope, scanner),
		Destination: destinationOf(envelope.Host, envelope.URI),
	}
	var fingerprint Fingerprint
	if msg.RequestID != "" && config.DedupeWindow > 0 {
		fingerprint = config.Encrypt.blind(Fingerprint(digest.Sum(nil)))
	}
	if sealing != nil {
		if err := sealing.finish(msg); err != nil {
			writer.Discard()
			return Receipt{}, err
		}
		writer = sealing.BodyWriter
	}
	// The body has come as a whole, so whatever becomes of its sender, the message is kept: what
	// is stored is not to be reported as refused.
	ctx = context.WithoutCancel(ctx)
	receipt, err := in.store.Accept(ctx, msg, fingerprint, config.DedupeWindow, writer)
	if sealing != nil {
		receipt.Size = plainSize(receipt.Size)
	}
	return receipt, err
}

// readBody reads a body once and gives it to all who need it.
func readBody(
	body io.Reader,
	writer BodyWriter,
	digest hash.Hash,
	scanner *requestIDScanner,
) error {
	buffer := copyBuffers.Get().(*[]byte)
	defer copyBuffers.Put(buffer)
	for {
		n, err := body.Read(*buffer)
		if part := (*buffer)[:n]; n > 0 {
			digest.Write(part)
			if !scanner.Done() {
				_, _ = scanner.Write(part)
			}
			if _, err := writer.Write(part); err != nil {
				return err
			}
		}
		switch {
		case err == io.EOF:
			return nil
		case err != nil:
			return fmt.Errorf("read body: %w", err)
		}
	}
}

// configOf returns the configuration of a route, the defaults for one that has none.
func (in *Inbox) configOf(name string) RouteConfig {
	in.mu.Lock()
	r := in.routes[name]
	in.mu.Unlock()
	if r != nil {
		if config, ok := r.config(); ok {
			return config
		}
	}
	return RouteConfig{}.withDefaults()
}

// sweep forgets what was kept long enough: dead letters, and what was delivered.
func (in *Inbox) sweep() {
	ticker := time.NewTicker(sweepInterval)
	defer ticker.Stop()
	for {
		select {
		case <-in.ctx.Done():
			return
		case <-ticker.C:
		}
		for _, r := range in.allRoutes() {
			if config, ok := r.config(); ok {
				in.sweepRoute(r.name, config)
			}
		}
	}
}

func (in *Inbox) sweepRoute(name string, config RouteConfig) {
	tell := func(msg *Message) {
		if msg.State == Dead && in.hooks.Dropped != nil {
			in.hooks.Dropped(msg)
		}
	}
	// Where nothing is to be kept any more, this is all that was delivered.
	filters := []Filter{{Route: name, State: Delivered, EndedFor: config.Keep}}
	if config.DeadLetterKeep > 0 {
		filters = append(filters, Filter{Route: name, State: Dead, EndedFor: config.DeadLetterKeep})
	}
	for _, filter := range filters {
		if err := in.dropAll(in.ctx, filter, tell); err != nil {
			in.problem(fmt.Errorf("forget what was kept long enough of route %s: %w", name, err))
		}
	}
}

func (in *Inbox) problem(err error) {
	if in.hooks.Problem != nil && !errors.Is(err, context.Canceled) && !errors.Is(err, ErrClosed) {
		in.hooks.Problem(err)
	}
}

// Close stops accepting and delivering. What is being delivered may finish until ctx is done; what
// has not by then is cancelled, and pending again when the inbox is next opened. Close closes the
// store.
func (in *Inbox) Close(ctx context.Context) error {
	in.mu.Lock()
	if in.closed {
		in.mu.Unlock()
		return nil
	}
	in.closed = true
	in.mu.Unlock()

	in.cancel()
	in.work.Wait()
	var left []*configuration
	in.handOver(func() { left, in.configurations = in.configurations, nil })
	for _, c := range left {
		c.finish(ctx)
	}
	return in.store.Close(ctx)
}

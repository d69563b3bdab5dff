// Inbox decides when and whether to deliver what a Store keeps. This file has messages forgotten
// when they were kept long enough. incoming.go and stream.go take them in, operator.go answers an
// operator, turns.go and attempt.go deliver.

package spool

import (
	"context"
	"errors"
	"fmt"
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
// not hammered. The schedule is on the page of [health.Health]; turns.go and attempt.go carry it out.
//
// A failed attempt while the service is down stands for one of all that wait: with it, the messages
// that were pending for RetryFor die. So nothing dies only because the inbox itself was switched
// off for long.
type Inbox struct {
	store Store
	hooks Hooks

	ctx    context.Context // ends when the inbox closes
	cancel context.CancelFunc

	look         chan struct{} // has findOthers look
	reconfigured chan struct{} // has endLost look

	configuring sync.Mutex // held while the configurations are changed; before mu

	mu             sync.Mutex
	unended        map[string]*Stream // that ended, and whose end is not safe yet
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

		reconfigured: make(chan struct{}, 1),
		unended:      make(map[string]*Stream),
	}
	in.ctx, in.cancel = context.WithCancel(context.Background())
	store.Watch(in.wake)
	in.work.Go(in.sweep)
	in.work.Go(in.findOthers)
	in.work.Go(in.endLost)
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

// configOf returns the configuration of a route, the defaults for one that has none.
func (in *Inbox) configOf(name string) RouteConfig {
	if config, ok := in.configured(name); ok {
		return config
	}
	return RouteConfig{}.withDefaults()
}

// configured returns the configuration of a route, if it has one.
func (in *Inbox) configured(name string) (config RouteConfig, ok bool) {
	in.mu.Lock()
	r := in.routes[name]
	in.mu.Unlock()
	if r == nil {
		return config, false
	}
	return r.config()
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

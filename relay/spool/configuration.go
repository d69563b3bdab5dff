// The configurations of an inbox: which of them says what, and how one hands over
// to the next.

package spool

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"
)

// Config is what one configuration says of an inbox.
type Config struct {
	// MaxBytes bounds what the inbox may take up. 0: no limit.
	MaxBytes int64

	// Routes says how messages are delivered, by the names of their routes. Where it has
	// one route alone, that one also takes over what is left of routes that no
	// configuration has any more: their service was moved. Not from a shared store, as
	// another gateway may have such a route.
	Routes map[string]RouteConfig
}

// configuration is one that was given to Configure and is not released yet.
type configuration struct {
	maxBytes int64

	// routes are those that it names, and those whose messages it took over.
	routes map[string]*registration

	// only is the one route that it names, nil if it names none or several.
	only     *registration
	onlyName string

	// reported are routes of which it was said that nobody delivers their messages.
	reported map[string]bool

	ctx    context.Context
	cancel context.CancelFunc
	busy   sync.WaitGroup // deliveries under this configuration
}

// registration is what one configuration says of a route.
type registration struct {
	*configuration
	config RouteConfig
}

func newConfiguration(config Config) *configuration {
	c := &configuration{
		maxBytes: config.MaxBytes,
		routes:   make(map[string]*registration, len(config.Routes)),
		reported: make(map[string]bool),
	}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	for name, route := range config.Routes {
		c.routes[name] = &registration{c, route.withDefaults()}
	}
	if len(c.routes) == 1 {
		for name, g := range c.routes {
			c.only, c.onlyName = g, name
		}
	}
	return c
}

// Configure has the inbox work in this way from now on. It may be called again, before
// or after the release of the configuration before: the latest one that is not
// released is in charge. So a new configuration takes over while the old one ends,
// and the old one is back in charge should the new one be given up. A route that only an
// older one names stays that one's until its release. Deliveries that are under
// way end as they began.
//
// release ends this configuration: it waits for the deliveries under it until ctx is
// done, and cancels what is left; cancelled ones are pending again. Without any
// configuration messages stay pending, and the limits as they were.
func (in *Inbox) Configure(config Config) (release func(ctx context.Context)) {
	c := newConfiguration(config)
	in.handOver(func() { in.configurations = append(in.configurations, c) })
	in.lookForOthers()
	signal(in.reconfigured)
	var once sync.Once
	return func(ctx context.Context) {
		once.Do(func() { in.release(ctx, c) })
	}
}

func (in *Inbox) release(ctx context.Context, ended *configuration) {
	in.handOver(func() {
		in.configurations = slices.DeleteFunc(in.configurations,
			func(other *configuration) bool { return other == ended })
	})
	in.lookForOthers()
	ended.finish(ctx)
}

// handOver makes a change in the configurations and has all go by it.
func (in *Inbox) handOver(change func()) {
	in.configuring.Lock()
	defer in.configuring.Unlock()

	in.mu.Lock()
	change()
	for _, c := range in.configurations {
		for name := range c.routes {
			if in.routes[name] == nil {
				in.routes[name] = newRoute(in, name)
			}
		}
	}
	for name, r := range in.routes {
		if r.goBy(in.inCharge(name)) && !in.closed {
			in.work.Go(r.run)
		}
	}
	limits, known := in.limits()
	closed := in.closed
	in.mu.Unlock()
	if known && !closed {
		in.store.SetLimits(limits) // which may call wake, and so take in.mu
	}
}

// inCharge returns what the latest configuration that has a route says of it; nil if
// none has. in.mu is held.
func (in *Inbox) inCharge(name string) *registration {
	for _, c := range slices.Backward(in.configurations) {
		if g := c.routes[name]; g != nil {
			return g
		}
	}
	return nil
}

// newest returns the configuration in charge, or nil. in.mu is held.
func (in *Inbox) newest() *configuration {
	if len(in.configurations) == 0 {
		return nil
	}
	return in.configurations[len(in.configurations)-1]
}

// limits are those of the configuration in charge; but fingerprints are kept for the
// longest time that any asks for. in.mu is held.
func (in *Inbox) limits() (limits Limits, known bool) {
	newest := in.newest()
	if newest == nil {
		return Limits{}, false
	}
	limits.MaxBytes = newest.maxBytes
	named := false
	for _, c := range in.configurations {
		for _, g := range c.routes {
			named = true
			limits.Fingerprints = max(limits.Fingerprints, g.config.DedupeWindow)
		}
	}
	if !named {
		limits.Fingerprints = defaultDedupeWindow
	}
	return limits, true
}

// finish waits for the deliveries of a configuration, and cancels those that take too
// long.
func (c *configuration) finish(ctx context.Context) {
	defer c.cancel()
	idle := make(chan struct{})
	go func() {
		c.busy.Wait()
		close(idle)
	}()
	select {
	case <-idle:
		return
	case <-ctx.Done():
	}
	c.cancel()
	select {
	case <-idle:
	case <-time.After(lateGrace):
	}
}

// lookForOthers has findOthers look for messages of routes that no configuration has.
func (in *Inbox) lookForOthers() { signal(in.look) }

// signal has whoever receives from a channel with room for one do so once more.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// findOthers looks for messages of routes that no configuration has, whenever there may
// be some, until the inbox closes. A store that cannot say is asked again.
func (in *Inbox) findOthers() {
	var again <-chan time.Time // nil unless the store could not say
	for {
		select {
		case <-in.ctx.Done():
			return
		case <-in.look:
		case <-again:
		}
		counts, err := in.store.Counts(in.ctx)
		if err != nil {
			if again == nil { // once, not each time
				in.problem(fmt.Errorf("look for messages of routes that are not configured: %w", err))
			}
			again = time.After(leaseRetry)
			continue
		}
		again = nil
		in.takeOver(counts)
	}
}

// takeOver gives messages of routes that no configuration has to the only route of the
// one in charge. Where that one has several nobody can tell where they belong, and
// they wait. So they do in a shared store, as another gateway may deliver them.
func (in *Inbox) takeOver(counts Counts) {
	_, shared := in.store.(Shared)
	others := make(map[string]RouteCounts)
	to := ""
	in.handOver(func() {
		newest := in.newest()
		if newest == nil {
			return
		}
		for name, c := range counts.Routes {
			if c.Pending+c.Dead+c.Delivered == 0 || in.inCharge(name) != nil || newest.reported[name] {
				continue
			}
			others[name] = c
			if newest.only != nil && !shared {
				newest.routes[name], to = newest.only, newest.onlyName
			} else {
				newest.reported[name] = true
			}
		}
	})
	tell := in.hooks.Unconfigured
	if shared && in.hooks.Elsewhere != nil {
		tell = func(route string, c RouteCounts, _ string) { in.hooks.Elsewhere(route, c) }
	}
	if tell == nil {
		return
	}
	for _, name := range slices.Sorted(maps.Keys(others)) {
		tell(name, others[name], to)
	}
}

// reported says whether all that is to be done about messages of a route which no
// configuration has is done.
func (in *Inbox) reported(name string) bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	newest := in.newest()
	return newest != nil && newest.reported[name]
}

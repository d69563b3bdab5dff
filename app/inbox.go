package app

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
)

// stopTimeout is how long deliveries may go on when their configuration, or the
// process, ends. What has not finished by then is pending again.
const stopTimeout = 10 * time.Second

// A Route is a handler's part in an inbox: callbacks are accepted under its
// name and delivered as its configuration says.
type Route struct {
	// Store is where callbacks are kept. Routes whose stores have one identity share an inbox.
	Store spool.StoreModule
	// MaxSize is how many bytes the inbox may take up, over all its routes.
	MaxSize int64
	// Name is what the messages of this route are stored under.
	Name string
	// Config says how they are delivered.
	Config spool.RouteConfig
	// Users are those who can be let in for this route, where credentials name any.
	Users map[string]bool
	// Settings tells one way to deliver from another: routes of one name have
	// to share it.
	Settings string

	identity string        // of the store
	opened   chan struct{} // closed when the inbox is open, or could not be opened
	inbox    *spool.Inbox  // nil if it could not
}

// AddRoute makes r part of this configuration. The inbox is opened when the
// app starts, not before: validating a configuration must not touch it.
func (a *App) AddRoute(r *Route) error {
	r.identity = r.Store.Identity()
	r.opened = make(chan struct{})
	for _, other := range a.routes {
		switch {
		case other.identity != r.identity:
		case other.MaxSize != r.MaxSize:
			return fmt.Errorf("the inbox %s has a max_size of %d bytes and one of %d; "+
				"it is one for all that share it", r.identity, other.MaxSize, r.MaxSize)
		case other.Name == r.Name && other.Settings != r.Settings:
			return fmt.Errorf("the inbox %s has callbacks of the route %q delivered in two "+
				"different ways; name the route of one of them otherwise", r.identity, r.Name)
		}
	}
	a.routes = append(a.routes, r)
	return nil
}

// Identity names the inbox of the route.
func (r *Route) Identity() string { return r.identity }

// ErrNotOpen says that the inbox of a route is not open yet, or not any more.
var ErrNotOpen = errors.New("the inbox is not open")

// Inbox waits until the route's inbox is open, which it is as soon as all of a
// new configuration has started.
func (r *Route) Inbox(ctx context.Context) (*spool.Inbox, error) {
	select {
	case <-r.opened:
	default:
		ctx, cancel := context.WithTimeoutCause(ctx, stopTimeout, ErrNotOpen)
		defer cancel()
		select {
		case <-r.opened:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
	if r.inbox == nil {
		return nil, ErrNotOpen
	}
	return r.inbox, nil
}

// openInboxes opens the inboxes of this configuration, or joins those that are
// open already, and puts it in charge of them. Where one cannot be opened none is
// touched, and Cleanup closes what was opened.
func (a *App) openInboxes() error {
	defer func() {
		for _, r := range a.routes {
			close(r.opened) // nobody is to wait for what failed
		}
	}()
	opened := make([]*spool.Inbox, len(a.routes))
	configs := make(map[*spool.Inbox]spool.Config)
	for i, r := range a.routes {
		inbox, err := a.process.inbox(a.ctx, r)
		if err != nil {
			return fmt.Errorf("spool: %w", err) // which names the path
		}
		opened[i] = inbox
		if _, ok := configs[inbox]; !ok {
			configs[inbox] = spool.Config{
				MaxBytes: r.MaxSize, Routes: make(map[string]spool.RouteConfig),
			}
		}
		configs[inbox].Routes[r.Name] = r.Config
	}
	for i, r := range a.routes {
		r.inbox = opened[i]
	}
	for inbox, config := range configs {
		a.releases = append(a.releases, inbox.Configure(config))
	}
	return nil
}

// endDeliveries ends this configuration's deliveries, when they have finished or
// cannot be waited for any longer.
func (a *App) endDeliveries() {
	ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	var released sync.WaitGroup
	for _, release := range a.releases {
		released.Go(func() { release(ctx) })
	}
	released.Wait()
	a.releases = nil
}

package app

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap"

	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
)

// inboxes are those that this process has open, by path: over a reload the old
// and the new configuration share one, as a file can be open only once.
var inboxes = caddy.NewUsagePool()

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

	path   string        // the identity of the store
	opened chan struct{} // closed when the inbox is open, or could not be opened
	inbox  *spool.Inbox  // nil if it could not
}

// AddRoute makes r part of this configuration. The inbox is opened when the
// app starts, not before: validating a configuration must not touch it.
func (a *App) AddRoute(r *Route) error {
	r.path = r.Store.Identity()
	r.opened = make(chan struct{})

	a.mu.Lock()
	defer a.mu.Unlock()
	for _, other := range a.routes {
		switch {
		case other.path != r.path:
		case other.MaxSize != r.MaxSize:
			return fmt.Errorf("the inbox %s has a max_size of %d bytes and one of %d; it is one for all that share it", r.path, other.MaxSize, r.MaxSize)
		case other.Name == r.Name && other.Settings != r.Settings:
			return fmt.Errorf("the inbox %s has callbacks of the route %q delivered in two different ways; name the route of one of them otherwise", r.path, r.Name)
		}
	}
	a.routes = append(a.routes, r)
	return nil
}

// ErrNotOpen is that the inbox of a route is not open yet, or no more.
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

// openInbox is an inbox in the pool.
type openInbox struct{ *spool.Inbox }

// Destruct implements [caddy.Destructor].
func (o openInbox) Destruct() error {
	ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	return o.Close(ctx)
}

// openInboxes opens the inboxes of this configuration, or joins those that are
// open already, and begins to deliver. After an error, Cleanup leaves them.
func (a *App) openInboxes() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	defer func() {
		for _, r := range a.routes {
			close(r.opened) // nobody is to wait for what failed
		}
	}()
	opened := make([]*spool.Inbox, len(a.routes))
	for i, r := range a.routes {
		pooled, _, err := inboxes.LoadOrNew(r.path, func() (caddy.Destructor, error) {
			store, err := r.Store.Open(a.ctx, spool.Limits{MaxBytes: r.MaxSize}, storeEvents(r.path))
			if err != nil {
				return nil, err
			}
			return openInbox{spool.New(store, hooks(r.path))}, nil
		})
		if err != nil {
			return fmt.Errorf("spool: %w", err) // which names the path
		}
		a.joined = append(a.joined, r.path)
		opened[i] = pooled.(openInbox).Inbox
	}
	for i, r := range a.routes {
		r.inbox = opened[i]
	}
	for _, routes := range a.routesByPath() {
		a.releases = append(a.releases, routes[0].inbox.Configure(configOf(routes)))
	}
	return nil
}

// configOf is what this configuration says of an inbox, by its routes to it.
func configOf(routes []*Route) spool.Config {
	config := spool.Config{MaxBytes: routes[0].MaxSize, Routes: make(map[string]spool.RouteConfig)}
	for _, r := range routes {
		config.Routes[r.Name] = r.Config
	}
	return config
}

// routesByPath are the routes of each inbox, one for each name.
func (a *App) routesByPath() map[string][]*Route {
	byPath := make(map[string][]*Route)
	for _, r := range a.routes {
		if !slices.ContainsFunc(byPath[r.path], func(other *Route) bool { return other.Name == r.Name }) {
			byPath[r.path] = append(byPath[r.path], r)
		}
	}
	return byPath
}

// endDeliveries ends this configuration's deliveries, when they have finished or
// cannot be waited for any longer.
func (a *App) endDeliveries() {
	a.mu.Lock()
	releases := a.releases
	a.releases = nil
	a.mu.Unlock()

	ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	var released sync.WaitGroup
	for _, release := range releases {
		released.Go(func() { release(ctx) })
	}
	released.Wait()
}

// leaveInboxes closes the inboxes that no other configuration uses.
func (a *App) leaveInboxes() error {
	a.mu.Lock()
	joined := a.joined
	a.joined = nil
	a.mu.Unlock()

	var errs []error
	for _, path := range joined {
		waiting := pending(path)
		closed, err := inboxes.Delete(path)
		if err != nil {
			errs = append(errs, fmt.Errorf("spool %s: %w", path, err))
		}
		if closed && waiting > 0 && !caddy.Exiting() {
			currentLogger().Warn("closed an inbox that no configuration names any more; its callbacks wait on disk until one does",
				zap.String("path", path), zap.Int64("pending", waiting))
		}
	}
	return errors.Join(errs...)
}

// pending counts the callbacks that wait in an inbox, as far as that can be known now.
func pending(path string) int64 {
	inbox := Inboxes()[path]
	if inbox == nil {
		return 0
	}
	stats, err := inboxStats(inbox)
	if err != nil {
		return 0
	}
	return stats.Pending
}

// statsTimeout is how long a store may take to say what it has, where something waits for that.
const statsTimeout = 5 * time.Second

func inboxStats(inbox *spool.Inbox) (spool.Stats, error) {
	ctx, cancel := context.WithTimeout(context.Background(), statsTimeout)
	defer cancel()
	return inbox.Stats(ctx)
}

// Inboxes are the open inboxes, by their paths.
func Inboxes() map[string]*spool.Inbox {
	open := make(map[string]*spool.Inbox)
	inboxes.Range(func(path, pooled any) bool {
		open[path.(string)] = pooled.(openInbox).Inbox
		return true
	})
	return open
}

package app

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap"

	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
)

// Process is what is kept over configurations: live streams, open inboxes, and the last
// refusals. It is one for all of this process, see [ThisProcess].
//
// It owns what it keeps, and knows the configurations that run: one, but for the time of
// a reload, which may fail and leave the older one.
type Process struct {
	// Streams are the live streams. They belong to no configuration: a reload leaves them alone.
	Streams *Registry

	// Replays are those of many messages.
	Replays Replays

	// Accepted and Delivered count the callbacks of the last hour, by where they went.
	Accepted, Delivered Hour[Destination]

	// Refusals are the callbacks that were refused: why one was turned away is asked after a
	// reload, too.
	Refusals RefusalList

	started time.Time

	newest atomic.Pointer[App] // the configuration in charge; nil if none runs

	changing sync.Mutex // held while inboxes are opened or closed; before mu

	mu      sync.Mutex
	apps    []*App                  // of the configurations that run, the newest last
	inboxes map[string]*spool.Inbox // those that are open, by the identities of their stores

	announcing    sync.Mutex
	announcements []func() // the first is being made
}

// thisProcess is the one process that there is outside of tests.
var thisProcess = NewProcess()

// ThisProcess is for what Caddy has live outside of all configurations, as its admin
// endpoint does. All else has it from its [App].
func ThisProcess() *Process { return thisProcess }

// NewProcess returns one that keeps nothing yet.
func NewProcess() *Process {
	p := &Process{started: time.Now(), inboxes: make(map[string]*spool.Inbox)}
	p.Streams = newRegistry(p.logger)
	return p
}

// A Destination is where a callback goes: to a route of an inbox, which is named by the identity of
// its store, or without one, to a service at once.
type Destination struct{ Inbox, Route string }

// Forwarded counts a batch callback that was admitted and handed to its service at once, whose
// answer is the sender's.
func (p *Process) Forwarded(route string) {
	p.Accepted.Add(Destination{Route: route})
	p.Delivered.Add(Destination{Route: route})
}

// Started is when the process began.
func (p *Process) Started() time.Time { return p.started }

// begin puts a configuration in charge.
func (p *Process) begin(a *App) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.apps = append(p.apps, a)
	p.newest.Store(a)
}

// end forgets a configuration, with the inboxes that it alone has. If it was in charge
// the one before it is again.
func (p *Process) end(a *App) error {
	p.mu.Lock()
	p.apps = slices.DeleteFunc(p.apps, func(other *App) bool { return other == a })
	var newest *App
	if len(p.apps) > 0 {
		newest = p.apps[len(p.apps)-1]
	}
	p.newest.Store(newest)
	p.mu.Unlock()
	return p.closeInboxes()
}

// logger is for what may happen after its own configuration is gone.
func (p *Process) logger() *zap.Logger {
	if a := p.newest.Load(); a != nil {
		return a.logger
	}
	return caddy.Log().Named("deepgram_callback")
}

// emit tells the subscribers of Caddy's events.
func (p *Process) emit(event string, data map[string]any) {
	if a := p.newest.Load(); a != nil && a.events != nil {
		a.events.Emit(a.ctx, event, data)
	}
}

// announce emits that a state has changed, and does not wait for the subscribers. They are told in
// the order of the calls: the last that they hear is how it is.
func (p *Process) announce(event string, data map[string]any) {
	p.announcing.Lock()
	defer p.announcing.Unlock()
	p.announcements = append(p.announcements, func() { p.emit(event, data) })
	if len(p.announcements) == 1 {
		go p.makeAnnouncements()
	}
}

func (p *Process) makeAnnouncements() {
	p.announcing.Lock()
	defer p.announcing.Unlock()
	for len(p.announcements) > 0 {
		next := p.announcements[0]
		p.announcing.Unlock()
		next()
		p.announcing.Lock()
		p.announcements = p.announcements[1:]
	}
}

// Inboxes are the open inboxes, by the identities of their stores: the paths of those on
// disk.
func (p *Process) Inboxes() map[string]*spool.Inbox {
	p.mu.Lock()
	defer p.mu.Unlock()
	return maps.Clone(p.inboxes)
}

// inbox returns the inbox of a route's store, which is opened if no configuration has it
// open. It stays open for as long as there is a configuration with a route to it.
func (p *Process) inbox(ctx context.Context, r *Route) (*spool.Inbox, error) {
	p.changing.Lock()
	defer p.changing.Unlock()
	p.mu.Lock()
	inbox := p.inboxes[r.identity]
	p.mu.Unlock()
	if inbox != nil {
		if store, ok := inbox.Store().(spool.Reconfigurable); ok {
			return inbox, store.Reconfigure(r.Store)
		}
		return inbox, nil
	}
	store, err := r.Store.Open(ctx, spool.Limits{MaxBytes: r.MaxSize}, p.storeEvents(r.identity))
	if err != nil {
		return nil, err
	}
	inbox = spool.New(store, p.hooks(r.identity))
	p.mu.Lock()
	p.inboxes[r.identity] = inbox
	p.mu.Unlock()
	return inbox, nil
}

// closeInboxes closes those that no configuration has a route to any more.
func (p *Process) closeInboxes() error {
	p.changing.Lock()
	defer p.changing.Unlock()
	var errs []error
	for identity, inbox := range p.takeUnused() {
		p.Streams.leave(identity)
		waiting := pending(inbox)
		if err := closeInbox(inbox); err != nil {
			errs = append(errs, fmt.Errorf("spool %s: %w", identity, err))
		}
		if waiting > 0 && !caddy.Exiting() {
			until := "until one does"
			if _, shared := inbox.Store().(spool.Shared); shared {
				until = "for another gateway, or until one does"
			}
			p.logger().Warn("closed an inbox that no configuration names any more; "+
				"its callbacks wait in it "+until,
				zap.String("path", identity), zap.Int64("pending", waiting))
		}
	}
	return errors.Join(errs...)
}

// takeUnused takes the inboxes out that no configuration has a route to.
func (p *Process) takeUnused() map[string]*spool.Inbox {
	p.mu.Lock()
	defer p.mu.Unlock()
	unused := maps.Clone(p.inboxes)
	for _, a := range p.apps {
		for _, r := range a.routes {
			delete(unused, r.identity)
		}
	}
	for identity := range unused {
		delete(p.inboxes, identity)
	}
	return unused
}

// pending counts the callbacks that wait in an inbox, as far as that can be known now.
func pending(inbox *spool.Inbox) int64 {
	stats, err := inboxStats(inbox)
	if err != nil {
		return 0
	}
	return stats.Pending
}

// statsTimeout is how long a store may take to say what it has, where something waits
// for that.
const statsTimeout = 5 * time.Second

func inboxStats(inbox *spool.Inbox) (spool.Stats, error) {
	ctx, cancel := context.WithTimeout(context.Background(), statsTimeout)
	defer cancel()
	return inbox.Stats(ctx)
}

func closeInbox(inbox *spool.Inbox) error {
	ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	return inbox.Close(ctx)
}

func init() {
	// The process waits for what the streams still have to say, and no longer
	// than each of them was configured to be given.
	caddy.OnExit(func(ctx context.Context) { thisProcess.Streams.Shutdown(ctx) })
}

// Package app is the Caddy app deepgram_callback: it holds what outlives one
// request and one configuration. A configuration that has a deepgram_callback
// handler has this app as well, without naming it.
package app

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyevents"
	"go.uber.org/zap"

	"github.com/caddy-deepgram/deepgram-callback/internal/printable"
)

// App stands in one configuration for what the process keeps: its live streams,
// and its inboxes.
type App struct {
	logger *zap.Logger
	events *caddyevents.App
	ctx    caddy.Context

	mu       sync.Mutex
	routes   []*Route
	joined   []string // paths of inboxes, once for each route
	releases []func(context.Context)
}

// CaddyModule returns the Caddy module information.
func (*App) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "deepgram_callback",
		New: func() caddy.Module { return new(App) },
	}
}

// Provision implements [caddy.Provisioner].
func (a *App) Provision(ctx caddy.Context) error {
	a.ctx, a.logger = ctx, printable.Logger(ctx.Logger())
	events, err := ctx.App("events")
	if err != nil {
		return fmt.Errorf("getting events app: %w", err)
	}
	a.events = events.(*caddyevents.App)
	return registerMetrics(ctx.GetMetricsRegistry())
}

// Start opens the inboxes, and makes this configuration's logs and events those
// of all that the process keeps, also of what an earlier configuration opened:
// its own logs may be closed.
func (a *App) Start() error {
	started.push(a)
	return a.openInboxes()
}

// Stop ends what belongs to this configuration alone. The live streams do not,
// unless the process ends. Neither do the inboxes: servers of this configuration may
// still have callbacks to accept, as the order in which apps stop is left open.
func (a *App) Stop() error {
	if caddy.Exiting() {
		Streams.beginShutdown()
	}
	a.endDeliveries()
	return nil
}

// Cleanup implements [caddy.CleanerUpper]: what the process keeps must not keep
// a configuration in memory. It is called when all apps have stopped, also where
// one of them did not start.
func (a *App) Cleanup() error {
	started.remove(a)
	a.endDeliveries()
	return a.leaveInboxes()
}

// started are the apps of the configurations that run: one, but for the time of
// a reload, which may fail and leave the older one.
var started apps

type apps struct {
	mu     sync.Mutex
	list   []*App // the newest last
	newest atomic.Pointer[App]
}

func (l *apps) push(a *App) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.list = append(l.list, a)
	l.newest.Store(a)
}

// remove makes the newest of those that are left the one in charge.
func (l *apps) remove(a *App) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.list = slices.DeleteFunc(l.list, func(other *App) bool { return other == a })
	var newest *App
	if len(l.list) > 0 {
		newest = l.list[len(l.list)-1]
	}
	l.newest.Store(newest)
}

// currentLogger is for what may happen after its own configuration is gone.
func currentLogger() *zap.Logger {
	if a := started.newest.Load(); a != nil {
		return a.logger
	}
	return caddy.Log().Named("deepgram_callback")
}

// emit tells the subscribers of Caddy's events.
func emit(event string, data map[string]any) {
	if a := started.newest.Load(); a != nil {
		a.events.Emit(a.ctx, event, data)
	}
}

func init() {
	// The process waits for what the streams still have to say, and no longer
	// than each of them was configured to be given.
	caddy.OnExit(func(ctx context.Context) { Streams.Shutdown(ctx) })
}

// Interface guards
var (
	_ caddy.App          = (*App)(nil)
	_ caddy.Provisioner  = (*App)(nil)
	_ caddy.CleanerUpper = (*App)(nil)
)

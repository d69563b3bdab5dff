// Package app is the Caddy app deepgram_callback: it holds what outlives one
// request and one configuration. A configuration that has a deepgram_callback
// handler has this app as well, without naming it.
package app

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyevents"
	"go.uber.org/zap"
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
	a.ctx, a.logger = ctx, ctx.Logger()
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
	current.Store(a)
	return a.openInboxes()
}

// Stop ends what belongs to this configuration alone. The live streams do not,
// unless the process ends.
func (a *App) Stop() error {
	if caddy.Exiting() {
		Streams.beginShutdown()
	}
	return a.closeInboxes()
}

// Cleanup implements [caddy.CleanerUpper]: what the process keeps must not keep
// a configuration in memory.
func (a *App) Cleanup() error {
	current.CompareAndSwap(a, nil)
	return nil
}

// current is the app of the newest configuration.
var current atomic.Pointer[App]

// currentLogger is for what may happen after its own configuration is gone.
func currentLogger() *zap.Logger {
	if a := current.Load(); a != nil {
		return a.logger
	}
	return caddy.Log().Named("deepgram_callback")
}

// emit tells the subscribers of Caddy's events.
func emit(event string, data map[string]any) {
	if a := current.Load(); a != nil {
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

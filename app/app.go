// Package app is the Caddy app deepgram_callback: it holds what outlives one
// request and one configuration. A configuration that has a deepgram_callback
// handler has this app as well, without naming it.
//
//	app.go      one configuration: what it begins with and what ends with it
//	process.go  what the process keeps over configurations, which is all the rest
//	inbox.go    the routes of a configuration to its inboxes
//	streams.go  the live streams, and ended.go those that are over
//	users.go    whose credential brought in what is kept
//	metrics.go  what is counted; hooks.go: and what is logged and announced
package app

import (
	"context"
	"fmt"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyevents"
	"go.uber.org/zap"

	"github.com/caddy-deepgram/deepgram-callback/internal/printable"
)

// App stands in one configuration for what the process keeps. Its methods are called as
// Caddy does: while the configuration is provisioned by one goroutine, and afterwards
// only to start and to stop it.
type App struct {
	process *Process
	logger  *zap.Logger
	events  *caddyevents.App
	ctx     caddy.Context

	routes   []*Route
	said     map[string]bool // see Once
	releases []func(context.Context)
}

// CaddyModule returns the Caddy module information.
func (*App) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "deepgram_callback",
		New: func() caddy.Module { return thisProcess.NewApp() },
	}
}

// NewApp returns one more configuration of a process. Caddy has those of this process.
func (p *Process) NewApp() *App {
	return &App{process: p, logger: zap.NewNop(), said: make(map[string]bool)}
}

// Provision implements [caddy.Provisioner].
func (a *App) Provision(ctx caddy.Context) error {
	a.ctx, a.logger = ctx, printable.Logger(ctx.Logger())
	events, err := ctx.App("events")
	if err != nil {
		return fmt.Errorf("getting events app: %w", err)
	}
	a.events = events.(*caddyevents.App)
	return registerMetrics(ctx.GetMetricsRegistry(), a.process)
}

// Of returns the app of the configuration that ctx belongs to. A module that has it
// provisions with it, and so has it run.
func Of(ctx caddy.Context) (*App, error) {
	loaded, err := ctx.App("deepgram_callback")
	if err != nil {
		return nil, err
	}
	return loaded.(*App), nil
}

// Process is what this configuration is one of.
func (a *App) Process() *Process { return a.process }

// Once reports whether it is asked for the first time in this configuration, so that what
// concerns all of it is said once.
func (a *App) Once(what string) bool {
	if a.said[what] {
		return false
	}
	a.said[what] = true
	return true
}

// Start opens the inboxes, and makes this configuration's logs and events those
// of all that the process keeps, also of what an earlier configuration opened:
// its own logs may be closed.
func (a *App) Start() error {
	a.process.begin(a)
	return a.openInboxes()
}

// Stop ends what belongs to this configuration alone. The live streams do not,
// unless the process ends. Neither do the inboxes: servers of this configuration may
// still have callbacks to accept, as the order in which apps stop is left open.
func (a *App) Stop() error {
	if caddy.Exiting() {
		a.process.Streams.beginShutdown()
	}
	a.endDeliveries()
	return nil
}

// Cleanup implements [caddy.CleanerUpper]: what the process keeps must not keep
// a configuration in memory. It is called when all apps have stopped, also where
// one of them did not start.
func (a *App) Cleanup() error {
	a.endDeliveries()
	return a.process.end(a)
}

// Interface guards
var (
	_ caddy.App          = (*App)(nil)
	_ caddy.Provisioner  = (*App)(nil)
	_ caddy.CleanerUpper = (*App)(nil)
)

// Package app is the Caddy app deepgram_callback: it holds what outlives one
// request and one configuration. A configuration that has a deepgram_callback
// handler has this app as well, without naming it.
//
//	app.go       one configuration: how it starts, and what ends with it
//	process.go   what the process keeps over configurations
//	inbox.go     the routes of a configuration to its inboxes
//	streams.go   live streams
//	ended.go     streams that are over, and how streams are selected
//	refusals.go  callbacks that were refused
//	remedies.go  why callbacks are refused, and what to do about it
//	users.go     whether who brought a callback in was removed since
//	hooks.go     what is logged and announced of inboxes
//	metrics.go   what is counted
//	hour.go      what was counted in the last hour
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

// Of returns the app of the configuration that ctx belongs to. That a module asks for it
// while it is provisioned makes the app part of the configuration.
func Of(ctx caddy.Context) (*App, error) {
	loaded, err := ctx.App("deepgram_callback")
	if err != nil {
		return nil, err
	}
	return loaded.(*App), nil
}

// Process returns the process that this is a configuration of.
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

// Start opens the inboxes and puts this configuration in charge. What the process keeps
// logs and announces through it from now on, also what an earlier configuration opened:
// the logs of that one may be closed.
func (a *App) Start() error {
	a.process.begin(a)
	return a.openInboxes()
}

// Stop ends the deliveries of this configuration. It leaves live streams alone unless the
// process ends. And it leaves the inboxes open: servers of this configuration may still
// accept callbacks, since Caddy does not say in which order it stops apps.
func (a *App) Stop() error {
	if caddy.Exiting() {
		a.process.Streams.beginShutdown()
	}
	a.endDeliveries()
	return nil
}

// Cleanup implements [caddy.CleanerUpper]. The process forgets this configuration, which it
// would keep in memory else. Caddy calls it when all apps have stopped, and also where one
// of them did not start.
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

// Package app is the Caddy app deepgram_callback: it holds what outlives one
// request and one configuration. A configuration that has a deepgram_callback
// handler has this app as well, without naming it.
package app

import (
	"context"
	"sync/atomic"

	"github.com/caddyserver/caddy/v2"
	"go.uber.org/zap"
)

// App stands for the process's live streams in one configuration.
type App struct {
	logger *zap.Logger
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
	a.logger = ctx.Logger()
	return nil
}

// Start makes this configuration's logs those of the streams that are live,
// also of the ones that an earlier configuration opened: its own logs may be
// closed.
func (a *App) Start() error {
	logger.Store(a.logger)
	return nil
}

// Stop tells the live streams that the process ends, if it does: the stop of a
// configuration alone does not concern them.
func (a *App) Stop() error {
	if caddy.Exiting() {
		Streams.beginShutdown()
	}
	return nil
}

// logger is that of the newest configuration.
var logger atomic.Pointer[zap.Logger]

// currentLogger is for what may happen after its own configuration is gone.
func currentLogger() *zap.Logger {
	if l := logger.Load(); l != nil {
		return l
	}
	return caddy.Log().Named("deepgram_callback")
}

func init() {
	// The process waits for what the streams still have to say, and no longer
	// than each of them was configured to be given.
	caddy.OnExit(func(ctx context.Context) { Streams.Shutdown(ctx) })
}

// Interface guards
var (
	_ caddy.App         = (*App)(nil)
	_ caddy.Provisioner = (*App)(nil)
)

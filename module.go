// Package callback is a Caddy module that stands in front of existing services
// and receives Deepgram's callbacks for them: it lets in only what carries the
// right credentials, on an allowed port, by an allowed method; it hands batch
// callbacks on; and it bridges each streaming WebSocket to a backend, as one
// pair that lives and dies together.
//
// Where things are:
//
//	handler/    http.handlers.deepgram_callback: a callback's way through
//	auth/       who is calling
//	relay/      how a callback reaches its service
//	app/        what outlives one request and one configuration
//	admin/      what an operator can see and do: admin API and commands
//	caddyfile/  the directive's grammar
//	cmd/caddy/  Caddy with this module, for `go run`
//
// Importing this package, as xcaddy does, registers all of it.
package callback

import (
	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"

	"github.com/caddy-deepgram/deepgram-callback/admin"
	"github.com/caddy-deepgram/deepgram-callback/app"
	"github.com/caddy-deepgram/deepgram-callback/auth"
	"github.com/caddy-deepgram/deepgram-callback/caddyfile"
	"github.com/caddy-deepgram/deepgram-callback/handler"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/disk"
)

func init() {
	caddy.RegisterModule(new(app.App))
	caddy.RegisterModule(auth.Provider{})
	caddy.RegisterModule(new(handler.Handler))
	caddy.RegisterModule(new(handler.LeastStreams))
	caddy.RegisterModule(new(disk.Module))
	caddy.RegisterModule(admin.API{})

	httpcaddyfile.RegisterHandlerDirective(caddyfile.Directive, caddyfile.Parse)
	httpcaddyfile.RegisterDirectiveOrder(caddyfile.Directive, httpcaddyfile.Before, "reverse_proxy")

	caddycmd.RegisterCommand(admin.Command())
}

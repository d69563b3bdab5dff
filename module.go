// Package callback is a Caddy module that stands in front of existing services
// and receives Deepgram's callbacks for them: it lets in only what carries the
// right credentials, on an allowed port, by an allowed method; it hands batch
// callbacks on; and it bridges each streaming WebSocket to a backend, as one
// pair that lives and dies together.
//
// Importing this package, as xcaddy does, registers all of its modules.
//
// # Where things are
//
//	handler/    http.handlers.deepgram_callback: a callback's way through
//	auth/       who is calling
//	relay/      how a callback reaches its service: at once, as a stream, or from an inbox
//	app/        what outlives one request and one configuration
//	operate/    what an operator can see and do; operate/api offers it as JSON
//	admin/      that on Caddy's admin endpoint, and the commands
//	console/    http.handlers.deepgram_console: that for people, in a browser
//	caddyfile/  the directives' grammar
//	simulator/  the sending half, as the vendor documents it; a plugin of its own
//	cmd/caddy/  Caddy with this module, for `go run`
//	e2e/        tests of all of it together, over real sockets
//	internal/   what several packages use
//
// The comment at the top of each package (`go doc ./relay/stream`, for example) lists
// its files, and says which of them to read first.
//
// # Words
//
// One name for one thing, in code, logs and documents. For WebSockets, the words are
// those of RFC 6455: frame, message, close code, handshake.
//
//   - callback: what Deepgram sends. A batch callback is one HTTP request with a
//     finished result; a streaming callback is one WebSocket, a stream.
//   - sender: who makes a callback's HTTP request. For a stream it is the caller.
//   - service: who callbacks are for. For a stream it is the backend. An upstream
//     is one address of it, as in reverse_proxy.
//   - admission: the decision to let a callback in. A refusal has a reason, a short
//     word that logs and metrics show.
//   - relay: to hand a batch callback to its service, and the service's answer back.
//   - leg, pair: one WebSocket connection of a stream, and the two of them, which end
//     together.
//   - inbox: where callbacks are kept until their service has taken them. In the
//     Caddyfile and in metrics it is called spool, in JSON too.
//   - store: what an inbox keeps its messages in, such as a directory.
//   - message: a callback in an inbox; on a WebSocket, what RFC 6455 calls one.
//   - route: the name under which messages are stored and delivered, which stands for
//     one service and one way to reach it.
//   - attempt, delivery: one try to hand a message to its service, and the one that
//     has succeeded.
//   - dead letter: a message that is not tried any more, and is kept until somebody
//     replays or drops it.
//   - lease: the right to deliver a message now, which one worker has at a time.
//   - order key: what messages have in common that are delivered one after another.
package callback

import (
	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"

	"github.com/caddy-deepgram/deepgram-callback/admin"
	"github.com/caddy-deepgram/deepgram-callback/app"
	"github.com/caddy-deepgram/deepgram-callback/auth"
	"github.com/caddy-deepgram/deepgram-callback/caddyfile"
	"github.com/caddy-deepgram/deepgram-callback/console"
	"github.com/caddy-deepgram/deepgram-callback/handler"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/disk"
)

func init() {
	caddy.RegisterModule(new(app.App))
	caddy.RegisterModule(auth.Provider{})
	caddy.RegisterModule(new(handler.Handler))
	caddy.RegisterModule(new(handler.LeastStreams))
	caddy.RegisterModule(new(disk.Module))
	caddy.RegisterModule(new(console.Console))
	caddy.RegisterModule(admin.API{})

	// Each is put right before reverse_proxy, so that the console comes first.
	httpcaddyfile.RegisterHandlerDirective(caddyfile.ConsoleDirective, caddyfile.ParseConsole)
	httpcaddyfile.RegisterDirectiveOrder(caddyfile.ConsoleDirective, httpcaddyfile.Before, "reverse_proxy")
	httpcaddyfile.RegisterHandlerDirective(caddyfile.Directive, caddyfile.Parse)
	httpcaddyfile.RegisterDirectiveOrder(caddyfile.Directive, httpcaddyfile.Before, "reverse_proxy")

	caddycmd.RegisterCommand(admin.Command())
}

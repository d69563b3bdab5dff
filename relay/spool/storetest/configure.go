package storetest

import (
	"context"

	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
)

// SetRoute configures an inbox with one route alone, as most tests do.
func SetRoute(
	in *spool.Inbox, name string, config spool.RouteConfig,
) (release func(context.Context)) {
	return in.Configure(spool.Config{Routes: map[string]spool.RouteConfig{name: config}})
}

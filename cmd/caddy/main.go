// Command caddy is Caddy with its standard modules, those of this project, the store
// that several gateways share, the simulator and the demo's service, so that a clone can
// be tried with `go run ./cmd/caddy run --config testdata/demo.Caddyfile`. For production
// it is built with the tag nodemo, without simulator and demo, or Caddy is built with
// xcaddy: see xcaddy.md.
package main

import (
	caddycmd "github.com/caddyserver/caddy/v2/cmd"

	_ "github.com/caddyserver/caddy/v2/modules/standard"

	_ "github.com/caddy-deepgram/deepgram-callback"
	_ "github.com/caddy-deepgram/deepgram-callback/relay/spool/postgres"
)

func main() {
	caddycmd.Main()
}

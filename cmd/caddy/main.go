// Command caddy is Caddy with every standard module, this project's own, the
// simulator and the demo's service, so that a clone can be tried with `go run ./cmd/caddy
// run --config testdata/demo.Caddyfile`. A production build has the tag nodemo,
// which leaves the last two out, or is made with xcaddy; see xcaddy.md.
package main

import (
	caddycmd "github.com/caddyserver/caddy/v2/cmd"

	_ "github.com/caddyserver/caddy/v2/modules/standard"

	_ "github.com/caddy-deepgram/deepgram-callback"
)

func main() {
	caddycmd.Main()
}

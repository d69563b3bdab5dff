// Command caddy is Caddy with every standard module and this project's own, so
// that a clone can be tried with `go run ./cmd/caddy run`. A production build
// is made with xcaddy, which takes the gateway alone; see xcaddy.md.
package main

import (
	caddycmd "github.com/caddyserver/caddy/v2/cmd"

	_ "github.com/caddyserver/caddy/v2/modules/standard"

	_ "github.com/caddy-deepgram/deepgram-callback"
)

func main() {
	caddycmd.Main()
}

//go:build !nodemo

package main

// What only the demo needs.
import (
	_ "github.com/caddy-deepgram/deepgram-callback/cmd/caddy/demo"
	_ "github.com/caddy-deepgram/deepgram-callback/simulator"
)

// Package caddyhome gives tests a home directory of their own, so that a Caddy
// that runs in them neither finds nor leaves anything in the user's.
package caddyhome

import "os"

// Temporary makes a directory and has the environment name it wherever Caddy
// looks for its data and configuration. remove removes it; it does not put the
// environment back. For TestMain, which has nobody to return an error to, so it
// panics on one.
func Temporary() (remove func()) {
	home, err := os.MkdirTemp("", "caddy-home-*")
	if err != nil {
		panic(err)
	}
	for _, name := range []string{"HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME"} {
		if err := os.Setenv(name, home); err != nil {
			panic(err)
		}
	}
	return func() { _ = os.RemoveAll(home) }
}

// Package build tells which build of this module runs, and on which machine.
package build

import (
	"cmp"
	"os"
	"runtime/debug"
)

const modulePath = "github.com/caddy-deepgram/deepgram-callback"

// Version is that of this module in the binary.
func Version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	for _, m := range append(info.Deps, &info.Main) {
		if m.Path == modulePath {
			return cmp.Or(m.Version, "(devel)")
		}
	}
	return "unknown"
}

// Gateway is what people and other gateways call this one: the name of its machine.
func Gateway() string {
	host, err := os.Hostname()
	if err != nil {
		return "unknown"
	}
	return host
}

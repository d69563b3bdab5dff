//go:build !unix

// The same as in socket_unix.go for platforms where a socket does not tell what it
// would do without waiting.

package http1

import "syscall"

// Supported says whether a Client can be used on this platform.
const Supported = false

// stillOpen reports false, so that no connection is used twice.
func stillOpen(syscall.RawConn) bool { return false }

// writeNow writes nothing.
func writeNow(syscall.RawConn, []byte) (n int, err error) { return 0, nil }

//go:build !unix

package http1

import "syscall"

// Supported says whether this platform lets a Client do what it has to.
const Supported = false

// stillOpen cannot tell here, so that no connection is used twice.
func stillOpen(syscall.RawConn) bool { return false }

// writeNow cannot tell what a socket takes without waiting.
func writeNow(syscall.RawConn, []byte) (n int, err error) { return 0, nil }

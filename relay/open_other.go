//go:build !unix

package relay

import "net"

// canTellOpen says whether stillOpen knows.
const canTellOpen = false

// stillOpen cannot tell here, so that http1 is not used.
func stillOpen(net.Conn) bool { return true }

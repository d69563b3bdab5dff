//go:build !unix

package stream

import "net"

func connReader(conn net.Conn) reader { return &blockingReader{conn: conn} }

// socketWriter has no use of its own where sockets cannot be asked to take
// what they can at once.
type socketWriter struct{}

func newSocketWriter(net.Conn) *socketWriter { return nil }

func (*socketWriter) write([]byte) (n int, err error) { return 0, nil }

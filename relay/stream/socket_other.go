//go:build !unix

// The same as in socket_unix.go for platforms where a socket cannot be asked
// what it would do at once.

package stream

import "net"

func connReader(conn net.Conn) reader { return &blockingReader{conn: conn} }

// socketWriter writes nothing here: all writes are those of the net.Conn.
type socketWriter struct{}

func newSocketWriter(net.Conn) *socketWriter { return nil }

func (*socketWriter) write([]byte) (n int, err error) { return 0, nil }

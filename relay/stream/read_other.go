//go:build !unix

package stream

import "net"

func connReader(conn net.Conn) reader { return &blockingReader{conn: conn} }

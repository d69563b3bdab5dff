//go:build unix

package relay

import (
	"errors"
	"net"
	"syscall"
)

// canTellOpen says whether stillOpen knows.
const canTellOpen = true

// stillOpen reports whether an idle connection can be used: its peer neither
// closed it nor said anything, which nobody asked for. net/http's transport
// keeps a goroutine reading for that.
func stillOpen(c net.Conn) bool {
	sc, ok := c.(syscall.Conn)
	if !ok {
		return true
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return false
	}
	open := false
	err = raw.Read(func(fd uintptr) bool {
		var b [1]byte
		_, _, err := syscall.Recvfrom(int(fd), b[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		open = errors.Is(err, syscall.EAGAIN)
		return true
	})
	return err == nil && open
}

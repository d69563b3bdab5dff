//go:build unix

// Asking a socket what it would do without waiting.

package http1

import (
	"errors"
	"os"
	"syscall"
)

// Supported says whether a Client can be used on this platform.
const Supported = true

// stillOpen reports whether an idle connection can be used: whether its peer has neither closed it
// nor sent anything, which nobody has asked for. net/http's transport has a goroutine that reads
// for that.
func stillOpen(raw syscall.RawConn) bool {
	if raw == nil {
		return false
	}
	open := false
	err := raw.Read(func(fd uintptr) bool {
		var b [1]byte
		_, _, err := syscall.Recvfrom(int(fd), b[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		open = errors.Is(err, syscall.EAGAIN)
		return true
	})
	return err == nil && open
}

// writeNow writes as much of p as the socket takes without waiting, which may
// be nothing.
func writeNow(raw syscall.RawConn, p []byte) (n int, err error) {
	if raw == nil {
		return 0, nil // a write to anything but a socket may block
	}
	failed := raw.Write(func(fd uintptr) bool {
		for {
			n, err = syscall.Write(int(fd), p)
			if !errors.Is(err, syscall.EINTR) {
				return true
			}
		}
	})
	n = max(n, 0)
	switch {
	case failed != nil:
		return n, failed
	case err == nil, errors.Is(err, syscall.EAGAIN):
		return n, nil
	default:
		return n, os.NewSyscallError("write", err)
	}
}

//go:build unix

package stream

import (
	"errors"
	"io"
	"net"
	"syscall"
)

// connReader reads sockets when they are readable, and takes a buffer only
// then: most pairs are idle most of the time, and two buffers would be most of
// what an idle pair costs.
func connReader(conn net.Conn) reader {
	var raw syscall.RawConn
	switch c := conn.(type) {
	case *net.TCPConn:
		raw, _ = c.SyscallConn()
	case *net.UnixConn:
		raw, _ = c.SyscallConn()
	}
	if raw == nil {
		return &blockingReader{conn: conn}
	}
	r := &readinessReader{raw: raw}
	r.try = r.tryRead
	return r
}

type readinessReader struct {
	raw syscall.RawConn
	try func(fd uintptr) bool // tryRead, bound once

	into *direction
	err  error
}

func (r *readinessReader) read(d *direction) error {
	r.into, r.err = d, nil
	if err := r.raw.Read(r.try); err != nil {
		return err
	}
	return r.err
}

// tryRead reads what is there. It reports false to be called again when the
// socket is readable.
func (r *readinessReader) tryRead(fd uintptr) bool {
	d := r.into
	n, err := syscall.Read(int(fd), d.space())
	for errors.Is(err, syscall.EINTR) {
		n, err = syscall.Read(int(fd), d.space())
	}
	switch {
	case errors.Is(err, syscall.EAGAIN):
		if d.end == 0 {
			d.release()
		}
		return false
	case err != nil:
		r.err = err
	case n == 0:
		r.err = io.EOF
	default:
		d.end += n
	}
	return true
}

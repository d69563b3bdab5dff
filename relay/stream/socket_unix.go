//go:build unix

// Reading from and writing to plain sockets by readiness: a direction that waits
// for bytes holds no buffer, and a write that does not wait needs no timer.

package stream

import (
	"errors"
	"io"
	"net"
	"os"
	"syscall"
)

// rawConn is the socket under conn, or nil where conn is not a plain socket.
func rawConn(conn net.Conn) (raw syscall.RawConn) {
	switch c := conn.(type) {
	case *net.TCPConn:
		raw, _ = c.SyscallConn()
	case *net.UnixConn:
		raw, _ = c.SyscallConn()
	}
	return raw
}

// connReader returns the reader for conn. A plain socket is read when it is readable, and a buffer
// taken only then: most pairs are idle most of the time, and two buffers would be most of what an
// idle pair costs.
func connReader(conn net.Conn) reader {
	raw := rawConn(conn)
	if raw == nil {
		return tlsReader(conn)
	}
	r := &readinessReader{raw: raw}
	r.try = r.tryRead
	return r
}

type readinessReader struct {
	raw syscall.RawConn
	try func(fd uintptr) bool // tryRead as a value, made once and not for each read

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

// tryRead reads what is there, without waiting. It returns false in order to be
// called again when the socket is readable.
func (r *readinessReader) tryRead(fd uintptr) bool {
	d := r.into
	n, err := syscall.Read(int(fd), d.space())
	for err == syscall.EINTR {
		n, err = syscall.Read(int(fd), d.space())
	}
	switch {
	case err == syscall.EAGAIN:
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

// A socketWriter writes what a socket takes at once. Only what is left over needs a deadline, which
// saves a timer for each message. And the calls below it fit the 2 KiB of stack that a goroutine
// begins with. Those of a net.Conn do not: they double the stack, for as long as the goroutine
// lives, and two such stacks would be half of what an idle pair costs.
type socketWriter struct {
	raw syscall.RawConn
	try func(fd uintptr) bool // tryWrite as a value, made once and not for each write

	p   []byte
	n   int
	err error
}

// newSocketWriter returns nil where conn is not a plain socket.
func newSocketWriter(conn net.Conn) *socketWriter {
	raw := rawConn(conn)
	if raw == nil {
		return nil
	}
	w := &socketWriter{raw: raw}
	w.try = w.tryWrite
	return w
}

// write writes as much of p as it can without waiting, which may be nothing.
func (w *socketWriter) write(p []byte) (n int, err error) {
	if w == nil {
		return 0, nil
	}
	w.p, w.n, w.err = p, 0, nil
	err = w.raw.Write(w.try)
	w.p = nil
	if w.err != nil {
		return w.n, w.err
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return 0, nil // the deadline of an earlier write, which is done
	}
	return w.n, err
}

// tryWrite writes what the socket takes. It always returns true, so that it is
// not called again when the socket takes more.
func (w *socketWriter) tryWrite(fd uintptr) bool {
	n, err := syscall.Write(int(fd), w.p)
	for err == syscall.EINTR {
		n, err = syscall.Write(int(fd), w.p)
	}
	switch err {
	case nil:
		w.n = n
	case syscall.EAGAIN:
	default:
		w.err = os.NewSyscallError("write", err)
	}
	return true
}

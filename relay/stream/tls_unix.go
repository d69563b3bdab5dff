//go:build unix

package stream

import (
	"crypto/tls"
	"errors"
	"net"
	"os"
	"syscall"
	"time"
)

const (
	// parkAfter is how long nothing has to have come for a connection to count
	// as a quiet one.
	parkAfter = time.Second
	// unpackWithin is how long a record may take to come in whole, once part of
	// it is there, before the reader is parked again.
	unpackWithin = 50 * time.Millisecond
)

// tlsReader reads conn, where that is TLS on a plain socket, so that a quiet
// connection waits in a cheap place.
func tlsReader(conn net.Conn) reader {
	blocking := blockingReader{conn: conn}
	secure, ok := conn.(*tls.Conn)
	if !ok {
		return &blocking
	}
	raw := rawConn(secure.NetConn())
	if raw == nil {
		return &blocking
	}
	r := &parkingReader{blockingReader: blocking, raw: raw, before: -parkAfter - 1}
	r.ready = r.isReady
	// What TLS has read along with the handshake is taken here, so that the
	// goroutine that reads from now on begins in the cheap place.
	return r.drain()
}

// drain returns a reader of what TLS holds already, and of r behind it.
func (r *parkingReader) drain() reader {
	buf := buffers.Get().(*[bufferSize]byte)
	defer buffers.Put(buf)
	var held []byte
	_ = r.conn.SetReadDeadline(time.Unix(1, 0))
	n, err := r.conn.Read(buf[:])
	for ; n > 0; n, err = r.conn.Read(buf[:]) {
		held = append(held, buf[:n]...)
	}
	_ = r.conn.SetReadDeadline(time.Time{})
	r.drained = errors.Is(err, os.ErrDeadlineExceeded) // another error comes again
	if len(held) == 0 {
		return r
	}
	return &bufferedReader{buffered: held, then: r}
}

// A parkingReader waits for the socket below TLS while nothing comes. A read
// from TLS needs a buffer to wait with, and its calls are deep and their frames
// large: a goroutine that waits in there keeps a stack of four or eight
// kilobytes, for as long as the stream lives.
//
// Whether the socket has bytes says not all, as TLS may hold records that it
// read along with others. So it is first asked for those, by a read that may
// not wait. That costs a little for each wait, and so a connection on which
// bytes come all the time is read as any other.
type parkingReader struct {
	blockingReader
	raw    syscall.RawConn
	ready  func(fd uintptr) bool // isReady, bound once
	peeked [1]byte

	before  time.Duration // when bytes came before they last did, as in leg.lastRead
	drained bool          // TLS holds no whole record
}

func (r *parkingReader) read(d *direction) error {
	last := time.Duration(d.from.lastRead.Load())
	quiet := last-r.before > parkAfter
	r.before = last
	if quiet && d.buf == nil {
		return r.park(d)
	}
	r.drained = false
	return r.blockingReader.read(d)
}

// park waits for bytes, and reads them.
func (r *parkingReader) park(d *direction) error {
	for {
		if !r.drained {
			if err := r.readBefore(d, time.Unix(1, 0)); !errors.Is(err, os.ErrDeadlineExceeded) {
				return err
			}
		}
		r.probe, r.drained = nil, false
		if err := r.raw.Read(r.ready); err != nil {
			return err
		}
		if err := r.readBefore(d, time.Now().Add(unpackWithin)); !errors.Is(err, os.ErrDeadlineExceeded) {
			return err
		}
		r.drained = true // what came was no whole record, or none of the peer's own
	}
}

// readBefore reads with a deadline of its own.
func (r *parkingReader) readBefore(d *direction, deadline time.Time) error {
	_ = r.conn.SetReadDeadline(deadline) // fails only on a closed connection, and so does the read
	err := r.blockingReader.read(d)
	d.from.restoreReadDeadline()
	return err
}

// isReady reports whether a read from the socket would not wait.
func (r *parkingReader) isReady(fd uintptr) bool {
	for {
		_, _, err := syscall.Recvfrom(int(fd), r.peeked[:], syscall.MSG_PEEK)
		if err != syscall.EINTR { //nolint:errorlint // system calls return it as it is
			return err != syscall.EAGAIN //nolint:errorlint // the same
		}
	}
}

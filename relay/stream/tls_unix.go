//go:build unix

// Waiting for bytes on TLS connections at the price of a small stack.

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
	// parkAfter is the pause between two reads after which a connection counts
	// as quiet.
	parkAfter = time.Second
	// unpackWithin is how long a TLS record may take to come in whole, once part
	// of it is there, before the reader waits for the socket again.
	unpackWithin = 50 * time.Millisecond
)

// tlsReader returns the reader for a connection that is no plain socket: a parkingReader for TLS on
// a plain socket, else a blockingReader.
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
	// What TLS has read along with the handshake is taken here, on the stack of
	// the caller, so that the pair's goroutine can wait for the socket at once.
	return r.drain()
}

// drain returns a reader that yields what TLS has decrypted already, and then
// what r reads.
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
	r.drained = errors.Is(err, os.ErrDeadlineExceeded) // any other error comes again
	if len(held) == 0 {
		return r
	}
	return &bufferedReader{buffered: held, then: r}
}

// A parkingReader waits for the socket below TLS while the connection is quiet. A read from TLS
// needs a buffer to wait with, and calls deep into functions with large stack frames: a goroutine
// that waits in there keeps a stack of four or eight kilobytes for as long as the stream lives.
//
// That the socket has no bytes does not mean that there are none, as TLS may hold records that it
// read along with others. So TLS is asked first, by a read that may not wait. That costs a little
// for each wait, and so a connection on which bytes come all the time is read by blocking in TLS.
type parkingReader struct {
	blockingReader
	raw    syscall.RawConn
	ready  func(fd uintptr) bool // isReady as a value, made once and not for each wait
	peeked [1]byte

	before  time.Duration // what leg.lastRead was at the read before this one
	drained bool          // TLS holds no record that it could yield
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

// park blocks until the socket has bytes that make a record of the peer's, and
// reads that.
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
		r.drained = true // no whole record came, or one of TLS itself, such as a session ticket
	}
}

// readBefore reads, and blocks until deadline at most.
func (r *parkingReader) readBefore(d *direction, deadline time.Time) error {
	_ = r.conn.SetReadDeadline(deadline) // can fail only where the read fails too
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

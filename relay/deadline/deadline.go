// Package deadline gives a connection time limits that hold beside the deadlines
// which its user sets: whatever comes first ends a read or write.
//
// The limits are read_timeout and write_timeout of Caddy's HTTP transport. Caddy
// itself keeps them by setting a deadline at every read and write, which replaces
// any that was set before. On such a connection, a deadline that its user sets has
// no effect.
package deadline

import (
	"crypto/tls"
	"errors"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// New returns conn with limits: how long each read may block until bytes come, and
// how long each write may block until everything is taken. Zero is no limit.
func New(conn net.Conn, read, write time.Duration) net.Conn {
	if read <= 0 && write <= 0 {
		return conn
	}
	return &limited{
		Conn:   conn,
		reads:  limit{timeout: read, set: conn.SetReadDeadline},
		writes: limit{timeout: write, set: conn.SetWriteDeadline},
	}
}

// Lift removes the limits from a connection that New made, or from one with TLS over it, and
// returns what they were, so that whoever takes the connection over can keep them in another way. A
// call that is still under way then changes no deadline any more, such as a write of a transport
// that has its answer already.
func Lift(conn net.Conn) (free net.Conn, read, write time.Duration) {
	secure, isTLS := conn.(*tls.Conn)
	below := conn
	if isTLS {
		below = secure.NetConn()
	}
	c, ok := below.(*limited)
	if !ok {
		return conn, 0, 0
	}
	read, write = c.reads.lift(), c.writes.lift()
	if isTLS {
		return conn, read, write
	}
	return c.Conn, read, write
}

// limited is a connection with limits.
type limited struct {
	net.Conn
	reads, writes limit
}

// Read implements [net.Conn].
func (c *limited) Read(p []byte) (n int, err error) {
	err = c.reads.hold(func() (int, error) {
		n, err = c.Conn.Read(p)
		return n, err
	})
	return n, err
}

// Write implements [net.Conn].
func (c *limited) Write(p []byte) (n int, err error) {
	err = c.writes.hold(func() (int, error) {
		n, err = c.Conn.Write(p)
		return n, err
	})
	return n, err
}

// SetReadDeadline implements [net.Conn].
func (c *limited) SetReadDeadline(t time.Time) error { return c.reads.setDeadline(t) }

// SetWriteDeadline implements [net.Conn].
func (c *limited) SetWriteDeadline(t time.Time) error { return c.writes.setDeadline(t) }

// SetDeadline implements [net.Conn].
func (c *limited) SetDeadline(t time.Time) error {
	return errors.Join(c.reads.setDeadline(t), c.writes.setDeadline(t))
}

// CloseWrite shuts the write side, where the connection can do that.
func (c *limited) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return errors.ErrUnsupported
}

// SyscallConn implements [syscall.Conn]. Reads and writes that go this way have the
// deadlines that were set, and no limits.
func (c *limited) SyscallConn() (syscall.RawConn, error) {
	if raw, ok := c.Conn.(syscall.Conn); ok {
		return raw.SyscallConn()
	}
	return nil, errors.ErrUnsupported
}

// A limit is the limit of one direction, of reads or of writes.
type limit struct {
	timeout time.Duration               // zero is no limit
	set     func(until time.Time) error // sets the deadline of the connection below

	mu       sync.Mutex
	deadline time.Time     // what the user has set; zero is none
	until    time.Time     // when the limit ends the call under way; zero without one
	waited   time.Duration // how long calls have waited for nothing since the last success
}

// hold makes a call, which reads or writes, within the limit. Calls that a deadline ends without a
// byte share one timeout: otherwise a user that reads with short deadlines, again and again, would
// never find out that the connection is silent.
func (l *limit) hold(call func() (n int, err error)) error {
	began := time.Now()
	l.mu.Lock()
	if l.timeout <= 0 {
		l.mu.Unlock()
		_, err := call()
		return err
	}
	l.until = began.Add(l.timeout - l.waited)
	err := l.set(l.effective())
	l.mu.Unlock()
	if err != nil {
		return err
	}

	n, err := call()

	l.mu.Lock()
	defer l.mu.Unlock()
	if l.timeout <= 0 {
		return err // Lift was called meanwhile: the deadlines belong to somebody else
	}
	l.until = time.Time{}
	if n == 0 && errors.Is(err, os.ErrDeadlineExceeded) {
		l.waited += time.Since(began)
	} else {
		l.waited = 0
	}
	_ = l.set(l.deadline) // fails only on a closed connection
	return err
}

// lift ends the limit, also for a call under way, and returns what it was.
func (l *limit) lift() time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	timeout := l.timeout
	l.timeout = 0
	if !l.until.IsZero() {
		l.until = time.Time{}
		_ = l.set(l.deadline) // fails only on a closed connection
	}
	return timeout
}

// setDeadline sets the user's deadline.
func (l *limit) setDeadline(t time.Time) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.deadline = t
	return l.set(l.effective())
}

// effective is the deadline that the connection below has to have now. Callers hold
// l.mu.
func (l *limit) effective() time.Time {
	switch {
	case l.until.IsZero(), !l.deadline.IsZero() && l.deadline.Before(l.until):
		return l.deadline
	default:
		return l.until
	}
}

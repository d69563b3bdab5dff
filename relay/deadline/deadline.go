// Package deadline gives a connection time limits of its own that hold beside
// the deadlines which its user sets: whichever is the earlier.
//
// Caddy's HTTP transport has such limits too, read_timeout and write_timeout,
// but keeps them by setting a deadline at every read and write, in the place of
// any that was set before. Whoever relies on a deadline of such a connection
// then waits for as long as those allow.
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

// New limits how long each read from conn may wait for bytes, and how long each
// write may wait until everything is taken. Zero is no limit.
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

// Lift takes the limits off a connection that New made, or of one with TLS on
// top of it, and says what they were: whoever took such a connection over keeps
// them in a way of its own. A call that is still under way, as of a transport that
// has its answer before it is done with writing, touches no deadline any more.
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

// CloseWrite shuts the write side, where the connection has one of its own.
func (c *limited) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return errors.ErrUnsupported
}

// SyscallConn implements [syscall.Conn]. What is read or written that way has
// the deadlines that were set, and no limit.
func (c *limited) SyscallConn() (syscall.RawConn, error) {
	if raw, ok := c.Conn.(syscall.Conn); ok {
		return raw.SyscallConn()
	}
	return nil, errors.ErrUnsupported
}

// A limit is that of one direction.
type limit struct {
	timeout time.Duration               // zero is none
	set     func(until time.Time) error // sets the connection's own deadline

	mu       sync.Mutex
	deadline time.Time     // as it was set; zero is none
	until    time.Time     // when the call under way has to end; zero while there is none
	waited   time.Duration // in vain, in calls that a deadline has ended
}

// hold makes a call that reads or writes, within the limit. Calls that end in
// vain at a deadline share one timeout: who looks at a silent connection every
// now and then must not take it for a lively one.
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
		return err // lifted meanwhile: the deadlines are somebody else's
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

func (l *limit) setDeadline(t time.Time) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.deadline = t
	return l.set(l.effective())
}

// effective is the deadline that the connection has to have now. Callers hold
// l.mu.
func (l *limit) effective() time.Time {
	switch {
	case l.until.IsZero(), !l.deadline.IsZero() && l.deadline.Before(l.until):
		return l.deadline
	default:
		return l.until
	}
}

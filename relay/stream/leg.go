// A leg: one of the two connections of a pair, above all its write side.

package stream

import (
	"crypto/rand"
	"crypto/tls"
	"encoding/binary"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

// A leg is one of the two connections of a pair. Its read side belongs to the
// direction that reads from it; what is written to it comes from the other
// direction, the keepalive and whoever ends the pair, one frame at a time.
type leg struct {
	name string
	conn net.Conn

	// toServer is true for the backend: the gateway is its client, so what
	// the gateway itself sends there is masked.
	toServer bool

	// The direction that reads from here tells the keepalive when bytes last came in, and since
	// when it has been waiting for more, both as times since the pair's start. readingSince is
	// negative while the direction does not read, because it writes to the other leg.
	lastRead, readingSince atomic.Int64

	// The limits of the options, or shorter ones of the endpoint.
	pingInterval, pongTimeout, writeTimeout time.Duration

	socket *socketWriter // writes without waiting; nil where conn is not a plain socket

	readUntil atomic.Pointer[time.Time] // the read deadline; nil is none

	// pingedAt is when the latest ping was sent, as a time since the pair's start, or zero if
	// something has come since. Only the keepalive touches it.
	pingedAt time.Duration

	// closeReceived holds the payload of the Close frame that came from here.
	closeReceived atomic.Pointer[[]byte]

	// gate is what this end has to pass before anything goes to it or comes
	// from it; nil where it need not pass one.
	gate *gate

	// ping is the payload of the gateway's latest ping; zero before the first.
	ping atomic.Uint64

	writing   sync.Mutex // guards what follows, and is held while a frame is written
	midFrame  bool       // part of a large frame is out: nothing else may be sent
	closeSent bool       // a Close frame is out: nothing more may be sent
	failed    bool       // a write failed: the connection can carry nothing more
	finished  bool       // the write side is shut
	pending   []byte     // the payload of a Close frame that waits for the end of a large frame
}

// open sets up a leg that has an endpoint's connection.
func (l *leg) open(name string, endpoint Endpoint, options Options) {
	l.name, l.conn, l.socket = name, endpoint.Conn, newSocketWriter(endpoint.Conn)
	l.pingInterval, l.pongTimeout = options.PingInterval, options.PongTimeout
	silence := l.pingInterval + l.pongTimeout
	if endpoint.ReadTimeout > 0 && endpoint.ReadTimeout < silence {
		// Interval and timeout shrink in proportion, so that a peer that
		// answers pings still has time for that.
		part := float64(endpoint.ReadTimeout) / float64(silence)
		l.pingInterval = time.Duration(part * float64(l.pingInterval))
		l.pongTimeout = endpoint.ReadTimeout - l.pingInterval
	}
	l.writeTimeout = options.WriteTimeout
	if endpoint.WriteTimeout > 0 {
		l.writeTimeout = min(l.writeTimeout, endpoint.WriteTimeout)
	}
}

// over reports that nothing more can be sent on this leg. Callers hold l.writing.
func (l *leg) over() bool { return l.closeSent || l.failed || l.finished }

// write sends frames as they came from the other leg. whole is false where the last of them is not
// complete. It blocks until the peer takes them, for writeTimeout at most. After a Close frame
// nothing is sent (RFC 6455, section 5.5.1), nor after a failed write, when the pair is ending
// already: then sent is false, and there is no error.
func (l *leg) write(frames []byte, whole bool) (sent bool, err error) {
	l.writing.Lock()
	defer l.writing.Unlock()
	if l.over() {
		return false, nil
	}
	if err := l.put(frames, l.writeTimeout); err != nil {
		return false, err
	}
	l.midFrame = !whole
	if whole && l.pending != nil {
		l.closeSent = true
		_ = l.control(opClose, l.pending, l.writeTimeout) // the pair is ending already
	}
	return true, nil
}

// put writes p, and blocks for timeout at most. As nobody writes to a leg that has failed, an error
// comes to one caller only, who has to see to the pair's end. Callers hold l.writing.
func (l *leg) put(p []byte, timeout time.Duration) error {
	l.failed = true // and it stays so where the write panics
	n, err := l.socket.write(p)
	if err == nil && n < len(p) {
		err = l.putInTime(p[n:], timeout)
	}
	l.failed = err != nil
	return err
}

// putInTime writes p and blocks until the peer takes it, for timeout at most.
func (l *leg) putInTime(p []byte, timeout time.Duration) error {
	// Setting a deadline fails only on a closed connection, where the write fails too.
	_ = l.conn.SetWriteDeadline(time.Now().Add(timeout))
	if _, err := l.conn.Write(p); err != nil {
		return err
	}
	_ = l.conn.SetWriteDeadline(time.Time{})
	return nil
}

// control sends a control frame of the gateway's own. Callers hold l.writing.
func (l *leg) control(opcode byte, payload []byte, timeout time.Duration) error {
	var key [4]byte
	if l.toServer {
		_, _ = rand.Read(key[:]) // never fails: crypto/rand crashes the program instead
	}
	return l.put(appendControl(make([]byte, 0, 6+len(payload)), opcode, payload, l.toServer, key),
		timeout)
}

// sendPing sends a ping of the gateway's own. By its random payload, the pong that answers it is
// told from those that the two ends exchange. sent is false where something else is being written,
// so that no ping can be sent now; that finds out as much about the peer as a ping would.
func (l *leg) sendPing() (sent bool, err error) {
	if !l.writing.TryLock() {
		return false, nil
	}
	defer l.writing.Unlock()
	if l.midFrame || l.over() {
		return false, nil
	}
	var payload [8]byte
	_, _ = rand.Read(payload[:])
	l.ping.Store(binary.BigEndian.Uint64(payload[:]))
	return true, l.control(opPing, payload[:], l.writeTimeout)
}

// pong answers a ping in the place of the other end, unless nothing can be sent now.
func (l *leg) pong(payload []byte) error {
	l.writing.Lock()
	defer l.writing.Unlock()
	if l.midFrame || l.over() {
		return nil
	}
	return l.control(opPong, payload, l.writeTimeout)
}

// ownPong reports whether payload answers the gateway's latest ping.
func (l *leg) ownPong(payload []byte) bool {
	return len(payload) == 8 && binary.BigEndian.Uint64(payload) == l.ping.Load() && l.ping.Load() != 0
}

// sendClose sends a Close frame, unless one was sent before. In the middle of a large frame it
// leaves that to the write that completes the frame. It blocks while another write is under way,
// and then for its own, but for no more than hurry each: it shortens the deadline of the other.
func (l *leg) sendClose(payload []byte, hurry time.Duration) {
	if !l.writing.TryLock() {
		_ = l.conn.SetWriteDeadline(time.Now().Add(hurry))
		l.writing.Lock()
	}
	defer l.writing.Unlock()
	if l.over() {
		return
	}
	if l.midFrame {
		l.pending = payload
		return
	}
	l.closeSent = true
	_ = l.control(opClose, payload, hurry) // the pair is ending already
}

// finish shuts the write side, after everything has been said. So the peer sees the end of the
// stream at once, and what it still sends is read: closing the connection would answer that with a
// reset, which can overtake the Close frame. A connection whose write side cannot be shut alone is
// closed when its peer has sent a Close frame, after which there is nothing to read.
func (l *leg) finish() {
	l.writing.Lock()
	defer l.writing.Unlock()
	half, halves := l.conn.(interface{ CloseWrite() error })
	switch {
	case l.failed || l.midFrame:
		l.drop()
	case halves && !l.finished:
		_ = half.CloseWrite()
	case !halves && l.closeReceived.Load() != nil:
		l.drop()
	}
	l.finished = true
}

// setReadDeadline limits how long reads from this leg may block; the zero time
// is no limit.
func (l *leg) setReadDeadline(t time.Time) {
	if t.IsZero() {
		l.readUntil.Store(nil)
	} else {
		l.readUntil.Store(&t)
	}
	l.restoreReadDeadline()
}

// restoreReadDeadline gives the connection the deadline that setReadDeadline was last called with,
// also where another goroutine calls that meanwhile. A reader that has set a deadline of its own
// calls it afterwards.
func (l *leg) restoreReadDeadline() {
	for {
		until := l.readUntil.Load()
		var t time.Time
		if until != nil {
			t = *until
		}
		_ = l.conn.SetReadDeadline(t) // fails only on a closed connection, and so do its reads
		if l.readUntil.Load() == until {
			return
		}
	}
}

// drop closes the connection at once.
func (l *leg) drop() { Abort(l.conn) }

// Abort closes a connection and does not block. To close a TLS connection the usual way would first
// try to tell the peer, and wait for seconds where that takes nothing.
func Abort(conn net.Conn) {
	if secure, ok := conn.(*tls.Conn); ok {
		conn = secure.NetConn()
	}
	_ = conn.Close()
}

// handshakeDone reports whether the closing handshake of this leg is complete:
// whether Close frames went both ways.
func (l *leg) handshakeDone() bool {
	if l.closeReceived.Load() == nil {
		return false
	}
	l.writing.Lock()
	defer l.writing.Unlock()
	return l.closeSent
}

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

	// Times are offsets from the pair's start, kept by the direction that
	// reads from here, for the keepalive.
	lastRead atomic.Int64 // when bytes last came in
	// when it last began to wait for bytes; negative while it writes to the other leg
	readingSince atomic.Int64

	// What the options and the endpoint's own limits come to.
	pingInterval, pongTimeout, writeTimeout time.Duration

	socket *socketWriter // to write without waiting; nil where conn is not a plain socket

	readUntil atomic.Pointer[time.Time] // how long reads may wait; nil is no limit

	// the keepalive's own: when a ping went out that nothing came after; else zero
	pingedAt time.Duration

	// closeReceived holds the payload of the Close frame that came from here.
	closeReceived atomic.Pointer[[]byte]

	// gate is what this end has to pass before anything goes to it or from
	// it; nil where it need not.
	gate *gate

	// ping is what the gateway's latest ping here carried; zero before the first.
	ping atomic.Uint64

	writing   sync.Mutex // guards what follows, and makes frames whole
	midFrame  bool       // part of a large frame is out: nothing else may be sent
	closeSent bool       // a Close frame is out: nothing more may be sent
	failed    bool       // a write failed: the connection can carry nothing more
	finished  bool       // the write side is shut
	pending   []byte     // the payload of a Close frame that waits for the end of a large frame
}

func (l *leg) open(name string, endpoint Endpoint, options Options) {
	l.name, l.conn, l.socket = name, endpoint.Conn, newSocketWriter(endpoint.Conn)
	l.pingInterval, l.pongTimeout, l.writeTimeout = options.PingInterval, options.PongTimeout, options.WriteTimeout
	if silence := l.pingInterval + l.pongTimeout; endpoint.ReadTimeout > 0 &&
		endpoint.ReadTimeout < silence {
		// The two keep their proportion, so that a peer that answers pings
		// has as good a chance to be heard in time.
		part := float64(endpoint.ReadTimeout) / float64(silence)
		l.pingInterval = time.Duration(part * float64(l.pingInterval))
		l.pongTimeout = endpoint.ReadTimeout - l.pingInterval
	}
	if endpoint.WriteTimeout > 0 {
		l.writeTimeout = min(l.writeTimeout, endpoint.WriteTimeout)
	}
}

// over reports that nothing more can go out here. Callers hold l.writing.
func (l *leg) over() bool { return l.closeSent || l.failed || l.finished }

// write forwards frames as they came. whole is false where they end within a
// frame. What comes after a Close frame is not sent (RFC 6455, section 5.5.1),
// nor after a failed write: the pair is on its way down then.
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

// put writes p. An error is returned to one caller only, who has to see to
// the pair's end. Callers hold l.writing.
func (l *leg) put(p []byte, timeout time.Duration) error {
	l.failed = true // also where the write panics
	n, err := l.socket.write(p)
	if err == nil && n < len(p) {
		err = l.putInTime(p[n:], timeout)
	}
	l.failed = err != nil
	return err
}

// putInTime writes p and waits until it is taken.
func (l *leg) putInTime(p []byte, timeout time.Duration) error {
	// fails only on a closed connection, and so does the write
	_ = l.conn.SetWriteDeadline(time.Now().Add(timeout))
	if _, err := l.conn.Write(p); err != nil {
		return err
	}
	_ = l.conn.SetWriteDeadline(time.Time{})
	return nil
}

// control sends a control frame of the gateway's own.
func (l *leg) control(opcode byte, payload []byte, timeout time.Duration) error {
	var key [4]byte
	if l.toServer {
		_, _ = rand.Read(key[:]) // never fails: crypto/rand crashes the program instead
	}
	return l.put(appendControl(make([]byte, 0, 6+len(payload)), opcode, payload, l.toServer, key),
		timeout)
}

// sendPing sends a ping of the gateway's own, with a payload by which its
// pong is told from those that the two ends exchange. sent is false where no
// ping can be sent now: something else is being written, which finds out as
// much about the peer as a ping would.
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

// pong answers a ping in the place of the other end.
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

// sendClose sends a Close frame, once; in the middle of a large frame, as soon
// as that is complete. It waits for a write that is under way, but not for
// long: that write's peer has no more than hurry to take it.
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

// finish shuts the write side once everything has been said, so that the peer
// sees the end of the stream at once, while what it still sends is read:
// closing outright would answer that with a reset, which can overtake the
// Close frame. A connection without a write side of its own is closed once its
// peer has sent a Close frame, after which there is nothing to read.
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

// setReadDeadline limits how long reads from here may wait; the zero time is no
// limit.
func (l *leg) setReadDeadline(t time.Time) {
	if t.IsZero() {
		l.readUntil.Store(nil)
	} else {
		l.readUntil.Store(&t)
	}
	l.restoreReadDeadline()
}

// restoreReadDeadline makes the connection have the deadline that was set last,
// by whomever, after the reader had one of its own.
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

// Abort closes a connection at once. TLS would first try to say so, and wait
// seconds for a peer that takes nothing.
func Abort(conn net.Conn) {
	if secure, ok := conn.(*tls.Conn); ok {
		conn = secure.NetConn()
	}
	_ = conn.Close()
}

// handshakeDone reports whether Close frames went both ways.
func (l *leg) handshakeDone() bool {
	if l.closeReceived.Load() == nil {
		return false
	}
	l.writing.Lock()
	defer l.writing.Unlock()
	return l.closeSent
}

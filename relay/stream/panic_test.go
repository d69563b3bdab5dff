package stream

import (
	"net"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// faultyConn panics, once it is armed, where another connection would return an
// error.
type faultyConn struct {
	net.Conn
	where string // the name of the method that fails
	armed atomic.Bool
}

func (c *faultyConn) fail(here string) {
	if here == c.where && c.armed.Load() {
		panic("a fault of the test's")
	}
}

func (c *faultyConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.fail("Read")
	return n, err
}

func (c *faultyConn) Write(p []byte) (int, error) {
	c.fail("Write")
	return c.Conn.Write(p)
}

func (c *faultyConn) SetWriteDeadline(t time.Time) error {
	c.fail("SetWriteDeadline")
	return c.Conn.SetWriteDeadline(t)
}

func (c *faultyConn) Close() error {
	err := c.Conn.Close()
	c.fail("Close")
	return err
}

// wantsFault waits for the end of the pair, and requires that it is EndFault.
func (b *bridge) wantsFault() {
	b.t.Helper()
	end := b.wantsEnded(ByGateway, EndFault)
	require.Equal(b.t, CloseInternalError, end.Code)
	var cause *Panic
	require.ErrorAs(b.t, end.Err, &cause)
	require.ErrorContains(b.t, cause, "fault of the test's")
	require.Contains(b.t, string(cause.Stack), "panic_test.go")
}

// The cases are all ways in which code of a pair runs on a goroutine of its own,
// where a panic would end the process.
func TestPanicEndsThePairAlone(t *testing.T) {
	for name, test := range map[string]struct {
		where string
		cause func(b *bridge, side string)
	}{
		"reading": {"Read", func(b *bridge, side string) {
			this, _ := b.of(side)
			this.send(text("hello"))
		}},
		"writing": {"Write", func(b *bridge, side string) {
			_, other := b.of(side)
			other.send(text("hello"))
		}},
		"writing, before it": {"SetWriteDeadline",
			func(b *bridge, side string) { _, other := b.of(side); other.send(text("hello")) }},
		"pinging": {"Write", func(*bridge, string) { time.Sleep(time.Minute) }},
		"shutting down": {"Write",
			func(b *bridge, _ string) { b.pair.Shutdown(1001, "enough", 10*time.Second) }},
		"closing, and nobody answers": {"Close",
			func(b *bridge, _ string) { b.pair.Shutdown(1001, "enough", 10*time.Second) }},
		"closing, as the other one went": {"Close",
			func(b *bridge, side string) { _, other := b.of(side); other.close() }},
	} {
		for _, side := range sides {
			t.Run(name+"/"+side, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					conn := &faultyConn{where: test.where}
					wrap := func(c net.Conn) net.Conn { conn.Conn = c; return conn }
					s := setup{caller: pipeWire, backend: pipeWire, options: keptAlive(), wrapCaller: wrap}
					if side == ByBackend {
						s.wrapCaller, s.wrapBackend = nil, wrap
					}
					b := start(t, s)
					for _, p := range []*peer{b.caller, b.backend} {
						go p.answerPings()
					}
					conn.armed.Store(true)
					began := time.Now()
					test.cause(b, side)
					b.wantsFault()
					require.LessOrEqual(t, time.Since(began), time.Minute+15*time.Second)
				})
			})
		}
	}
}

// The function that judges messages is not the pair's own, and may panic too,
// while the other direction is waiting at the gate.
func TestPanicAtTheGateEndsThePairAlone(t *testing.T) {
	for _, backlog := range []int{0, 3 * bufferSize} {
		synctest.Test(t, func(t *testing.T) {
			faulty := func([]byte) (bool, error) { panic("a fault of the test's") }
			b := start(t, setup{caller: pipeWire, backend: pipeWire, options: keptAlive(), admit: faulty})
			if backlog > 0 {
				go func() {
					_, _ = b.backend.conn.Write(frame{
						fin:     true,
						opcode:  1,
						payload: make([]byte, backlog),
					}.encode(nil))
				}()
				synctest.Wait()
			}
			b.caller.send(text("hello"))
			b.caller.wantsClose(1011)
			b.wantsFault()
		})
	}
}

// After a fault both ends are told of it, where that is possible.
func TestBothAreToldOfAFault(t *testing.T) {
	b := start(t, setup{wrapCaller: func(c net.Conn) net.Conn {
		conn := &faultyConn{Conn: c, where: "Read"}
		conn.armed.Store(true)
		return conn
	}})
	b.caller.send(text("hello"))
	require.Contains(t, b.caller.wantsClose(1011), "gateway")
	require.Contains(t, b.backend.wantsClose(1011), "gateway")
	b.wantsFault()
}

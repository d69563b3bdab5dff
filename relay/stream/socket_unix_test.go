//go:build unix

package stream

import (
	"bytes"
	"io"
	"net"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func unixWire(t testing.TB, _ bool) (relay, far net.Conn) {
	listener, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	require.NoError(t, err)
	defer func() { _ = listener.Close() }()
	far, err = net.Dial("unix", listener.Addr().String())
	require.NoError(t, err)
	relay, err = listener.Accept()
	require.NoError(t, err)
	return relay, far
}

func TestBackendBehindAUnixSocket(t *testing.T) {
	b := start(t, setup{backend: unixWire, options: binaryToo()})
	raw := wireBytes(conversation(), testKey)
	b.caller.sendRaw(raw)
	b.backend.wantsBytes(raw)
	large := frame{fin: true, opcode: 1, payload: bytes.Repeat([]byte("x"), 1<<20)}
	go b.backend.send(large)
	b.caller.wants(large)
	b.backend.close()
	b.caller.wantsClose(1001)
	b.caller.close()
	b.wantsEnded(ByBackend, EndDropped)
}

// A direction that waits for its socket holds no buffer, unless the beginning of
// a frame is in it.
func TestWaitingForASocketHoldsNoBuffer(t *testing.T) {
	conn, far := tcpWire(t, true)
	defer func() { _ = conn.Close() }()
	defer func() { _ = far.Close() }()
	r, ok := connReader(conn).(*readinessReader)
	require.True(t, ok)
	d := &direction{reader: r}
	try := func() (done bool) {
		r.into, r.err = d, nil
		require.NoError(t, r.raw.Control(func(fd uintptr) { done = r.tryRead(fd) }))
		require.NoError(t, r.err)
		return done
	}
	require.False(t, try())
	require.Nil(t, d.buf)

	_, err := far.Write([]byte("part"))
	require.NoError(t, err)
	require.Eventually(t, try, patience, time.Millisecond)
	require.Equal(t, "part", string(d.buf[:d.end]))

	require.False(t, try())
	require.NotNil(t, d.buf)
	d.release()
}

func TestWriteThatDoesNotFitGoesOnWithoutLossOrRepetition(t *testing.T) {
	conn, far := tcpWire(t, true)
	defer func() { _ = conn.Close() }()
	defer func() { _ = far.Close() }()
	var l leg
	l.open("test", Endpoint{Conn: conn}, generous)
	// A deadline that has passed, such as sendClose sets for another write, does
	// not fail this one.
	require.NoError(t, conn.SetWriteDeadline(time.Unix(1, 0)))

	sent := make([]byte, 16<<20)
	for i := range sent {
		sent[i] = byte(i * i >> 8)
	}
	got := make(chan []byte, 1)
	go func() { b, _ := io.ReadAll(far); got <- b }()
	for rest := sent; len(rest) > 0; {
		n := min(len(rest), 1<<20)
		require.NoError(t, l.put(rest[:n], patience))
		rest = rest[n:]
	}
	require.NoError(t, conn.(*net.TCPConn).CloseWrite())
	require.True(t, bytes.Equal(sent, <-got))
}

func TestWriteToAResetSocketFails(t *testing.T) {
	conn, far := tcpWire(t, true)
	defer func() { _ = conn.Close() }()
	require.NoError(t, far.(*net.TCPConn).SetLinger(0))
	require.NoError(t, far.Close())
	var l leg
	l.open("test", Endpoint{Conn: conn}, generous)
	require.Eventually(t, func() bool { return l.put([]byte("x"), patience) != nil },
		patience, time.Millisecond)
	require.True(t, l.failed)
	err := l.put([]byte("x"), patience)
	require.ErrorIs(t, err, syscall.EPIPE)
	require.ErrorContains(t, err, "write")
}

package deadline_test

import (
	"crypto/tls"
	"io"
	"net"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-deepgram/deepgram-callback/relay/deadline"
)

// pipe is a connection whose other side the test holds.
func pipe(t *testing.T, read, write time.Duration) (conn, peer net.Conn) {
	near, peer := net.Pipe()
	conn = deadline.New(near, read, write)
	t.Cleanup(func() {
		_ = conn.Close()
		_ = peer.Close()
	})
	return conn, peer
}

// requireTimeoutAfter requires that a call times out after exactly this time.
func requireTimeoutAfter(t *testing.T, want time.Duration, call func() (int, error)) {
	t.Helper()
	began := time.Now()
	_, err := call()
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	require.Equal(t, want, time.Since(began))
}

func TestTheEarlierLimitHolds(t *testing.T) {
	for name, c := range map[string]struct{ timeout, deadline, want time.Duration }{
		"the timeout":           {2 * time.Second, 8 * time.Second, 2 * time.Second},
		"the deadline":          {8 * time.Second, 2 * time.Second, 2 * time.Second},
		"no deadline":           {8 * time.Second, 0, 8 * time.Second},
		"a deadline that is up": {8 * time.Second, -time.Second, 0},
		"no timeout":            {0, 2 * time.Second, 2 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				set := func(conn net.Conn, one func(time.Time) error) {
					for _, set := range []func(time.Time) error{one, conn.SetDeadline} {
						until := time.Now().Add(c.deadline)
						if c.deadline == 0 {
							until = time.Time{}
						}
						require.NoError(t, set(until))
					}
				}
				reads, _ := pipe(t, c.timeout, 0)
				set(reads, reads.SetReadDeadline)
				requireTimeoutAfter(t, c.want, func() (int, error) { return reads.Read(make([]byte, 1)) })

				writes, _ := pipe(t, 0, c.timeout)
				set(writes, writes.SetWriteDeadline)
				requireTimeoutAfter(t, c.want, func() (int, error) { return writes.Write([]byte("x")) })
			})
		})
	}
}

func TestDeadlineThatIsSetMeanwhileHolds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		conn, _ := pipe(t, 8*time.Second, 8*time.Second)
		time.AfterFunc(time.Second, func() { _ = conn.SetDeadline(time.Now().Add(time.Second)) })
		requireTimeoutAfter(t, 2*time.Second, func() (int, error) { return conn.Read(make([]byte, 1)) })

		require.NoError(t, conn.SetDeadline(time.Now().Add(time.Second)))
		time.AfterFunc(time.Second/2, func() { _ = conn.SetDeadline(time.Time{}) })
		requireTimeoutAfter(t, 8*time.Second, func() (int, error) { return conn.Write([]byte("x")) })
	})
}

func TestEachReadHasTheTimeoutAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		conn, peer := pipe(t, 8*time.Second, 0)
		go func() {
			for range 3 {
				time.Sleep(7 * time.Second)
				_, _ = io.WriteString(peer, "x")
			}
		}()
		for range 3 {
			_, err := conn.Read(make([]byte, 1))
			require.NoError(t, err)
		}
		requireTimeoutAfter(t, 8*time.Second, func() (int, error) { return conn.Read(make([]byte, 1)) })
	})
}

func TestLooksInVainDoNotProlongTheTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		conn, _ := pipe(t, time.Second, 0)
		look := func() (int, error) {
			require.NoError(t, conn.SetReadDeadline(time.Now().Add(300*time.Millisecond)))
			return conn.Read(make([]byte, 1))
		}
		for _, want := range []int{300, 300, 300, 100} { // a second in all
			requireTimeoutAfter(t, time.Duration(want)*time.Millisecond, look)
		}

		again, peer := pipe(t, time.Second, 0)
		conn = again
		requireTimeoutAfter(t, 300*time.Millisecond, look)
		time.Sleep(time.Hour) // in which nobody waits for anything
		go func() { _, _ = io.WriteString(peer, "x") }()
		_, err := look()
		require.NoError(t, err)
		require.NoError(t, conn.SetReadDeadline(time.Time{}))
		requireTimeoutAfter(t, time.Second, func() (int, error) { return conn.Read(make([]byte, 1)) })
	})
}

// Between two calls, the connection has the deadline that its user has set, and none
// of the limit: on a socket whose deadline has passed, even looking for bytes fails.
func TestTimeoutLeavesNoDeadlineBehind(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { _ = listener.Close() }()
	near, err := net.Dial("tcp", listener.Addr().String())
	require.NoError(t, err)
	conn := deadline.New(near, time.Millisecond, time.Millisecond)
	defer func() { _ = conn.Close() }()

	_, err = conn.Write([]byte("x"))
	require.NoError(t, err)
	_, err = conn.Read(make([]byte, 1))
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)

	limited, ok := conn.(interface {
		CloseWrite() error
		net.Conn
	})
	require.True(t, ok)
	require.NoError(t, limited.CloseWrite())
	peer, err := listener.Accept()
	require.NoError(t, err)
	sent, err := io.ReadAll(peer)
	require.NoError(t, err)
	require.Equal(t, "x", string(sent))
	_, err = io.WriteString(peer, "y")
	require.NoError(t, err)
	_ = peer.Close()
	_, err = io.ReadAll(near) // which has no limit
	require.NoError(t, err)
}

func TestConnectionWithoutLimitsIsItself(t *testing.T) {
	near, _ := net.Pipe()
	require.Same(t, near, deadline.New(near, 0, 0))
}

// Lift returns the connection as it was dialled, and the limits.
func TestLiftedLimitsHoldNoMore(t *testing.T) {
	near, _ := net.Pipe()
	free, read, write := deadline.Lift(deadline.New(near, 8*time.Second, 2*time.Second))
	require.Same(t, near, free)
	require.Equal(t, []time.Duration{8 * time.Second, 2 * time.Second}, []time.Duration{read, write})

	free, read, write = deadline.Lift(near)
	require.Same(t, near, free)
	require.Zero(t, read+write)

	synctest.Test(t, func(t *testing.T) {
		conn, peer := pipe(t, time.Second, time.Second)
		secure := tls.Client(conn, &tls.Config{ServerName: "test"})
		free, read, write := deadline.Lift(secure)
		require.Same(t, secure, free)
		require.Equal(t, []time.Duration{time.Second, time.Second}, []time.Duration{read, write})
		go func() {
			time.Sleep(time.Minute)
			_ = peer.Close()
		}()
		began := time.Now()
		_, err := conn.Read(make([]byte, 1))
		require.ErrorIs(t, err, io.EOF)
		require.Equal(t, time.Minute, time.Since(began))
	})
}

// slowConn blocks a write until it is released, and notes the deadline that is set.
type slowConn struct {
	net.Conn
	writing, release chan struct{}
	deadline         time.Time
}

func (c *slowConn) Write(p []byte) (int, error) {
	close(c.writing)
	<-c.release
	return len(p), nil
}

func (c *slowConn) SetWriteDeadline(t time.Time) error {
	c.deadline = t
	return nil
}

// A transport can have its answer before it has written the whole request. That write must not
// change the deadlines of whoever has the connection by then.
func TestACallUnderWayLeavesTheDeadlinesAfterALiftAlone(t *testing.T) {
	slow := &slowConn{writing: make(chan struct{}), release: make(chan struct{})}
	conn := deadline.New(slow, time.Minute, time.Minute)
	written := make(chan error)
	go func() {
		_, err := conn.Write([]byte("x"))
		written <- err
	}()
	<-slow.writing
	free, read, write := deadline.Lift(conn)
	require.Equal(t, []time.Duration{time.Minute, time.Minute}, []time.Duration{read, write})
	require.True(t, slow.deadline.IsZero(), "the limit of the call under way is lifted as well")

	own := time.Now().Add(time.Second)
	require.NoError(t, free.SetWriteDeadline(own))
	close(slow.release)
	require.NoError(t, <-written)
	require.Equal(t, own, slow.deadline)
}

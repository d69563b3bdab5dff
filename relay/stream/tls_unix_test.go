//go:build unix

package stream

import (
	"bytes"
	"crypto/tls"
	"io"
	"net"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// corked is a connection that keeps what is written to it until it is let go.
type corked struct {
	net.Conn
	held   bytes.Buffer
	corked bool
}

func (c *corked) Write(p []byte) (int, error) {
	if c.corked {
		return c.held.Write(p)
	}
	return c.Conn.Write(p)
}

// letGo sends the first n bytes of what was kept, or all of it where n is negative.
func (c *corked) letGo(t *testing.T, n int) {
	t.Helper()
	if n < 0 {
		n = c.held.Len()
	}
	_, err := c.Conn.Write(c.held.Next(n))
	require.NoError(t, err)
}

// A quietLeg reads from a TLS connection as if it had been quiet for long.
type quietLeg struct {
	*direction
	reader *parkingReader
	far    *tls.Conn
	cork   *corked
}

func newQuietLeg(t *testing.T, relayIsServer bool) *quietLeg {
	near, far := tcpWire(t, true)
	cork := &corked{Conn: far}
	relaySide, farSide := overTLS(t, near, cork, relayIsServer, testTLS(t))
	t.Cleanup(func() { _ = near.Close(); _ = far.Close() })
	l := new(leg)
	l.open("test", Endpoint{Conn: relaySide}, generous)
	r, ok := connReader(relaySide).(*parkingReader)
	require.True(t, ok)
	return &quietLeg{
		direction: &direction{from: l, reader: r},
		reader:    r,
		far:       farSide.(*tls.Conn),
		cork:      cork,
	}
}

// next reads what comes next, and has the reader believe that there was a pause.
func (q *quietLeg) next(t *testing.T) string {
	t.Helper()
	q.from.lastRead.Add(int64(time.Minute))
	require.NoError(t, q.reader.read(q.direction))
	got := string(q.buf[q.start:q.end])
	q.release()
	return got
}

// taken waits until nothing is left in the socket.
func (q *quietLeg) taken(t *testing.T) {
	t.Helper()
	require.Eventually(t, func() (empty bool) {
		var peeked [1]byte
		require.NoError(t, q.reader.raw.Control(func(fd uintptr) {
			_, _, err := syscall.Recvfrom(int(fd), peeked[:], syscall.MSG_PEEK)
			empty = err == syscall.EAGAIN //nolint:errorlint // system calls return it as it is
		}))
		return empty
	}, patience, time.Millisecond)
}

// parked waits until a goroutine waits for the socket below TLS.
func parked(t *testing.T) {
	t.Helper()
	require.Eventually(t, func() bool {
		stacks := make([]byte, 1<<20)
		stacks = stacks[:runtime.Stack(stacks, true)]
		for goroutine := range strings.SplitSeq(string(stacks), "\n\n") {
			if strings.Contains(goroutine, "(*parkingReader).park") &&
				strings.Contains(goroutine, "RawRead") && strings.Contains(goroutine, "IO wait") {
				return true
			}
		}
		return false
	}, patience, time.Millisecond)
}

func TestQuietTLSConnectionWaitsForItsSocket(t *testing.T) {
	for name, relayIsServer := range map[string]bool{
		"as server":                              true,
		"as client, which is sent tickets first": false,
	} {
		t.Run(name, func(t *testing.T) {
			q := newQuietLeg(t, relayIsServer)
			for _, message := range []string{"one", "two"} {
				got := make(chan string, 1)
				go func() { got <- q.next(t) }()
				parked(t)
				_, err := io.WriteString(q.far, message)
				require.NoError(t, err)
				require.Equal(t, message, <-got)
			}
		})
	}
}

// A record that TLS has read along with another one is yielded, although it does
// not make the socket readable.
func TestRecordsThatCameTogetherAreAllRead(t *testing.T) {
	q := newQuietLeg(t, true)
	q.cork.corked = true
	for _, message := range []string{"one", "two", "three"} {
		_, err := io.WriteString(q.far, message)
		require.NoError(t, err)
	}
	q.cork.letGo(t, -1)
	for _, message := range []string{"one", "two", "three"} {
		require.Equal(t, message, q.next(t))
	}
}

func TestRecordThatComesInPartsIsRead(t *testing.T) {
	q := newQuietLeg(t, true)
	q.cork.corked = true
	_, err := io.WriteString(q.far, "a message")
	require.NoError(t, err)
	for _, first := range []int{1, 4, 10} { // of a header of five bytes, and of what follows
		got := make(chan string, 1)
		go func() { got <- q.next(t) }()
		parked(t)
		q.cork.letGo(t, first)
		q.taken(t)
		parked(t)
		q.cork.letGo(t, -1)
		require.Equal(t, "a message", <-got)
		_, err := io.WriteString(q.far, "a message")
		require.NoError(t, err)
	}
}

func TestEndOfAQuietTLSConnectionIsSeen(t *testing.T) {
	for name, end := range map[string]func(q *quietLeg){
		"close_notify": func(q *quietLeg) { _ = q.far.CloseWrite() },
		"FIN":          func(q *quietLeg) { _ = q.cork.Conn.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			q := newQuietLeg(t, true)
			ended := make(chan error, 1)
			go func() { ended <- q.reader.read(q.direction) }()
			parked(t)
			end(q)
			require.ErrorIs(t, <-ended, io.EOF)
		})
	}
}

// A read deadline that is set for a leg holds, also while the reader sets some of
// its own.
func TestDeadlineOfALegHoldsWhileItIsParked(t *testing.T) {
	q := newQuietLeg(t, true)
	ended := make(chan error, 1)
	go func() { ended <- q.reader.read(q.direction) }()
	parked(t)
	q.from.setReadDeadline(time.Now().Add(10 * time.Millisecond))
	require.ErrorContains(t, <-ended, "timeout")

	q.from.setReadDeadline(time.Now().Add(time.Hour))
	go func() { ended <- q.reader.readBefore(q.direction, time.Unix(1, 0)) }()
	require.Error(t, <-ended)
	q.from.setReadDeadline(time.Unix(1, 0))
	require.Error(t, q.reader.park(q.direction))
}

// What came right behind the TLS handshake, so that TLS has decrypted it already,
// is yielded first.
func TestWhatCameWithTheTLSHandshakeIsRead(t *testing.T) {
	near, far := tcpWire(t, true)
	defer func() { _, _ = near.Close(), far.Close() }()
	cork := &corked{Conn: far, corked: false}
	client := tls.Client(cork, testTLS(t))
	server := tls.Server(near, testTLS(t))
	done := make(chan error, 1)
	go func() { done <- server.Handshake() }()
	require.NoError(t, client.Handshake())
	require.NoError(t, <-done)
	cork.corked = true
	for _, message := range []string{"one", "two"} {
		_, err := io.WriteString(client, message)
		require.NoError(t, err)
	}
	cork.letGo(t, -1)
	one := make([]byte, 3)
	_, err := io.ReadFull(server, one) // reads both records from the socket
	require.NoError(t, err)

	buffered, ok := connReader(server).(*bufferedReader)
	require.True(t, ok)
	require.Equal(t, "two", string(buffered.buffered))
}

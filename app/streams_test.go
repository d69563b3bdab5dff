package app

import (
	"context"
	"io"
	"net"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	"go.uber.org/zap"

	"github.com/caddy-deepgram/deepgram-callback/relay/stream"
)

var limits = stream.Options{
	MaxMessage:   1 << 20,
	PingInterval: time.Minute,
	PongTimeout:  time.Minute,
	WriteTimeout: patience,
	CloseTimeout: patience,
}

// socketPair is a TCP connection with both its ends.
func socketPair(t *testing.T) (near, far net.Conn) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { _ = listener.Close() }()
	near, err = net.Dial("tcp", listener.Addr().String())
	require.NoError(t, err)
	far, err = listener.Accept()
	require.NoError(t, err)
	t.Cleanup(func() { _, _ = near.Close(), far.Close() })
	require.NoError(t, near.SetDeadline(time.Now().Add(patience)))
	return near, far
}

// open opens a stream and returns its ends: of the caller, and of the backend.
func open(t *testing.T, r *Registry, route string, drain time.Duration) (caller, backend net.Conn) {
	t.Helper()
	return openStream(t, r, StreamInfo{Route: route, Drain: drain})
}

func openStream(t *testing.T, r *Registry, info StreamInfo) (caller, backend net.Conn) {
	t.Helper()
	release, err := r.Reserve(info.Route, 0)
	require.NoError(t, err)
	caller, gatewayForCaller := socketPair(t)
	backend, gatewayForBackend := socketPair(t)
	r.Open(info, stream.Endpoint{Conn: gatewayForCaller}, stream.Endpoint{Conn: gatewayForBackend},
		limits, func(stream.End) { release() })
	return caller, backend
}

// closeCode reads the Close frame that comes to one end, which is short, as
// are all that the gateway sends; masked is for those to the backend.
func closeCode(t *testing.T, conn net.Conn, masked bool) int {
	t.Helper()
	head := make([]byte, 2)
	_, err := io.ReadFull(conn, head)
	require.NoError(t, err)
	require.Equal(t, byte(0x88), head[0], "not a Close frame")
	require.Equal(t, masked, head[1]&0x80 != 0)
	var key [4]byte
	if masked {
		_, err = io.ReadFull(conn, key[:])
		require.NoError(t, err)
	}
	payload := make([]byte, head[1]&0x7f)
	_, err = io.ReadFull(conn, payload)
	require.NoError(t, err)
	for i := range payload {
		payload[i] ^= key[i%4]
	}
	return int(payload[0])<<8 | int(payload[1])
}

func TestPlacesAreLimitedForEachRoute(t *testing.T) {
	r := newRegistry(zap.NewNop)
	first, err := r.Reserve("a", 2)
	require.NoError(t, err)
	_, err = r.Reserve("a", 2)
	require.NoError(t, err)
	_, err = r.Reserve("a", 2)
	require.ErrorIs(t, err, ErrTooManyStreams)
	_, err = r.Reserve("b", 1)
	require.NoError(t, err)
	_, err = r.Reserve("a", 0)
	require.NoError(t, err, "zero is no limit")

	first()
	first() // counts once
	_, err = r.Reserve("a", 3)
	require.NoError(t, err)
	_, err = r.Reserve("a", 3)
	require.ErrorIs(t, err, ErrTooManyStreams)
}

func TestEndOfAStreamGivesItsPlaceBack(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	r := newRegistry(zap.NewNop)
	caller, backend := open(t, r, "a", time.Minute)
	require.Len(t, r.List(), 1)
	_, err := r.Reserve("a", 1)
	require.ErrorIs(t, err, ErrTooManyStreams)
	require.NoError(t, caller.Close())
	require.Equal(t, websocket.CloseGoingAway, closeCode(t, backend, true))
	require.NoError(t, backend.Close())
	require.Eventually(t, func() bool {
		release, err := r.Reserve("a", 1)
		if err == nil {
			release()
		}
		return err == nil && len(r.List()) == 0
	}, patience, time.Millisecond)
}

func TestListHasTheOldestFirst(t *testing.T) {
	r := newRegistry(zap.NewNop)
	for _, route := range []string{"first", "second", "third"} {
		open(t, r, route, time.Minute)
	}
	var routes []string
	for _, s := range r.List() {
		routes = append(routes, s.Route)
		require.NotEmpty(t, s.ID)
	}
	require.Equal(t, []string{"first", "second", "third"}, routes)
	r.Shutdown(canceled())
}

func canceled() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}

func TestShutdownTellsBothEndsAndWaitsForThem(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	r := newRegistry(zap.NewNop)
	caller, backend := open(t, r, "a", time.Minute)
	finished := make(chan struct{})
	go func() {
		defer close(finished)
		r.Shutdown(context.Background())
	}()
	require.Equal(t, websocket.CloseGoingAway, closeCode(t, caller, false))
	require.NoError(t, caller.Close())
	require.Equal(t, websocket.CloseGoingAway, closeCode(t, backend, true))
	select {
	case <-finished:
		require.Fail(t, "it did not wait for the backend")
	default:
	}
	require.NoError(t, backend.Close())
	select {
	case <-finished:
	case <-time.After(patience):
		require.Fail(t, "it waits although both ends are gone")
	}
	require.Empty(t, r.List())
	_, err := r.Reserve("a", 0)
	require.ErrorIs(t, err, ErrShuttingDown)
}

func TestShutdownWaitsNoLongerThanDrain(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	r := newRegistry(zap.NewNop)
	caller, backend := open(t, r, "a", 50*time.Millisecond)
	r.Shutdown(context.Background()) // though neither answers
	require.Empty(t, r.List())
	require.Equal(t, websocket.CloseGoingAway, closeCode(t, caller, false))
	require.Equal(t, websocket.CloseGoingAway, closeCode(t, backend, true))
}

func TestShutdownWaitsNoLongerThanItsContext(t *testing.T) {
	r := newRegistry(zap.NewNop)
	caller, _ := open(t, r, "a", time.Minute)
	r.Shutdown(canceled())
	require.Len(t, r.List(), 1)
	require.Equal(t, websocket.CloseGoingAway, closeCode(t, caller, false))
}

// A handshake can be under way when the shutdown begins.
func TestStreamThatOpensDuringShutdownIsToldToo(t *testing.T) {
	r := newRegistry(zap.NewNop)
	release, err := r.Reserve("a", 0)
	require.NoError(t, err)
	r.Shutdown(context.Background())
	caller, gatewayForCaller := socketPair(t)
	_, gatewayForBackend := socketPair(t)
	r.Open(StreamInfo{Drain: time.Minute}, stream.Endpoint{Conn: gatewayForCaller},
		stream.Endpoint{Conn: gatewayForBackend}, limits, func(stream.End) { release() })
	require.Equal(t, websocket.CloseGoingAway, closeCode(t, caller, false))
}

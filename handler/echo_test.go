package handler_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/stretchr/testify/require"
)

// An echo is a WebSocket backend that sends every message back, and gives every
// connection to the test.
type echo struct {
	*httptest.Server
	addr  string
	conns chan *backendConn
}

// backendConn is the backend's side of a stream.
type backendConn struct {
	*websocket.Conn
	handshake *http.Request
	messages  chan string // the messages that came
	ended     chan error  // why no more messages come
}

type echoOptions struct {
	upgrader websocket.Upgrader
	header   http.Header
	tls      bool
	silent   bool // does not send back
	greeting string
}

func newEcho(t testing.TB, opts ...echoOptions) *echo {
	t.Helper()
	var o echoOptions
	if len(opts) > 0 {
		o = opts[0]
	}
	e := &echo{conns: make(chan *backendConn, 1000)}
	handler := func(w http.ResponseWriter, r *http.Request) {
		conn, err := o.upgrader.Upgrade(w, r, o.header)
		if err != nil {
			return
		}
		c := &backendConn{
			Conn:      conn,
			handshake: r,
			messages:  make(chan string, 1000),
			ended:     make(chan error, 1),
		}
		defer func() { _ = conn.Close() }()
		e.conns <- c
		if o.greeting != "" {
			_ = conn.WriteMessage(websocket.TextMessage, []byte(o.greeting))
		}
		for {
			kind, message, err := conn.ReadMessage()
			if err != nil {
				c.ended <- err
				return
			}
			c.messages <- string(message)
			if !o.silent {
				_ = conn.WriteMessage(kind, message)
			}
		}
	}
	e.Server = httptest.NewUnstartedServer(http.HandlerFunc(handler))
	e.Config.ErrorLog = discardLog
	if o.tls {
		e.StartTLS()
	} else {
		e.Start()
	}
	e.addr = e.Listener.Addr().String()
	t.Cleanup(e.Close)
	return e
}

// next returns the backend's side of the stream that is opened next.
func (e *echo) next(t testing.TB) *backendConn {
	t.Helper()
	select {
	case c := <-e.conns:
		t.Cleanup(func() { _ = c.Close() })
		return c
	case <-time.After(patience):
		require.Fail(t, "no stream reached the backend")
		return nil
	}
}

// message returns the next message that comes to the backend.
func (c *backendConn) message(t testing.TB) string {
	t.Helper()
	select {
	case m := <-c.messages:
		return m
	case <-time.After(patience):
		require.Fail(t, "no message reached the backend")
		return ""
	}
}

// end waits for the end of the backend's connection, and returns why it ended.
func (c *backendConn) end(t testing.TB) error {
	t.Helper()
	select {
	case err := <-c.ended:
		return err
	case <-time.After(patience):
		require.Fail(t, "the backend's connection did not end")
		return nil
	}
}

// open opens a stream through a gateway.
func open(t testing.TB, g *gateway, header http.Header) *websocket.Conn {
	t.Helper()
	conn, res, err := dial(g, header)
	require.NoError(t, err, "answered %v", res)
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func dial(g *gateway, header http.Header) (*websocket.Conn, *http.Response, error) {
	dialer := &websocket.Dialer{HandshakeTimeout: patience}
	return dialer.Dial("ws"+strings.TrimPrefix(g.url, "http")+"/live?a=1-0123456789abcd", header)
}

// refusedStream opens a stream that has to be refused.
func refusedStream(t testing.TB, g *gateway, header http.Header) answer {
	t.Helper()
	conn, res, err := dial(g, header)
	if err == nil {
		_ = conn.Close()
		require.Fail(t, "the stream was accepted")
	}
	require.NotNil(t, res, "%v", err)
	body := make([]byte, 1024)
	n, _ := res.Body.Read(body)
	return answer{res, string(body[:n])}
}

// talk sends a message through a stream to an echo, and requires it to come back.
func talk(t testing.TB, conn *websocket.Conn, message string) {
	t.Helper()
	require.NoError(t, conn.WriteMessage(websocket.TextMessage, []byte(message)))
	require.Equal(t, message, hear(t, conn))
}

func hear(t testing.TB, conn *websocket.Conn) string {
	t.Helper()
	require.NoError(t, conn.SetReadDeadline(time.Now().Add(patience)))
	_, got, err := conn.ReadMessage()
	require.NoError(t, err)
	return string(got)
}

// requireClose reads up to a Close frame with code, and returns its reason.
func requireClose(t testing.TB, conn *websocket.Conn, code int) (reason string) {
	t.Helper()
	require.NoError(t, conn.SetReadDeadline(time.Now().Add(patience)))
	for {
		_, _, err := conn.ReadMessage()
		if err == nil {
			continue
		}
		closed, ok := err.(*websocket.CloseError)
		require.True(t, ok, "%v instead of a Close frame", err)
		require.Equal(t, code, closed.Code, closed.Text)
		return closed.Text
	}
}

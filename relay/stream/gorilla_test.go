package stream

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/stretchr/testify/require"
)

// gorillaEnds joins a gorilla client, as the caller, and a gorilla server, as the
// backend, by a pair. Both handshakes are real ones: the gateway passes them on.
func gorillaEnds(
	t *testing.T, options Options,
) (caller, backend *websocket.Conn, pair *Pair, ended chan End) {
	ended = make(chan End, 1)
	backends := make(chan *websocket.Conn, 1)
	backendServer := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		upgrader := websocket.Upgrader{}
		conn, err := upgrader.Upgrade(w, r, nil)
		if err != nil {
			t.Errorf("upgrade: %v", err)
			return
		}
		backends <- conn
	}))
	t.Cleanup(backendServer.Close)

	pairs := make(chan *Pair, 1)
	gateway := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		up, err := net.Dial("tcp", backendServer.Listener.Addr().String())
		if err != nil {
			t.Errorf("dial: %v", err)
			return
		}
		_ = r.Write(up) // the same handshake goes on, key and all
		reader := bufio.NewReader(up)
		answer, err := http.ReadResponse(reader, r)
		if err != nil {
			t.Errorf("backend: %v", err)
			return
		}
		conn, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			t.Errorf("hijack: %v", err)
			return
		}
		_ = answer.Write(conn)
		early, _ := rw.Reader.Peek(rw.Reader.Buffered())
		backendEarly, _ := reader.Peek(reader.Buffered())
		pairs <- Start(Endpoint{Conn: conn, Buffered: early},
			Endpoint{Conn: up, Buffered: backendEarly}, options, func(end End) { ended <- end })
	}))
	t.Cleanup(gateway.Close)

	caller, _, err := websocket.DefaultDialer.Dial("ws"+strings.TrimPrefix(gateway.URL, "http"), nil)
	require.NoError(t, err)
	backend = <-backends
	pair = <-pairs
	t.Cleanup(func() {
		_ = caller.Close()
		_ = backend.Close()
		<-pair.Done()
	})
	for _, c := range []*websocket.Conn{caller, backend} {
		require.NoError(t, c.SetReadDeadline(time.Now().Add(patience)))
	}
	return caller, backend, pair, ended
}

func TestGorillaConversation(t *testing.T) {
	options := binaryToo()
	caller, backend, pair, ended := gorillaEnds(t, options)
	for i, size := range []int{0, 1, 125, 126, 1500, 16 << 10, 65535, 65536, 1 << 20} {
		for _, way := range []struct{ from, to *websocket.Conn }{{caller, backend}, {backend, caller}} {
			message := bytes.Repeat([]byte{byte('a' + i)}, size)
			kind := websocket.TextMessage + i%2
			written := make(chan error, 1)
			go func() { written <- way.from.WriteMessage(kind, message) }()
			gotKind, got, err := way.to.ReadMessage()
			require.NoError(t, err)
			require.Equal(t, kind, gotKind)
			require.True(t, bytes.Equal(message, got))
			require.NoError(t, <-written)
		}
	}
	require.NoError(t,
		caller.WriteMessage(websocket.CloseMessage, websocket.FormatCloseMessage(4321, "all said")))
	_, _, err := backend.ReadMessage() // answers the Close
	require.Equal(t, &websocket.CloseError{Code: 4321, Text: "all said"}, err)
	_, _, err = caller.ReadMessage()
	require.Equal(t, &websocket.CloseError{Code: 4321}, err)
	_ = caller.Close()
	_ = backend.Close()
	end := <-ended
	require.Equal(t, EndClosed, end.Reason)
	require.EqualValues(t, 9, pair.FromCaller().Messages)
	require.EqualValues(t, 9, pair.FromBackend().Messages)
}

func TestGorillaSurvivorIsTold(t *testing.T) {
	for _, side := range sides {
		t.Run(side+" drops", func(t *testing.T) {
			caller, backend, _, ended := gorillaEnds(t, generous)
			gone, survivor := caller, backend
			if side == ByBackend {
				gone, survivor = backend, caller
			}
			require.NoError(t, gone.WriteMessage(websocket.TextMessage, []byte("the last")))
			_ = gone.NetConn().Close()
			_, got, err := survivor.ReadMessage()
			require.NoError(t, err)
			require.Equal(t, "the last", string(got))
			_, _, err = survivor.ReadMessage()
			require.Equal(t, &websocket.CloseError{Code: 1001, Text: side + " gone"}, err)
			_ = survivor.Close()
			end := <-ended
			require.Equal(t, side, end.By)
		})
	}
}

// gorilla answers pings while it reads, so both ends only have to read.
func TestGorillaAnswersPings(t *testing.T) {
	options := generous
	options.PingInterval, options.PongTimeout = 20*time.Millisecond, 5*time.Second
	caller, backend, pair, ended := gorillaEnds(t, options)
	pings := make(chan struct{}, 1000)
	for _, c := range []*websocket.Conn{caller, backend} {
		answer := c.PingHandler()
		c.SetPingHandler(func(data string) error { pings <- struct{}{}; return answer(data) })
		c.SetPongHandler(func(string) error {
			t.Error("a pong of a ping of the gateway's went through")
			return nil
		})
		go func() { _, _, _ = c.ReadMessage(); _ = c.Close() }()
	}
	for range 10 {
		<-pings
	}
	require.Empty(t, ended)
	require.Zero(t, pair.FromCaller())
	pair.Shutdown(CloseGoingAway, "done", patience)
	require.Equal(t, EndShutdown, (<-ended).Reason)
}

func TestGorillaStreamsFragments(t *testing.T) {
	caller, backend, pair, _ := gorillaEnds(t, generous)
	go func() {
		w, err := caller.NextWriter(websocket.TextMessage)
		if err != nil {
			t.Errorf("writer: %v", err)
			return
		}
		for i := range 1000 { // more than gorilla's buffer, so in several frames
			_, _ = fmt.Fprintf(w, "%d,", i)
			if i%100 == 0 {
				_ = caller.WriteControl(websocket.PingMessage, []byte("between"), time.Now().Add(patience))
			}
		}
		_ = w.Close()
	}()
	go func() { _, _, _ = caller.ReadMessage() }() // pongs
	_, r, err := backend.NextReader()
	require.NoError(t, err)
	got, err := io.ReadAll(r)
	require.NoError(t, err)
	require.Equal(t, 1000, bytes.Count(got, []byte(",")))
	require.LessOrEqual(t, pair.FromCaller().Messages, int64(1))
}

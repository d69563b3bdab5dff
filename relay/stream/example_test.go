package stream_test

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"time"

	"github.com/gorilla/websocket"

	"github.com/caddy-deepgram/deepgram-callback/relay/stream"
)

// A server that joins each WebSocket that comes to it with one to a backend. It does the opening
// handshakes itself, here by passing on the caller's and the backend's answer as they are, and
// gives both connections to a pair.
func Example() {
	backend := httptest.NewServer(http.HandlerFunc(echo))
	defer backend.Close()

	ended := make(chan stream.End, 1)
	gateway := httptest.NewServer(&bridge{
		backend: backend.Listener.Addr().String(),
		limits: stream.Options{
			MaxMessage:   1 << 20,
			PingInterval: 20 * time.Second,
			PongTimeout:  10 * time.Second,
			WriteTimeout: 10 * time.Second,
			CloseTimeout: 5 * time.Second,
		},
		onEnd: func(end stream.End) { ended <- end },
	})
	defer gateway.Close()

	caller, _, err := websocket.DefaultDialer.Dial("ws"+strings.TrimPrefix(gateway.URL, "http"), nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = caller.Close() }()
	_ = caller.WriteMessage(websocket.TextMessage, []byte("hello"))
	_, message, err := caller.ReadMessage()
	fmt.Printf("the backend answers %q, %v\n", message, err)

	bye := websocket.FormatCloseMessage(websocket.CloseNormalClosure, "all said")
	_ = caller.WriteMessage(websocket.CloseMessage, bye)
	_, _, err = caller.ReadMessage()
	fmt.Println("the backend answers", err)

	end := <-ended
	fmt.Printf("ended by the %s: %s, %d %q\n", end.By, end.Reason, end.Code, end.Text)

	// Output:
	// the backend answers "hello", <nil>
	// the backend answers websocket: close 1000 (normal)
	// ended by the caller: closed, 1000 "all said"
}

type bridge struct {
	backend string
	limits  stream.Options
	onEnd   func(stream.End)
}

func (b *bridge) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	upstream, err := net.Dial("tcp", b.backend)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	_ = r.Write(upstream)
	fromUpstream := bufio.NewReader(upstream)
	answer, err := http.ReadResponse(fromUpstream, r)
	if err != nil || answer.StatusCode != http.StatusSwitchingProtocols {
		_ = upstream.Close()
		http.Error(w, "the backend takes no WebSocket", http.StatusBadGateway)
		return
	}
	conn, fromCaller, err := http.NewResponseController(w).Hijack()
	if err != nil {
		_ = upstream.Close()
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	_ = conn.SetDeadline(time.Time{}) // the server may have set some
	_ = answer.Write(conn)

	// What came right behind a handshake is in the readers, and belongs to the stream.
	stream.Start(
		stream.Endpoint{Conn: conn, Buffered: buffered(fromCaller.Reader)},
		stream.Endpoint{Conn: upstream, Buffered: buffered(fromUpstream)},
		b.limits, b.onEnd,
	)
}

func buffered(r *bufio.Reader) []byte {
	bytes, _ := r.Peek(r.Buffered())
	return bytes
}

// echo is a backend that sends every message back.
func echo(w http.ResponseWriter, r *http.Request) {
	conn, err := new(websocket.Upgrader).Upgrade(w, r, nil)
	if err != nil {
		return
	}
	defer func() { _ = conn.Close() }()
	for {
		kind, message, err := conn.ReadMessage()
		if err != nil {
			return
		}
		_ = conn.WriteMessage(kind, message)
	}
}

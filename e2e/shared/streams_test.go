//go:build unix

package shared_test

import (
	"fmt"
	"net/http"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/stretchr/testify/require"
)

// A stream is a live one into the inbox.
type stream struct {
	t    testing.TB
	conn *websocket.Conn
	pong chan struct{}
}

func (g *gateway) open() *stream {
	g.t.Helper()
	conn, _, err := websocket.DefaultDialer.Dial("ws://"+g.addr+"/live",
		http.Header{"Host": {"callbacks.test"}})
	require.NoError(g.t, err)
	g.t.Cleanup(func() { _ = conn.Close() })
	s := &stream{t: g.t, conn: conn, pong: make(chan struct{}, 1)}
	conn.SetPongHandler(func(string) error { s.pong <- struct{}{}; return nil })
	go func() {
		for {
			if _, _, err := conn.ReadMessage(); err != nil {
				return
			}
		}
	}()
	return s
}

// say sends messages, and returns when they are safe, which a pong after them says.
func (s *stream) say(messages ...string) {
	s.t.Helper()
	for _, message := range messages {
		require.NoError(s.t, s.conn.WriteMessage(websocket.TextMessage, []byte(message)))
	}
	require.NoError(s.t, s.conn.WriteControl(websocket.PingMessage, nil, time.Now().Add(patience)))
	select {
	case <-s.pong:
	case <-time.After(patience):
		require.Fail(s.t, "the messages are not safe")
	}
}

// ofStreams are the first deliveries that were taken of each live stream, in words.
func (s *service) ofStreams() map[string][]string {
	words := make(map[string][]string)
	seen := make(map[string]bool)
	for _, d := range s.all() {
		if d.live != "" && d.status == http.StatusOK && !seen[d.webhook] {
			seen[d.webhook] = true
			words[d.live] = append(words[d.live], d.body+d.end)
		}
	}
	return words
}

// What a gateway took of a stream and could not deliver another one does, and then says that
// nobody knows how the stream ended. That of a gateway that lives goes on.
func TestAnotherGatewayEndsTheStreamOfOneThatWasKilled(t *testing.T) {
	dsn := newDatabase(t).DSN()
	s := newService(t, nil)
	one, two := newGateway(t, "one", dsn, s), newGateway(t, "two", dsn, s)
	dying, living := one.open(), two.open()
	var want []string
	for n := range 50 {
		text := fmt.Sprint("message ", n)
		dying.say(text)
		want = append(want, text)
	}
	living.say("a")
	one.Kill()
	want = append(want, "lost")
	require.Eventually(t, func() bool {
		for _, words := range s.ofStreams() {
			if len(words) == len(want) {
				require.Equal(t, want, words)
				return true
			}
		}
		return false
	}, patience, 10*time.Millisecond)
	for _, d := range s.all() {
		if d.end != "" {
			require.Equal(t, "two", d.gateway)
		}
	}

	living.say("b")
	require.NoError(t, living.conn.WriteControl(websocket.CloseMessage,
		websocket.FormatCloseMessage(websocket.CloseNormalClosure, ""), time.Now().Add(patience)))
	require.Eventually(t, func() bool { return two.inbox().Pending == 0 && len(s.ofStreams()) == 2 },
		patience, 10*time.Millisecond)
	one.start() // whose own streams are others' by now
	living.conn.Close()
	require.Eventually(t, func() bool {
		ends := make(map[string]int)
		for _, words := range s.ofStreams() {
			ends[words[len(words)-1]]++
		}
		return ends["lost"] == 1 && ends["closed"] == 1
	}, patience, 10*time.Millisecond)
	total := 0
	for _, words := range s.ofStreams() {
		total += len(words)
	}
	require.Equal(t, len(want)+3, total, "nothing comes twice")
}

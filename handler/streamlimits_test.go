package handler_test

import (
	"bufio"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/stretchr/testify/require"
)

// The limits of a stream hold whatever its connections are: plain or TLS, and also with a transport
// that has time limits of its own. In Caddy, those replace any deadline that was set before.

// babble says something all the time, until the connection is closed.
func babble(conn net.Conn) {
	go swallow(conn)
	for {
		if _, err := conn.Write([]byte("\x81\x02hi")); err != nil {
			return
		}
		<-time.After(5 * time.Millisecond)
	}
}

// transports are the kinds of backend and transport that a stream meets.
func transports() map[string]struct {
	secure bool
	limits string
} {
	type kind = struct {
		secure bool
		limits string
	}
	const long = "read_timeout 15s\nwrite_timeout 15s\n"
	return map[string]kind{
		"plain":                   {false, ""},
		"plain, with time limits": {false, long},
		"TLS":                     {true, ""},
		"TLS, with time limits":   {true, long},
	}
}

// streamTo is a site whose streams go to upstream through a transport with these
// limits.
func streamTo(upstream, limits, options string) string {
	if strings.HasPrefix(upstream, "https://") {
		limits += "tls_insecure_skip_verify\n"
	}
	return callback("",
		plainAuth+"stream "+upstream+" {\nclose_timeout 300ms\n"+options+
			"\nproxy {\ntransport http {\n"+limits+"}\n}\n}")
}

// inGoodTime is far longer than any limit that these tests configure for streams,
// and far shorter than the limits of their transports.
const inGoodTime = 7 * time.Second

func TestHandshakeIsDoneWithoutWaitingForTheBackendToTalk(t *testing.T) {
	for behaviour, behave := range map[string]func(net.Conn){"silent": swallow, "talking": babble} {
		for name, transport := range transports() {
			t.Run(behaviour+", "+name, func(t *testing.T) {
				g := start(t, streamTo(behaving(t, transport.secure, behave), transport.limits, ""))
				began := time.Now()
				conn, _, err := dial(g, withPassword())
				require.NoError(t, err)
				require.Less(t, time.Since(began), inGoodTime)
				if behaviour == "talking" {
					require.Equal(t, "hi", hear(t, conn))
				}
				require.NoError(t, conn.Close())
			})
		}
	}
}

// endsSoon opens a stream, acts on it, and requires that it ends soon after, for
// this reason.
func endsSoon(t *testing.T, g *gateway, act func(conn *websocket.Conn), reason string) {
	t.Helper()
	conn, _, err := dial(g, withPassword())
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	began := time.Now()
	act(conn)
	line := g.waitForLog("the stream's end", func(line map[string]any) bool {
		return line["msg"] == "stream ended"
	})
	require.Equal(t, reason, line["reason"])
	require.Less(t, time.Since(began), inGoodTime)
}

// read reads what comes to a caller, which makes it answer the gateway's pings.
func read(conn *websocket.Conn) {
	go func() {
		for {
			if _, _, err := conn.ReadMessage(); err != nil {
				return
			}
		}
	}()
}

func TestBackendThatDiesSilentlyIsFoundOutInTime(t *testing.T) {
	for name, transport := range transports() {
		t.Run(name, func(t *testing.T) {
			g := start(t, streamTo(behaving(t, transport.secure, swallow), transport.limits,
				"ping_interval 300ms\npong_timeout 200ms"))
			endsSoon(t, g, read, "silent")
		})
	}
}

// flood sends messages until that fails.
func flood(conn *websocket.Conn) {
	read(conn)
	go func() {
		for conn.WriteMessage(websocket.TextMessage, make([]byte, 100_000)) == nil {
			continue
		}
	}()
}

func TestBackendThatTakesNothingIsFoundOutInTime(t *testing.T) {
	for name, transport := range transports() {
		t.Run(name, func(t *testing.T) {
			g := start(t, streamTo(behaving(t, transport.secure, ignore), transport.limits,
				"write_timeout 300ms"))
			endsSoon(t, g, flood, "stalled")
		})
	}
}

func TestBackendThatDoesNotCloseIsCutOffInTime(t *testing.T) {
	for behaviour, behave := range map[string]func(net.Conn){
		"silent":  swallow,
		"talking": babble,
		"deaf":    ignore,
	} {
		for name, transport := range transports() {
			t.Run(behaviour+", "+name, func(t *testing.T) {
				g := start(t, streamTo(behaving(t, transport.secure, behave), transport.limits, ""))
				endsSoon(t, g, func(conn *websocket.Conn) {
					read(conn)
					_ = conn.WriteControl(websocket.CloseMessage,
						websocket.FormatCloseMessage(1000, ""), time.Now().Add(patience))
				}, "closed")
			})
		}
	}
}

// A backend's first message waits until the caller is admitted, and no longer.
func TestGateOpensInTime(t *testing.T) {
	for name, transport := range transports() {
		t.Run(name, func(t *testing.T) {
			greet := func(conn net.Conn) {
				_, _ = io.WriteString(conn, "\x81\x07welcome")
				swallow(conn)
			}
			site := streamTo(behaving(t, transport.secure, greet), transport.limits, "")
			g := start(t, strings.Replace(site, "basic_auth plain",
				"callback_secret 0123456789abcdef\nbasic_auth plain", 1))
			conn, _, err := dial(g, withPassword())
			require.NoError(t, err)
			defer func() { _ = conn.Close() }()
			// By now the gateway holds the greeting, and waits at the gate.
			<-time.After(300 * time.Millisecond)
			began := time.Now()
			require.NoError(t, conn.WriteMessage(websocket.TextMessage,
				[]byte(`{"metadata":{"extra":{"callback_secret":"0123456789abcdef"}}}`)))
			require.Equal(t, "welcome", hear(t, conn))
			require.Less(t, time.Since(began), inGoodTime)
		})
	}
}

// Where the transport's own limits are shorter, they hold.
func TestTimeLimitsOfTheTransportHoldForStreams(t *testing.T) {
	for name, secure := range map[string]bool{"plain": false, "TLS": true} {
		t.Run("read_timeout, "+name, func(t *testing.T) {
			g := start(t, streamTo(behaving(t, secure, swallow), "read_timeout 500ms\n", ""))
			endsSoon(t, g, read, "silent")
		})
		t.Run("write_timeout, "+name, func(t *testing.T) {
			g := start(t, streamTo(behaving(t, secure, ignore), "write_timeout 500ms\n",
				"write_timeout 1m"))
			endsSoon(t, g, flood, "stalled")
		})
		t.Run("but a quiet stream lives, "+name, func(t *testing.T) {
			live := newEcho(t, echoOptions{tls: secure}) // answers pings
			upstream := live.addr
			if secure {
				upstream = "https://" + upstream
			}
			g := start(t, streamTo(upstream, "read_timeout 600ms\nwrite_timeout 600ms\n", ""))
			conn := open(t, g, withPassword())
			<-time.After(2 * time.Second)
			talk(t, conn, "still here")
		})
	}
}

// A caller may not even take the head of the answer to its handshake.
func TestCallerThatDoesNotTakeTheAnswerIsGivenUpInTime(t *testing.T) {
	// The head is larger than the buffers of a connection, but not too large for a transport.
	const long = 9 << 20
	ended := make(chan error, 1)
	upstream := handmade{
		answer: func(accept string) string {
			field := "X-Long: " + strings.Repeat("x", 1000) + "\r\n"
			return switching + accept + "\r\n" + strings.Repeat(field, long/len(field)) + "\r\n"
		},
		behave: func(conn net.Conn) {
			_, err := io.Copy(io.Discard, conn)
			ended <- err
		},
		closes: true,
	}.start(t)
	g := start(t, callback(upstream,
		"anonymous\nstream {\nwrite_timeout 500ms\nclose_timeout 500ms\n}"))
	conn, err := net.Dial("tcp", g.addr)
	require.NoError(t, err)
	defer func() { _ = conn.Close() }()
	require.NoError(t, conn.(*net.TCPConn).SetReadBuffer(4096))
	_, err = io.WriteString(conn, opening+"Sec-WebSocket-Version: 13\r\n\r\n")
	require.NoError(t, err)
	select {
	case err := <-ended:
		require.NoError(t, err)
	case <-time.After(patience):
		require.Fail(t, "the backend is not told")
	}
	line := g.waitForEnd(upstream)
	require.Equal(t, "caller", line["ended_by"])
	require.Equal(t, "dropped", line["reason"])
}

// The case of a field's name has no meaning, but some clients compare it in a
// handshake: see https://github.com/caddyserver/caddy/pull/6621.
func TestHandshakeIsSpelledAsInRFC6455(t *testing.T) {
	upstream := handmade{
		answer: func(accept string) string {
			return switching + accept + "\r\nsec-websocket-protocol: chat\r\n\r\n"
		},
		behave: swallow,
		closes: true,
	}.start(t)
	const request = opening + "Sec-WebSocket-Protocol: chat\r\n"
	for name, site := range map[string]string{"plainly": "", "with the access log": "log\n"} {
		t.Run(name, func(t *testing.T) {
			g := start(t, site+callback(upstream, "anonymous"))
			head := func(version string) string {
				conn, err := net.Dial("tcp", g.addr)
				require.NoError(t, err)
				defer func() { _ = conn.Close() }()
				require.NoError(t, conn.SetDeadline(time.Now().Add(patience)))
				_, err = io.WriteString(conn, request+"Sec-WebSocket-Version: "+version+"\r\n\r\n")
				require.NoError(t, err)
				in, head := bufio.NewReader(conn), ""
				for !strings.HasSuffix(head, "\r\n\r\n") {
					line, err := in.ReadString('\n')
					require.NoError(t, err)
					head += line
				}
				return head
			}
			accepted := head("13")
			require.Contains(t, accepted, " 101 ")
			require.Contains(t, accepted, "\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n")
			require.Contains(t, accepted, "\r\nSec-WebSocket-Protocol: chat\r\n")
			require.NotContains(t, accepted, "Sec-Websocket")
			require.Contains(t, head("8"), "\r\nSec-WebSocket-Version: 13\r\n")
		})
	}
}

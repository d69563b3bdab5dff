package e2e_test

import (
	"net"
	"os"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/stretchr/testify/require"

	"github.com/caddy-deepgram/deepgram-callback/app"
)

// A stream has four ends: the speaker, the sender (the simulator), the gateway and the backend.
// Whichever of them ends it, in whatever way, the others are told at once, and nothing stays open.

func sendClose(code int, reason string) func(*websocket.Conn) {
	return func(conn *websocket.Conn) {
		_ = conn.WriteControl(websocket.CloseMessage,
			websocket.FormatCloseMessage(code, reason), deadline())
	}
}

func drop(conn *websocket.Conn) { _ = conn.NetConn().Close() }

func resetConn(conn *websocket.Conn) { reset(conn.NetConn()) }

func halfClose(conn *websocket.Conn) { _ = conn.NetConn().(*net.TCPConn).CloseWrite() }

// begin opens a stream, and waits until some messages have arrived.
func begin(t *testing.T, l *loop, s *service) *stream {
	t.Helper()
	live := l.open(s, "ws")
	say(t, live.speaker, 9)
	for range 2 {
		var message map[string]any
		require.NoError(t, live.backend.SetReadDeadline(deadline()))
		require.NoError(t, live.backend.ReadJSON(&message))
		require.Equal(t, "Results", message["type"])
	}
	return live
}

func (l *loop) requireNothingLive() {
	l.t.Helper()
	require.Eventually(l.t, func() bool { return len(app.ThisProcess().Streams.List()) == 0 },
		atOnce, time.Millisecond)
}

// The vendor documents that a callback which drops kills the stream. When the speaker drops, what
// came before is still transcribed.
func TestSpeakerEndsTheStream(t *testing.T) {
	for name, end := range map[string]func(*websocket.Conn){
		"close frame": sendClose(1000, "bye"),
		"dropped":     drop,
		"reset":       resetConn,
		"half-closed": halfClose,
	} {
		t.Run(name, func(t *testing.T) {
			s := newService(t)
			l := start(t, setup{upstream: s.addr, gateway: plainAuth})
			live := begin(t, l, s)
			end(live.speaker)

			h := listen(live.backend.Conn, atOnce)
			require.Equal(t, websocket.CloseNormalClosure, h.code, h.reason)
			require.NotEmpty(t, h.messages, "the tail is kept")
			require.Equal(t, "Metadata", h.messages[len(h.messages)-1]["type"])
			line := l.waitFor("stream ended", map[string]any{"ended_by": "caller"})
			require.Equal(t, "closed", line["reason"])
			require.Equal(t, 1000.0, line["close_code"])
			l.waitFor("stream ended", map[string]any{"request_id": live.id, "reason": "the speaker is gone"})
			l.requireNothingLive()
		})
	}
}

func TestBackendEndsTheStream(t *testing.T) {
	for name, test := range map[string]struct {
		end        func(*websocket.Conn)
		code       int // that the sender is told, with text; zero: none
		text       string
		answer     int    // that the backend reads
		reasonSeen string // in the gateway's log
	}{
		"close frame": {sendClose(1000, "enough"), 1000, "enough", 1000, "closed"},
		"own code":    {sendClose(4007, "no room"), 4007, "no room", 4007, "closed"},
		"close without one": {sendClose(websocket.CloseNoStatusReceived, ""), 0, "",
			websocket.CloseNoStatusReceived, "closed"},
		"dropped":     {drop, 1001, "backend gone", websocket.CloseAbnormalClosure, "dropped"},
		"reset":       {resetConn, 1001, "backend gone", websocket.CloseAbnormalClosure, "dropped"},
		"half-closed": {halfClose, 1001, "backend gone", websocket.CloseProtocolError, "dropped"},
	} {
		t.Run(name, func(t *testing.T) {
			s, wire := newService(t), newTap(t)
			l := start(t, setup{upstream: s.addr, gateway: plainAuth, tap: wire})
			live := begin(t, l, s)
			toSpeaker := listening(live.speaker, atOnce)
			test.end(live.backend.Conn)

			h := listen(live.backend.Conn, atOnce)
			require.Equal(t, test.answer, h.code, h.reason)
			h = <-toSpeaker
			require.Equal(t, websocket.CloseInternalServerErr, h.code, h.reason)
			require.Equal(t, "the callback connection was lost", h.reason)
			require.True(t, wire.sentBack(closeFrame(test.code, test.text)))
			require.Equal(t, test.reasonSeen,
				l.waitFor("stream ended", map[string]any{"ended_by": "backend"})["reason"])
			l.waitFor("stream ended",
				map[string]any{"request_id": live.id, "reason": "the callback connection was lost"})
			l.requireNothingLive()
		})
	}
}

// closeFrame is a Close frame of a server (RFC 6455, section 5.5.1), without a code if that is
// zero.
func closeFrame(code int, text string) []byte {
	if code == 0 {
		return []byte{0x88, 0}
	}
	return append([]byte{0x88, byte(2 + len(text)), byte(code >> 8), byte(code)}, text...)
}

func TestSenderThatDropsTheStreamEndsIt(t *testing.T) {
	s := newService(t)
	l := start(t, setup{upstream: s.addr, gateway: plainAuth, simulator: "fault drop_after 3"})
	live := begin(t, l, s)
	toSpeaker := listening(live.speaker, atOnce)
	sayUntilTheEnd(live.speaker, 20)

	h := listen(live.backend.Conn, atOnce)
	require.Equal(t, []string{"Results"}, types(h.messages), "what came before the end is delivered")
	require.Equal(t, websocket.CloseGoingAway, h.code, h.reason)
	require.Equal(t, "caller gone", h.reason)
	require.Equal(t, websocket.CloseAbnormalClosure, (<-toSpeaker).code)
	require.Equal(t, "dropped",
		l.waitFor("stream ended", map[string]any{"ended_by": "caller"})["reason"])
	l.requireNothingLive()
}

func TestCutWireEndsTheStream(t *testing.T) {
	s, wire := newService(t), newTap(t)
	l := start(t, setup{upstream: s.addr, gateway: plainAuth, tap: wire})
	live := begin(t, l, s)
	wire.cut()
	h := listen(live.backend.Conn, atOnce)
	require.Equal(t, websocket.CloseGoingAway, h.code, h.reason)
	require.Equal(t, websocket.CloseInternalServerErr, listen(live.speaker, atOnce).code)
	l.requireNothingLive()
}

// When one process ends, the other ends are told; if it has had the time, by a Close frame of its
// own.
func TestEndOfAProcessEndsTheStream(t *testing.T) {
	for name, test := range map[string]struct {
		process   string
		signal    os.Signal
		toBackend int
		toSpeaker int
		reason    string // that the speaker reads
	}{
		"gateway stopped": {"gateway", syscall.SIGTERM, websocket.CloseGoingAway,
			websocket.CloseInternalServerErr, "the callback connection was lost"},
		"gateway killed": {"gateway", os.Kill, websocket.CloseAbnormalClosure,
			websocket.CloseInternalServerErr, "the callback connection was lost"},
		"sender stopped": {"simulator", syscall.SIGTERM, websocket.CloseGoingAway,
			websocket.CloseGoingAway, "the simulator shuts down"},
		"sender killed": {"simulator", os.Kill, websocket.CloseGoingAway,
			websocket.CloseAbnormalClosure, ""},
	} {
		t.Run(name, func(t *testing.T) {
			if runtime.GOOS == "windows" && test.signal == syscall.SIGTERM {
				t.Skip("no process can be asked to stop there")
			}
			s := newService(t)
			l := start(t, setup{upstream: s.addr, gateway: plainAuth, apart: test.process})
			live := begin(t, l, s)
			toBackend, toSpeaker := listening(live.backend.Conn, atOnce), listening(live.speaker, atOnce)
			require.NoError(t, l.process.Process.Signal(test.signal))

			backend := <-toBackend
			require.Equal(t, test.toBackend, backend.code, backend.reason)
			speaker := <-toSpeaker
			require.Equal(t, test.toSpeaker, speaker.code, speaker.reason)
			require.Contains(t, speaker.reason, test.reason)
			l.requireNothingLive()
			take(t, l.process.Ended())
			if test.signal == syscall.SIGTERM {
				require.True(t, l.process.ProcessState.Success(), "%s", l.process.ProcessState)
			}
		})
	}
}

// A message that breaks a rule of the gateway ends the stream with the close code for that.
func TestGatewayEndsAStreamThatBreaksItsRules(t *testing.T) {
	s, wire := newService(t), newTap(t)
	l := start(t, setup{
		upstream: s.addr,
		gateway:  plainAuth + "stream {\nmax_message 300B\n}",
		tap:      wire,
	})
	live := l.open(s, "ws")
	toSpeaker := listening(live.speaker, atOnce)
	sayUntilTheEnd(live.speaker, 6)
	h := listen(live.backend.Conn, atOnce)
	require.Empty(t, h.messages)
	require.Equal(t, websocket.CloseInternalServerErr, h.code, h.reason)
	require.Equal(t, websocket.CloseInternalServerErr, (<-toSpeaker).code)
	require.True(t,
		wire.sentBack([]byte{websocket.CloseMessageTooBig >> 8, websocket.CloseMessageTooBig & 0xff}))
	require.Equal(t, "violation",
		l.waitFor("stream ended", map[string]any{"ended_by": "caller"})["reason"])
	l.requireNothingLive()
}

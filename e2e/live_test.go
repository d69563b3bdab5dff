package e2e_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/gorilla/websocket"
	"github.com/stretchr/testify/require"

	"github.com/caddy-deepgram/deepgram-callback/internal/bodytest"
)

// everything are query parameters that ask for every kind of message.
var everything = []string{"interim_results", "true", "vad_events", "true",
	"utterance_end_ms", "1000",
	"extra", "callback_secret:s3cret-0123456789"}

// spoken is as many seconds as it takes to hear every kind of message.
const spoken = 15

func TestStreamByPostArrivesInOrder(t *testing.T) {
	s, wire := newService(t), newTap(t)
	l := start(t, setup{upstream: s.addr, gateway: plainAuth, tap: wire})
	want := l.expected(spoken, everything...)
	require.Subset(t, types(want), []string{"SpeechStarted", "Results", "UtteranceEnd", "Metadata"})

	speaker, id := l.speak(append(everything, "callback",
		l.callback("http", login, "/live?room=7"))...)
	toSpeaker := listening(speaker, patience)
	say(t, speaker, spoken)
	finish(t, speaker)
	ended := <-toSpeaker
	require.Equal(t, websocket.CloseNormalClosure, ended.code, ended.reason)
	require.Empty(t, ended.messages, "the results go to the callback alone")

	var got []map[string]any
	for range want {
		sent, arrived := take(t, wire.requests), take(t, s.requests)
		require.Equal(t, sent.body, arrived.body)
		require.Equal(t, "POST", arrived.method)
		require.Equal(t, "/live?room=7", arrived.target)
		got = append(got, arrived.decoded(t))
	}
	require.Equal(t, want, withoutIDs(got))
	require.Equal(t, id, got[len(got)-1]["request_id"])
	require.Empty(t, s.requests)
}

// UtteranceEnd and SpeechStarted carry no `extra`, and so no callback secret. They are refused
// where that is required, and come through where another credential suffices.
func TestCallbackSecretAndMessagesWithoutIt(t *testing.T) {
	withSecret := func(kind string) bool { return kind == "Results" || kind == "Metadata" }
	for name, test := range map[string]struct {
		gateway string
		through func(kind string) bool
	}{
		"alone":          {"callback_secret s3cret-0123456789", withSecret},
		"and a password": {"callback_secret s3cret-0123456789\n" + plainAuth, withSecret},
		"or a password, any of it": {"callback_secret s3cret-0123456789\n" + plainAuth + "require any",
			func(string) bool { return true }},
	} {
		t.Run(name, func(t *testing.T) {
			s, wire := newService(t), newTap(t)
			l := start(t, setup{upstream: s.addr, gateway: test.gateway, tap: wire})
			total := len(l.expected(spoken, everything...))
			speaker, id := l.speak(append(everything, "callback", l.callback("http", login, "/live"))...)
			toSpeaker := listening(speaker, patience)
			say(t, speaker, spoken)
			finish(t, speaker)
			ended := <-toSpeaker
			require.Equal(t, websocket.CloseNormalClosure, ended.code,
				"a refused message does not end the stream: %s", ended.reason)

			refused := 0
			for range total {
				sent := take(t, wire.requests)
				if kind := sent.decoded(t)["type"].(string); !test.through(kind) {
					refused++
					continue
				}
				require.Equal(t, sent.body, take(t, s.requests).body)
			}
			require.Empty(t, s.requests)
			require.Len(t, l.lines("callback delivered", map[string]any{"request_id": id}), total-refused)
			require.Len(t, l.lines("callback attempt failed",
				map[string]any{"request_id": id, "status": 401.0}), refused)
		})
	}
}

func TestStreamByWebSocketArrivesWholeAndInOrder(t *testing.T) {
	for name, test := range map[string]struct {
		gateway  string
		frontTLS bool
		backTLS  bool
		log      bool
	}{
		"ws":                         {gateway: plainAuth},
		"wss":                        {gateway: plainAuth, frontTLS: true},
		"ws and the access log":      {gateway: plainAuth, log: true},
		"wss and the access log":     {gateway: plainAuth, frontTLS: true, log: true},
		"wss, and to the service":    {gateway: plainAuth, frontTLS: true, backTLS: true},
		"ws, and wss to the service": {gateway: plainAuth, backTLS: true},
		"ws with a secret in it":     {gateway: plainAuth + "callback_secret s3cret-0123456789"},
		"wss with a secret in it": {gateway: plainAuth + "callback_secret s3cret-0123456789",
			frontTLS: true},
		"ws with a hashed password too": {gateway: hashedAuth + plainAuth},
	} {
		t.Run(name, func(t *testing.T) {
			a := newAuthority(t)
			s, with, scheme := newService(t), setup{gateway: test.gateway, log: test.log}, "ws"
			with.upstream = s.addr
			if test.frontTLS {
				with.tls, scheme = a, "wss"
			}
			if test.backTLS {
				s = newTLSService(t, a)
				with.upstream = ""
				with.gateway += "relay https://" + s.addr +
					" {\ntransport http {\ntls_trust_pool file " + a.certFile + "\n}\n}\n"
			}
			l := start(t, with)
			want := l.expected(spoken, everything...)

			live := l.open(s, scheme, everything...)
			require.Equal(t, "/live?room=7", live.backend.target)
			require.Equal(t, apiKeyID, live.backend.header.Get("Dg-Token"))
			require.Empty(t, live.backend.header.Get("Authorization"))
			toBackend, toSpeaker := listening(live.backend.Conn, patience), listening(live.speaker, patience)
			say(t, live.speaker, spoken)
			finish(t, live.speaker)

			got := <-toBackend
			require.Equal(t, want, withoutIDs(got.messages))
			require.Equal(t, websocket.CloseNormalClosure, got.code, got.reason)
			last := got.messages[len(got.messages)-1]
			require.Equal(t, "Metadata", last["type"])
			require.Equal(t, live.id, last["request_id"])
			ended := <-toSpeaker
			require.Equal(t, websocket.CloseNormalClosure, ended.code, ended.reason)
			require.Empty(t, ended.messages)

			line := l.waitFor("stream ended", map[string]any{"ended_by": "caller"})
			require.Equal(t, "closed", line["reason"])
			require.Equal(t, float64(len(want)), line["messages_from_caller"])
			if test.log {
				l.waitFor("handled request", map[string]any{"status": 101.0})
			}
		})
	}
}

// The handshake lets a stream in, but its messages wait until one of them has carried the callback
// secret.
func TestStreamWithAWrongCallbackSecretGivesTheBackendNothing(t *testing.T) {
	s, wire := newService(t), newTap(t)
	l := start(t, setup{
		upstream: s.addr,
		gateway:  plainAuth + "callback_secret s3cret-0123456789",
		tap:      wire,
	})
	live := l.open(s, "ws", "vad_events", "true", "extra", "callback_secret:wrong")
	toBackend, toSpeaker := listening(live.backend.Conn, atOnce), listening(live.speaker, atOnce)
	sayUntilTheEnd(live.speaker, 3)

	got := <-toBackend
	require.Empty(t, got.messages)
	require.Equal(t, websocket.CloseInternalServerErr, got.code, got.reason)
	ended := <-toSpeaker
	require.Equal(t, websocket.CloseInternalServerErr, ended.code, ended.reason)
	require.Contains(t, ended.reason, "callback")
	require.Equal(t, "refused",
		l.waitFor("stream ended", map[string]any{"ended_by": "caller"})["reason"])
	require.True(t,
		wire.sentBack([]byte{websocket.ClosePolicyViolation >> 8, websocket.ClosePolicyViolation & 0xff}))
}

func TestStreamToADeadBackendIsNotOpened(t *testing.T) {
	l := start(t, setup{upstream: freeAddr(t), gateway: plainAuth})
	_, res, err := l.dial("callback", l.callback("ws", login, "/live"))
	require.ErrorIs(t, err, websocket.ErrBadHandshake)
	require.Equal(t, 502, res.StatusCode)
	require.Equal(t, "handshake answered 502", l.waitFor("callback connection failed", nil)["error"])
}

func TestStreamsAreNeverShared(t *testing.T) {
	const streams = 16
	s := newService(t)
	l := start(t, setup{upstream: s.addr, gateway: plainAuth})
	var speaking sync.WaitGroup
	ids := make(chan string, streams)
	for range streams {
		speaking.Go(func() {
			speaker, id := l.speak("callback", l.callback("ws", login, "/live"))
			ids <- id
			say(t, speaker, 10)
			finish(t, speaker)
			listen(speaker, patience)
		})
	}
	heardOf := make(map[string]bool)
	for range streams {
		h := listen(take(t, s.streams).Conn, patience)
		require.Equal(t, websocket.CloseNormalClosure, h.code, h.reason)
		id := h.messages[len(h.messages)-1]["request_id"].(string)
		for _, message := range h.messages[:len(h.messages)-1] {
			require.Equal(t, id, message["metadata"].(map[string]any)["request_id"])
		}
		heardOf[id] = true
	}
	speaking.Wait()
	for range streams {
		require.True(t, heardOf[<-ids])
	}
	require.EqualValues(t, streams, s.connections.Load())
}

// A reload changes the rules for new streams, and nothing for live ones.
func TestReloadLeavesStreamsAlone(t *testing.T) {
	s, other := newService(t), newService(t)
	l := start(t, setup{upstream: s.addr, gateway: plainAuth})
	want := l.expected(12)
	live := l.open(s, "ws")
	say(t, live.speaker, 6)
	l.reload(func(s *setup) { s.upstream = other.addr })
	say(t, live.speaker, 6)
	finish(t, live.speaker)
	h := listen(live.backend.Conn, patience)
	require.Equal(t, want, withoutIDs(h.messages))
	require.Equal(t, websocket.CloseNormalClosure, h.code, h.reason)
	require.Equal(t, websocket.CloseNormalClosure, listen(live.speaker, patience).code)

	next := l.open(other, "ws")
	require.NoError(t, next.backend.Close())
	require.Equal(t, websocket.CloseInternalServerErr, listen(next.speaker, atOnce).code)
}

func TestDuplicatesOfAStreamByPostArriveTwice(t *testing.T) {
	s := newService(t)
	l := start(t, setup{upstream: s.addr, gateway: plainAuth, simulator: "fault duplicate"})
	speaker, _ := l.speak("callback", l.callback("http", login, "/live"))
	say(t, speaker, 5)
	finish(t, speaker)
	require.Equal(t, websocket.CloseNormalClosure, listen(speaker, patience).code)
	for last := ""; last != "Metadata"; {
		first, second := take(t, s.requests), take(t, s.requests)
		require.Equal(t, first.body, second.body)
		last = first.decoded(t)["type"].(string)
	}
	require.Empty(t, s.requests)
}

// If a sender does not close its stream, that lives on until the backend closes it.
func TestNeverCloseIsEndedByTheBackend(t *testing.T) {
	s := newService(t)
	l := start(t, setup{upstream: s.addr, gateway: plainAuth, simulator: "fault never_close"})
	live := l.open(s, "ws")
	say(t, live.speaker, 5)
	finish(t, live.speaker)
	require.Equal(t, websocket.CloseNormalClosure, listen(live.speaker, patience).code)
	for kind := ""; kind != "Metadata"; {
		var message map[string]any
		require.NoError(t, live.backend.ReadJSON(&message))
		kind = message["type"].(string)
	}

	// The stream still lives: a ping goes to the sender, and its pong comes back.
	pong := make(chan string, 1)
	live.backend.SetPongHandler(func(text string) error { pong <- text; return nil })
	require.NoError(t, live.backend.WriteControl(websocket.PingMessage, []byte("there?"), deadline()))
	ended := listening(live.backend.Conn, patience)
	require.Equal(t, "there?", take(t, pong))
	require.Empty(t, ended)
	require.Empty(t, l.lines("stream ended", nil))

	require.NoError(t, live.backend.WriteControl(websocket.CloseMessage,
		websocket.FormatCloseMessage(1000, "enough"), deadline()))
	h := take(t, ended)
	require.Equal(t, websocket.CloseNormalClosure, h.code, h.reason)
	require.Equal(t, "enough",
		l.waitFor("stream ended", map[string]any{"ended_by": "backend"})["close_text"])
	l.waitFor("stream ended", map[string]any{"request_id": live.id, "reason": "complete"})
}

func TestSlowStreamArrivesWhole(t *testing.T) {
	s := newService(t)
	l := start(t, setup{upstream: s.addr, gateway: plainAuth, simulator: "fault slow_upload 50KB"})
	want := l.expected(12)
	live := l.open(s, "ws")
	toBackend := listening(live.backend.Conn, patience)
	say(t, live.speaker, 12)
	finish(t, live.speaker)
	h := <-toBackend
	require.Equal(t, want, withoutIDs(h.messages))
	require.Equal(t, websocket.CloseNormalClosure, h.code, h.reason)
}

func TestSentStreamArrivesInOrder(t *testing.T) {
	folder := bodytest.Folder(t)
	var transcripts []any
	for i := 1; ; i++ {
		content, err := os.ReadFile(filepath.Join(folder, fmt.Sprintf("stream-results-%d.json", i)))
		if err != nil {
			break
		}
		var message map[string]any
		require.NoError(t, json.Unmarshal(content, &message))
		transcripts = append(transcripts, message["channel"])
	}
	require.NotEmpty(t, transcripts)
	s := newService(t)
	l := start(t, setup{upstream: s.addr, gateway: plainAuth, simulator: "results " + folder})
	check := func(messages []map[string]any) {
		require.Len(t, messages, len(transcripts)+1)
		for i, message := range messages[:len(transcripts)] {
			require.Equal(t, transcripts[i], message["channel"])
		}
		require.Equal(t, "Metadata", messages[len(transcripts)]["type"])
	}

	live := l.open(s, "ws")
	toBackend := listening(live.backend.Conn, patience)
	say(t, live.speaker, 5)
	finish(t, live.speaker)
	h := <-toBackend
	require.Equal(t, websocket.CloseNormalClosure, h.code, h.reason)
	check(h.messages)

	speaker, _ := l.speak("callback", l.callback("http", login, "/live"))
	say(t, speaker, 5)
	finish(t, speaker)
	require.Equal(t, websocket.CloseNormalClosure, listen(speaker, patience).code)
	var posted []map[string]any
	for range len(transcripts) + 1 {
		posted = append(posted, take(t, s.requests).decoded(t))
	}
	check(posted)
}

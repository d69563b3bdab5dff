package simulator

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gorilla/websocket"
	"github.com/stretchr/testify/require"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-deepgram/deepgram-callback/simulator/audio"
)

// raw are the parameters of the audio that sayLinear16 sends.
var raw = []string{"encoding", "linear16", "sample_rate", "8000", "punctuate", "true"}

func TestSpeakerHearsItsResults(t *testing.T) {
	e := serve(t, &Simulator{})
	conn, resp := e.speak(append(raw, "model", "nova-3", "extra", "k:v")...)
	id := resp.Header.Get("dg-request-id")
	require.Regexp(t, uuidShape, id)
	sayLinear16(t, conn, 12, 3200)
	say(t, conn, `{ "type": "CloseStream" }`)
	h := listenTo(conn)

	requireClosed(t, h.err, websocket.CloseNormalClosure)
	require.Equal(t, "Metadata", h.types()[len(h.types())-1])
	require.True(t, strings.HasPrefix(h.transcript(),
		"This is a simulated transcript. Nobody listened to the audio, and nothing was"), h.transcript())

	// The messages have the members of the vendor's: none is missing, and only `simulated` is
	// added.
	end := 0.0
	for _, raw := range h.raw[:len(h.raw)-1] {
		var r streamResults
		decodeStrictly(t, raw, &r)
		require.Equal(t, "Results", r.Type)
		require.Equal(t, id, r.Metadata.RequestID)
		require.Equal(t, map[string]string{"k": "v"}, r.Metadata.Extra)
		require.True(t, r.Metadata.Simulated)
		require.Equal(t, [2]int{0, 1}, r.ChannelIndex)
		require.True(t, r.IsFinal, "no interim results unless asked for")
		require.InDelta(t, end, r.Start, 1e-6, "results follow each other without a gap")
		end = r.Start + r.Duration
	}
	require.InDelta(t, 12, end, 1e-6)
	var m listenMetadata
	decodeStrictly(t, h.raw[len(h.raw)-1], &m)
	require.Equal(t, id, m.RequestID)
	require.Equal(t, 12.0, m.Duration)
	require.Len(t, m.SHA256, 64)
}

func decodeStrictly(t *testing.T, raw string, into any) {
	t.Helper()
	decoder := json.NewDecoder(strings.NewReader(raw))
	decoder.DisallowUnknownFields()
	require.NoError(t, decoder.Decode(into), raw)
}

func TestStreamEventsComeInTheirOrder(t *testing.T) {
	e := serve(t, &Simulator{})
	conn, _ := e.speak(append(raw, "interim_results", "true", "vad_events", "true",
		"utterance_end_ms", "1000")...)
	sayLinear16(t, conn, 20, 16000)
	say(t, conn, `{"type":"CloseStream"}`)
	h := listenTo(conn)

	require.Equal(t, "SpeechStarted", h.types()[0])
	var started speechStarted
	decodeStrictly(t, h.raw[0], &started)
	require.Equal(t, leadIn, started.Timestamp)

	interims, utteranceEnds, lastWord := 0, 0, 0.0
	for i, m := range h.messages {
		switch m["type"] {
		case "Results":
			if m["is_final"] == false {
				interims++
				require.Equal(t, false, m["speech_final"])
				final := nextFinal(h.messages[i:])
				require.True(t, strings.HasPrefix(transcriptIn(final), transcriptIn(m)),
					"an interim result is the beginning of the final one")
				continue
			}
			var r streamResults
			decodeStrictly(t, h.raw[i], &r)
			if words := r.Channel.Alternatives[0].Words; len(words) > 0 {
				lastWord = words[len(words)-1].End
			}
		case "UtteranceEnd":
			utteranceEnds++
			require.Equal(t, lastWord, m["last_word_end"])
		}
	}
	require.GreaterOrEqual(t, interims, 5)
	require.GreaterOrEqual(t, utteranceEnds, 2, "after the paragraph and at the end")
	require.Equal(t, []string{"UtteranceEnd", "Metadata"}, h.types()[len(h.types())-2:])
}

func nextFinal(messages []map[string]any) map[string]any {
	for _, m := range messages {
		if m["is_final"] == true {
			return m
		}
	}
	return nil
}

// The results depend on the audio, and not on how it is cut into messages.
func TestStreamIsDeterministic(t *testing.T) {
	e := serve(t, &Simulator{})
	listen := func(piece int) []map[string]any {
		conn, _ := e.speak(append(raw, "interim_results", "true", "utterance_end_ms", "1000",
			"vad_events", "true")...)
		sayLinear16(t, conn, 15, piece)
		say(t, conn, `{"type":"CloseStream"}`)
		h := listenTo(conn)
		for _, m := range h.messages {
			delete(m, "request_id")
			delete(m, "created")
			if metadata, ok := m["metadata"].(map[string]any); ok {
				delete(metadata, "request_id")
			}
		}
		return h.messages
	}
	require.Equal(t, listen(1000), listen(100_000))
}

func TestFinalizeBringsWhatWasHeard(t *testing.T) {
	e := serve(t, &Simulator{})
	conn, _ := e.speak(raw...)
	sayLinear16(t, conn, 1.2, 1000)
	say(t, conn, `{"type":"Finalize"}`)
	_, body, err := conn.ReadMessage()
	require.NoError(t, err)
	var first streamResults
	decodeStrictly(t, string(body), &first)
	require.True(t, first.FromFinalize && first.IsFinal)
	require.NotEmpty(t, first.Channel.Alternatives[0].Words)

	sayLinear16(t, conn, 10, 1000)
	say(t, conn, `{"type":"CloseStream"}`)
	h := listenTo(conn)
	whole := first.Channel.Alternatives[0].Transcript + " " + h.transcript()
	require.True(t, strings.HasPrefix(whole, "This is a simulated transcript. Nobody listened"),
		"no word is lost or doubled: %s", whole)
}

func TestMultichannelStream(t *testing.T) {
	e := serve(t, &Simulator{})
	conn, _ := e.speak(append(raw, "channels", "2", "multichannel", "true")...)
	sayLinear16(t, conn, 6, 8000) // three seconds of two channels
	say(t, conn, `{"type":"CloseStream"}`)
	h := listenTo(conn)
	seen := map[string]bool{}
	for _, m := range h.messages[:len(h.messages)-1] {
		seen[fmt.Sprint(m["channel_index"])] = true
	}
	require.Equal(t, map[string]bool{"[0 2]": true, "[1 2]": true}, seen)
	require.Equal(t, 3.0, h.messages[len(h.messages)-1]["duration"])
}

func TestStreamOfAWAVFile(t *testing.T) {
	e := serve(t, &Simulator{})
	conn, _ := e.speak("punctuate", "true")
	file := wav(2, 44100, 4)
	require.NoError(t, conn.WriteMessage(websocket.BinaryMessage, file[:10]))
	require.NoError(t, conn.WriteMessage(websocket.BinaryMessage, file[10:]))
	require.NoError(t, conn.WriteMessage(websocket.BinaryMessage, nil),
		"an empty message ends a stream, too")
	h := listenTo(conn)
	requireClosed(t, h.err, websocket.CloseNormalClosure)
	require.Equal(t, 4.0, h.messages[len(h.messages)-1]["duration"])
}

func TestStreamWithoutAudioHasOnlyMetadata(t *testing.T) {
	e := serve(t, &Simulator{})
	conn, _ := e.speak(raw...)
	say(t, conn, `{"type":"KeepAlive"}`)
	say(t, conn, `{"type":"CloseStream"}`)
	h := listenTo(conn)
	require.Equal(t, []string{"Metadata"}, h.types())
	require.Equal(t, 0.0, h.messages[0]["channels"])
}

func TestStreamWaitsTenSecondsForAudioOrAKeepAlive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		meter, err := audio.NewMeter(nil)
		require.NoError(t, err)
		l := &live{
			idle:   streamIdleTimeout,
			inputs: make(chan input),
			meter:  meter,
			script: newStoryScript("id", options{}, 1, builtInStory(t)),
			send:   func(context.Context, []byte) error { return nil },
		}
		start := time.Now()
		go func() {
			for range 3 {
				time.Sleep(9 * time.Second)
				l.inputs <- input{}
			}
		}()
		require.Equal(t, endIdle, l.talk(t.Context()))
		require.Equal(t, 37*time.Second, time.Since(start))
		require.Equal(t, 1, l.messages, "the metadata comes all the same")
	})
}

func TestSilentSpeakerIsToldWhy(t *testing.T) {
	e := serve(t, &Simulator{})
	e.sim.idle = 50 * time.Millisecond
	conn, _ := e.speak(raw...)
	h := listenTo(conn)
	requireClosed(t, h.err, websocket.CloseInternalServerErr)
	require.ErrorContains(t, h.err, "NET-0001")
}

func TestUnknownControlMessageIsClosed(t *testing.T) {
	e := serve(t, &Simulator{})
	for _, text := range []string{"hello", `{"type":"Nonsense"}`, `[]`,
		strings.Repeat(" ", maxControl) + `{"type":"KeepAlive"}`} {
		conn, _ := e.speak(raw...)
		say(t, conn, text)
		h := listenTo(conn)
		requireClosed(t, h.err, websocket.ClosePolicyViolation)
	}
}

func TestStreamHandshakeIsRefused(t *testing.T) {
	e := serve(t, &Simulator{Ports: defaultPorts, APIKeys: []APIKey{{"a-key", "id"}}})
	for _, test := range []struct {
		query  []string
		status int
	}{
		{[]string{"callback", "ftp://localhost/"}, 400},
		{[]string{"callback", "wss://localhost:3000/"}, 400},
		{[]string{"utterance_end_ms", "soon"}, 400},
		{[]string{"encoding", "morse"}, 400},
	} {
		_, resp, err := e.dialStream(test.query...)
		require.ErrorIs(t, err, websocket.ErrBadHandshake)
		require.Equal(t, test.status, resp.StatusCode)
		require.NotEmpty(t, resp.Header.Get("dg-error"))
		require.Regexp(t, uuidShape, resp.Header.Get("dg-request-id"))
	}

	target := strings.Replace(e.url, "http", "ws", 1) + "/v1/listen"
	_, resp, err := websocket.DefaultDialer.Dial(target, http.Header{"Authorization": {"Token wrong"}})
	require.ErrorIs(t, err, websocket.ErrBadHandshake)
	require.Equal(t, http.StatusUnauthorized, resp.StatusCode)

	browser := websocket.Dialer{Subprotocols: []string{"token", "a-key"}}
	conn, resp, err := browser.Dial(target, http.Header{"Origin": {"https://elsewhere.example"}})
	require.NoError(t, err,
		"a browser sends its key as a subprotocol, and a page of anywhere may where one is configured")
	require.Equal(t, "token", resp.Header.Get("Sec-Websocket-Protocol"))
	require.NoError(t, conn.Close())
}

func TestBrokenHandshakeIsAnsweredInTheVendorsShape(t *testing.T) {
	e := serve(t, &Simulator{})
	receiver := newSocketReceiver(t)
	req, err := http.NewRequest(http.MethodGet,
		e.url+"/v1/listen?"+pairs([]string{"callback", receiver.with("", "/")}).Encode(), nil)
	require.NoError(t, err)
	for name, value := range map[string]string{
		"Authorization":         "Token k",
		"Connection":            "Upgrade",
		"Upgrade":               "websocket",
		"Sec-WebSocket-Version": "8",
	} {
		req.Header.Set(name, value)
	}
	ended := make(chan error, 1)
	go func() { ended <- listenTo((<-receiver.got).conn).err }()
	a := e.do(req)
	requireError(t, a, http.StatusBadRequest, "Bad Request")
	require.Equal(t, "13", a.header.Get("Sec-WebSocket-Version"))
	requireClosed(t, take(t, ended), websocket.CloseGoingAway)
}

func TestStreamByPostKeepsItsOrder(t *testing.T) {
	e := serve(t, &Simulator{})
	receiver := newReceiver(t, 200, 500, 200)
	conn, resp := e.speak(append(raw, "interim_results", "true", "callback",
		receiver.with("u:p@", "/stream?x=y"))...)
	sayLinear16(t, conn, 12, 3200)
	say(t, conn, `{"type":"CloseStream"}`)
	toSpeaker := listenTo(conn)
	require.Empty(t, toSpeaker.messages, "the results go to the callback alone")
	requireClosed(t, toSpeaker.err, websocket.CloseNormalClosure)

	var h heard
	for len(h.messages) == 0 || h.messages[len(h.messages)-1]["type"] != "Metadata" {
		got := receiver.next(t)
		require.Equal(t, http.MethodPost, got.method)
		require.Equal(t, "/stream?x=y", got.uri)
		require.Equal(t, "Basic dTpw", got.header.Get("Authorization"))
		require.NotEmpty(t, got.header.Get("dg-token"))
		h.messages = append(h.messages, got.json(t))
	}
	require.Empty(t, receiver.got)
	require.Equal(t, resp.Header.Get("dg-request-id"), h.messages[len(h.messages)-1]["request_id"])
	require.Contains(t, h.transcript(), "This is a simulated transcript. Nobody listened to the audio")
	last := 0.0
	for _, m := range h.messages[:len(h.messages)-1] {
		end := m["start"].(float64) + m["duration"].(float64)
		require.GreaterOrEqual(t, end, last)
		last = end
	}
	require.Equal(t, 1, e.logs.FilterMessage("callback attempt failed").Len(),
		"a result is tried once, and its failure does not end the stream")
}

// bridge opens a stream whose results go to a WebSocket.
func bridge(
	t *testing.T, s *Simulator, query ...string,
) (e *env, speaker *websocket.Conn, callback accepted, id string) {
	t.Helper()
	e = serve(t, s)
	receiver := newSocketReceiver(t)
	speaker, resp := e.speak(append(append(raw, "callback", receiver.with("us:er@", "/live?x=y%20z")),
		query...)...)
	return e, speaker, take(t, receiver.got), resp.Header.Get("dg-request-id")
}

func TestStreamByWebSocket(t *testing.T) {
	_, speaker, callback, id := bridge(t, &Simulator{APIKeys: []APIKey{{"a-key", "a-key-id"}}},
		"vad_events", "true", "interim_results", "true")
	require.Equal(t, "/live?x=y%20z", callback.uri)
	require.Equal(t, "Basic dXM6ZXI=", callback.header.Get("Authorization"))
	require.Equal(t, "a-key-id", callback.header.Get("dg-token"))

	sayLinear16(t, speaker, 9, 3200)
	say(t, speaker, `{"type":"CloseStream"}`)
	h := listenTo(callback.conn)
	requireClosed(t, h.err, websocket.CloseNormalClosure)
	require.Equal(t, "SpeechStarted", h.types()[0])
	require.Equal(t, "Metadata", h.types()[len(h.types())-1])
	require.Equal(t, id, h.messages[len(h.messages)-1]["request_id"])
	require.Contains(t, h.transcript(), "This is a simulated transcript.")

	toSpeaker := listenTo(speaker)
	require.Empty(t, toSpeaker.messages)
	requireClosed(t, toSpeaker.err, websocket.CloseNormalClosure)
}

func TestDeadCallbackServerRefusesTheSpeaker(t *testing.T) {
	e := serve(t, &Simulator{})
	refusing := newReceiver(t, http.StatusUnauthorized)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	require.NoError(t, listener.Close())
	for _, target := range []string{"ws://" + listener.Addr().String() + "/",
		strings.Replace(refusing.URL, "http", "ws", 1) + "/?secret=hunter2"} {
		_, resp, err := e.dialStream(append(raw, "callback", target)...)
		require.ErrorIs(t, err, websocket.ErrBadHandshake)
		require.Equal(t, http.StatusBadGateway, resp.StatusCode)
	}
	failed := e.logs.FilterMessage("callback connection failed").All()
	require.Len(t, failed, 2)
	require.Equal(t, "handshake answered 401", failed[1].ContextMap()["error"])
	require.NotContains(t, fmt.Sprint(failed[1].ContextMap()), "hunter2")
}

func TestLostCallbackKillsTheStream(t *testing.T) {
	for name, end := range map[string]func(*websocket.Conn){
		"close frame": func(c *websocket.Conn) {
			_ = c.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(1000, ""),
				time.Now().Add(patience))
		},
		"dropped": func(c *websocket.Conn) { _ = c.NetConn().Close() },
		"reset": func(c *websocket.Conn) {
			_ = c.NetConn().(*net.TCPConn).SetLinger(0)
			_ = c.NetConn().Close()
		},
	} {
		t.Run(name, func(t *testing.T) {
			e, speaker, callback, _ := bridge(t, &Simulator{})
			sayLinear16(t, speaker, 1, 3200)
			start := time.Now()
			end(callback.conn)
			h := listenTo(speaker)
			requireClosed(t, h.err, websocket.CloseInternalServerErr)
			require.Less(t, time.Since(start), patience/2)
			require.Empty(t, h.messages)
			requireEnded(t, e, endCallbackLost)
		})
	}
}

func requireEnded(t *testing.T, e *env, end *ending) {
	t.Helper()
	require.Eventually(t, func() bool { return e.logs.FilterMessage("stream ended").Len() == 1 },
		patience, time.Millisecond)
	require.Equal(t, end.reason, e.logs.FilterMessage("stream ended").All()[0].ContextMap()["reason"])
}

func TestVanishedSpeakerEndsTheCallbackProperly(t *testing.T) {
	for name, end := range map[string]func(*websocket.Conn){
		"close frame": func(c *websocket.Conn) {
			_ = c.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(1000, ""),
				time.Now().Add(patience))
		},
		"dropped": func(c *websocket.Conn) { _ = c.NetConn().Close() },
		"within a message": func(c *websocket.Conn) {
			w, _ := c.NextWriter(websocket.BinaryMessage)
			_, _ = w.Write(make([]byte, 8000))
			_ = c.NetConn().Close()
		},
	} {
		t.Run(name, func(t *testing.T) {
			e, speaker, callback, _ := bridge(t, &Simulator{})
			sayLinear16(t, speaker, 5, 3200)
			end(speaker)
			h := listenTo(callback.conn)
			requireClosed(t, h.err, websocket.CloseNormalClosure)
			require.Equal(t, "Metadata", h.types()[len(h.types())-1],
				"the last messages come before the end")
			require.Contains(t, h.transcript(), "Nobody")
			requireEnded(t, e, endSpeakerGone)
		})
	}
}

func TestDropAfterFault(t *testing.T) {
	_, speaker, callback, _ := bridge(t, &Simulator{Faults: Faults{DropAfter: 2}})
	go func() {
		// The connection may end before all audio is sent.
		for range 100 {
			if speaker.WriteMessage(websocket.BinaryMessage, make([]byte, 16000)) != nil {
				return
			}
		}
	}()
	h := listenTo(callback.conn)
	require.Equal(t, []string{"Results", "Results"}, h.types())
	requireClosed(t, h.err, websocket.CloseAbnormalClosure) // which is no Close frame at all
	require.Error(t, listenTo(speaker).err)
}

func TestNeverCloseFaultLeavesTheCallbackOpen(t *testing.T) {
	e, speaker, callback, _ := bridge(t, &Simulator{Faults: Faults{NeverClose: true}})
	sayLinear16(t, speaker, 2, 3200)
	say(t, speaker, `{"type":"CloseStream"}`)
	requireClosed(t, listenTo(speaker).err, websocket.CloseNormalClosure)

	for {
		_, body, err := callback.conn.ReadMessage()
		require.NoError(t, err)
		if strings.Contains(string(body), `"Metadata"`) {
			break
		}
	}
	pong := make(chan string, 1)
	callback.conn.SetPongHandler(func(text string) error { pong <- text; return nil })
	require.NoError(t, callback.conn.WriteControl(websocket.PingMessage, []byte("there?"),
		time.Now().Add(patience)))
	ended := make(chan error, 1)
	go func() { ended <- listenTo(callback.conn).err }()
	require.Equal(t, "there?", take(t, pong))
	require.Empty(t, ended)
	require.Zero(t, e.logs.FilterMessage("stream ended").Len())

	require.NoError(t, callback.conn.WriteControl(websocket.CloseMessage,
		websocket.FormatCloseMessage(1000, ""), time.Now().Add(patience)))
	requireClosed(t, take(t, ended), websocket.CloseNormalClosure)
	requireEnded(t, e, endComplete)
}

// While a callback server reads nothing, the speaker is not read from either, and memory does not
// grow. After the time limit the stream ends.
func TestStalledCallbackIsLost(t *testing.T) {
	e, speaker, callback, _ := bridge(t, &Simulator{Timeout: caddy.Duration(200 * time.Millisecond)},
		"interim_results", "true")
	_ = callback
	go func() {
		sound := make([]byte, 1<<20)
		for speaker.WriteMessage(websocket.BinaryMessage, sound) == nil {
		}
	}()
	h := listenTo(speaker)
	require.Error(t, h.err)
	requireEnded(t, e, endCallbackLost)
}

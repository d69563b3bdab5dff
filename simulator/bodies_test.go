package simulator

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/gorilla/websocket"
	"github.com/stretchr/testify/require"

	"github.com/caddy-deepgram/deepgram-callback/simulator/audio"
)

// folder writes a folder of bodies.
func folder(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "bodies [1]*?") // nothing in a path is a pattern
	require.NoError(t, os.Mkdir(dir, 0o755))
	for name, content := range files {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644))
	}
	return dir
}

const ownPrerecorded = `{
	"metadata": {"request_id": "theirs", "duration": 1.50, "sha256": "abc"},
	"results": {"channels": [{"alternatives": [
		{"transcript": "my <own> words", "confidence": 1.0, "words": []}
	]}]},
	"other": null
}`

func TestOwnBodiesAreSent(t *testing.T) {
	e := serve(t, &Simulator{Results: folder(t, map[string]string{
		"prerecorded-call.json": ownPrerecorded,
		"read.json":             `{"results":{"summary":{"text":"my summary"}}}`,
		"speak.mp3":             "\xff\xfbmy audio",
		"README.md":             "not a body",
		"prerecorded.txt":       "not a body either",
	})})

	a := e.post("/v1/listen", "audio/wav", bytes.NewReader(wav(1, 8000, 9)), "extra",
		"a:b", "tag", "t")
	decoded := a.json(t)
	require.Equal(t, map[string]any{
		"request_id": a.header.Get("dg-request-id"), "duration": 1.5, "sha256": "abc",
		"extra": map[string]any{"a": "b"}, "tags": []any{"t"}, "simulated": true,
	}, decoded["metadata"])
	require.Contains(t, string(a.body), "1.50", "numbers stay as they are written")
	require.Contains(t, decoded, "other")
	var own struct {
		Results struct {
			Channels []channelResult
		}
	}
	require.NoError(t, json.Unmarshal(a.body, &own))
	require.Equal(t, "my <own> words", own.Results.Channels[0].Alternatives[0].Transcript)

	a = e.post("/v1/read", "text/plain", strings.NewReader("text"))
	require.Equal(t, a.header.Get("dg-request-id"),
		a.json(t)["metadata"].(map[string]any)["request_id"])
	require.Contains(t, string(a.body), "my summary")

	a = e.post("/v1/speak", "text/plain", strings.NewReader("text"))
	require.Equal(t, "\xff\xfbmy audio", string(a.body))
	require.Equal(t, "audio/mpeg", a.header.Get("Content-Type"))

	conn, _ := e.speak(raw...)
	sayLinear16(t, conn, 3, 3200)
	say(t, conn, `{"type":"CloseStream"}`)
	require.Contains(t, listenTo(conn).transcript(), "simulated",
		"what is not in the folder is built in")
}

// The built-in folder has the form of a user's folder: named by `results`, it gives the
// same results.
func TestTheBuiltInFolderIsOneLikeTheUsers(t *testing.T) {
	builtin, theirs := serve(t, &Simulator{}), serve(t, &Simulator{Results: "builtin"})
	for _, path := range []string{"/v1/listen", "/v1/read", "/v1/speak"} {
		answer := func(e *env) string {
			body := e.post(path, "text/plain", strings.NewReader("text"), "smart_format", "true").body
			return regexp.MustCompile(`"(request_id|created)":"[^"]*"`).ReplaceAllString(string(body), "")
		}
		require.Equal(t, answer(builtin), answer(theirs), path)
	}
}

func TestOneOfSeveralBodiesIsChosenByTheInput(t *testing.T) {
	files := map[string]string{}
	for _, name := range []string{"a", "b", "c"} {
		files["prerecorded-"+name+".json"] = `{"results":{"name":"` + name + `"}}`
	}
	e := serve(t, &Simulator{Results: folder(t, files)})
	ask := func(input string) any {
		return e.post("/v1/listen", "audio/wav",
			strings.NewReader(input)).json(t)["results"].(map[string]any)["name"]
	}
	seen := map[any]bool{}
	for _, input := range strings.Split("abcdefghijklmnopqrstuvwxyz", "") {
		name := ask(input)
		require.Equal(t, name, ask(input))
		seen[name] = true
	}
	require.Len(t, seen, 3)
}

func TestOwnWordsAreSaid(t *testing.T) {
	file := filepath.Join(folder(t, map[string]string{
		"transcript [1]*?.txt": "Hello there. - How are you?\r\n\r\nFine!\n",
	}), "transcript [1]*?.txt")
	e := serve(t, &Simulator{Results: file})
	a := e.post("/v1/listen", "audio/wav", bytes.NewReader(wav(1, 8000, 60)), "smart_format", "true")
	alternative := result(t, a.body).Results.Channels[0].Alternatives[0]
	require.True(t, strings.HasPrefix(alternative.Transcript,
		"Hello there. How are you? Fine! Hello there."), alternative.Transcript)
	require.True(t, strings.HasPrefix(alternative.Paragraphs.Transcript,
		"\nHello there. How are you?\n\nFine!"))
}

func TestOwnStreamIsPlayedAsAudioComes(t *testing.T) {
	results := func(text string, start, duration string) string {
		return `{"type":"Results","start":` + start + `,"duration":` + duration +
			`,"is_final":true,"channel_index":[0,1],` +
			`"channel":{"alternatives":[{"transcript":"` + text +
			`"}]},"metadata":{"request_id":"theirs","model_uuid":"m"}}`
	}
	e := serve(t, &Simulator{Results: folder(t, map[string]string{
		"stream-1.json": results("one", "0.0", "1.0"),
		"stream-2.json": `[{"type":"Metadata","request_id":"theirs","channels":1},` +
			`{"type":"UtteranceEnd","channel":[0,1],"last_word_end":0.9}]`,
		"stream-3.json": results("two", "1.0", "1.0") + "\n" + results("three", "2.0", "100.0"),
	})})
	conn, resp := e.speak(append(raw, "extra", "k:v")...)
	id := resp.Header.Get("dg-request-id")
	sayLinear16(t, conn, 1.5, 3200)
	for _, want := range []string{"one", "UtteranceEnd"} {
		_, body, err := conn.ReadMessage()
		require.NoError(t, err)
		require.Contains(t, string(body), want)
	}
	say(t, conn, `{"type":"CloseStream"}`)
	h := listenTo(conn)
	requireClosed(t, h.err, websocket.CloseNormalClosure)
	require.Equal(t, []string{"Results", "Results", "Metadata"}, h.types())
	require.Equal(t, "two three", h.transcript())
	require.Equal(t, map[string]any{
		"request_id": id,
		"model_uuid": "m",
		"simulated":  true,
		"extra":      map[string]any{"k": "v"},
	}, h.messages[0]["metadata"])
	require.Equal(t, id, h.messages[2]["request_id"])
}

func TestOwnStreamGetsAMetadataWhereItHasNone(t *testing.T) {
	e := serve(t, &Simulator{
		Results: folder(t, map[string]string{
			"stream.json": `{"type":"SpeechStarted","channel":[0],"timestamp":0}`,
		}),
	})
	conn, resp := e.speak(raw...)
	say(t, conn, `{"type":"Finalize"}`)
	say(t, conn, `{"type":"CloseStream"}`)
	h := listenTo(conn)
	require.Equal(t, []string{"SpeechStarted", "Metadata"}, h.types())
	require.Equal(t, resp.Header.Get("dg-request-id"), h.messages[1]["request_id"])
}

func TestBodiesThatCannotBeAreRefusedWhenLoaded(t *testing.T) {
	for name, content := range map[string]string{
		"prerecorded.json":  `[]`,
		"prerecorded2.json": `{"metadata":7}`,
		"read.json":         `{`,
		"stream.json":       `{"type":"Results"}`,
		"stream2.json":      `[{"no":"type"}]`,
		"stream3.json":      `{"type":"Results","start":0,"duration":1,"metadata":"x"}`,
		"transcript.txt":    " -- \n",
		"read2.json":        `{"results":[]}`,
		"unrelated.json":    `{}`,
	} {
		dir := folder(t, map[string]string{name: content})
		_, err := loadBodies(dir)
		require.ErrorContains(t, err, dir, name)
	}
	_, err := loadBodies(filepath.Join(t.TempDir(), "missing"))
	require.ErrorIs(t, err, os.ErrNotExist)
}

// No file of a user's makes the simulator panic, and what it takes can be played.
func FuzzStreamBodies(f *testing.F) {
	f.Add([]byte(`{"type":"Results","start":0,"duration":1}{"type":"Metadata"}`))
	f.Add([]byte(` [{"type":"UtteranceEnd"},` +
		`{"type":"Results","start":1e300,"duration":1,"metadata":null}]`))
	f.Fuzz(func(t *testing.T, content []byte) {
		b := &bodies{}
		if b.addStream("", content) != nil {
			return
		}
		s := newRecordedScript("id", options{extra: map[string]string{"a": "b"}}, b.stream)
		var last string
		emit := func(m message) error {
			require.True(t, json.Valid(m.body))
			last = string(m.body)
			return nil
		}
		require.NoError(t, s.advance(1, emit))
		require.NoError(t, s.finish(audio.Heard{}, emit))
		require.Contains(t, last, `"request_id":"id"`)
	})
}

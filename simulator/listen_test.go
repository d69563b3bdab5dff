package simulator

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2"

	"github.com/caddy-deepgram/deepgram-callback/simulator/audio"
)

var uuidShape = regexp.MustCompile(`^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`)

// result decodes a result, and fails if that has a member that the types here have not.
func result(t *testing.T, body []byte) listenResult {
	t.Helper()
	var decoded listenResult
	decoder := json.NewDecoder(bytes.NewReader(body))
	decoder.DisallowUnknownFields()
	require.NoError(t, decoder.Decode(&decoded))
	return decoded
}

func TestListenAnswersWithASimulatedResult(t *testing.T) {
	e := serve(t, &Simulator{})
	file := wav(1, 8000, 10)
	a := e.post("/v1/listen", "audio/wav", bytes.NewReader(file), "model", "nova-3",
		"unknown_option", "x")
	require.Equal(t, http.StatusOK, a.status)
	require.Equal(t, "application/json", a.header.Get("Content-Type"))

	r := result(t, a.body)
	require.Regexp(t, uuidShape, r.Metadata.RequestID)
	require.Equal(t, r.Metadata.RequestID, a.header.Get("dg-request-id"))
	require.True(t, r.Metadata.Simulated)
	require.Equal(t, 10.0, r.Metadata.Duration)
	require.Equal(t, 1, r.Metadata.Channels)
	require.Equal(t, "simulated-nova-3", r.Metadata.ModelInfo[r.Metadata.Models[0]].Name)
	require.Len(t, r.Metadata.SHA256, 64)
	_, err := time.Parse(time.RFC3339, r.Metadata.Created)
	require.NoError(t, err)

	require.Len(t, r.Results.Channels, 1)
	alternative := r.Results.Channels[0].Alternatives[0]
	require.True(t, strings.HasPrefix(alternative.Transcript,
		"this is a simulated transcript nobody listened"), alternative.Transcript)
	require.Equal(t, len(strings.Fields(alternative.Transcript)), len(alternative.Words))
	last := 0.0
	for _, w := range alternative.Words {
		require.GreaterOrEqual(t, w.Start, last)
		require.Greater(t, w.End, w.Start)
		require.LessOrEqual(t, w.End, 10.0)
		require.Empty(t, w.PunctuatedWord)
		require.Nil(t, w.Speaker)
		last = w.End
	}
	require.Greater(t, last, 5.0, "the words fill the audio")
}

func TestSameInputGivesTheSameResult(t *testing.T) {
	e := serve(t, &Simulator{})
	ask := func() map[string]any {
		a := e.post("/v1/listen", "audio/wav", bytes.NewReader(wav(2, 16000, 8)), "smart_format",
			"true", "utterances", "true", "multichannel", "true", "diarize", "true")
		decoded := a.json(t)
		metadata := decoded["metadata"].(map[string]any)
		delete(metadata, "request_id")
		delete(metadata, "created")
		return decoded
	}
	require.Equal(t, ask(), ask())
}

func TestOptionsShapeTheResult(t *testing.T) {
	e := serve(t, &Simulator{})
	ask := func(query ...string) listenResult {
		a := e.post("/v1/listen", "audio/wav", bytes.NewReader(wav(2, 8000, 60)), query...)
		require.Equal(t, http.StatusOK, a.status, "%s", a.body)
		return result(t, a.body)
	}

	r := ask("smart_format", "true")
	alternative := r.Results.Channels[0].Alternatives[0]
	require.True(t, strings.HasPrefix(alternative.Transcript,
		"This is a simulated transcript. Nobody"))
	require.Equal(t, "transcript.", alternative.Words[4].PunctuatedWord)
	require.Equal(t, "transcript", alternative.Words[4].Word)
	require.NotNil(t, alternative.Paragraphs)
	require.Greater(t, len(alternative.Paragraphs.Paragraphs), 1)
	words := 0
	for _, p := range alternative.Paragraphs.Paragraphs {
		words += p.NumWords
	}
	require.Equal(t, len(alternative.Words), words)
	require.Len(t, r.Results.Channels, 1, "channels are apart only with multichannel")
	require.Equal(t, 2, r.Metadata.Channels)

	r = ask("punctuate", "true")
	require.Nil(t, r.Results.Channels[0].Alternatives[0].Paragraphs)
	require.Contains(t, r.Results.Channels[0].Alternatives[0].Transcript, "transcript.")

	require.Len(t, ask("multichannel", "true").Results.Channels, 2)

	r = ask("utterances", "true", "multichannel", "true")
	ids := map[string]bool{}
	for _, u := range r.Results.Utterances {
		require.Regexp(t, uuidShape, u.ID)
		require.NotEmpty(t, u.Words)
		ids[u.ID] = true
	}
	require.Len(t, ids, len(r.Results.Utterances))

	r = ask("diarize", "true", "paragraphs", "true", "utterances", "true")
	speakers := map[int]bool{}
	for _, w := range r.Results.Channels[0].Alternatives[0].Words {
		require.NotNil(t, w.SpeakerConfidence)
		speakers[*w.Speaker] = true
	}
	require.Len(t, speakers, 2)
	require.NotNil(t, r.Results.Utterances[0].Speaker)
	require.True(t, strings.HasPrefix(r.Results.Channels[0].Alternatives[0].Paragraphs.Transcript,
		"\nSpeaker 0: This"))

	r = ask("tag", "one", "tag", "two", "extra", "callback_secret:s3:cret", "extra", "customer:42",
		"extra", "bare")
	require.Equal(t, []string{"one", "two"}, r.Metadata.Tags)
	require.Equal(t, map[string]string{"callback_secret": "s3:cret", "customer": "42", "bare": ""},
		r.Metadata.Extra)
}

// Real results for half an hour have 0.5 to 1 MB, and often exceed a receiver's limit.
func TestResultsHaveRealisticSizesAndABound(t *testing.T) {
	size := func(hours float64, channels int) int {
		o := options{punctuate: true, utterances: true, multichannel: true}
		body, err := json.Marshal(newListenResult("id", o,
			audio.Heard{Seconds: hours * 3600, Channels: channels}, builtInStory(t)))
		require.NoError(t, err)
		return len(body)
	}
	require.InDelta(t, 750_000, size(0.5, 1), 250_000)
	require.Less(t, size(1000, 1), 16<<20)
	require.Less(t, size(1000, audio.MaxChannels), 16<<20)
}

func TestURLIsNotFetched(t *testing.T) {
	e := serve(t, &Simulator{})
	host := newReceiver(t)
	body := fmt.Sprintf(`{"url": %q}`, host.URL+"/file.wav")
	a := e.post("/v1/listen", "application/json; charset=utf-8", strings.NewReader(body))
	require.Equal(t, http.StatusOK, a.status)
	r := result(t, a.body)
	require.Equal(t, "url", r.Metadata.Warnings[0].Parameter)
	require.NotEmpty(t, r.Results.Channels[0].Alternatives[0].Transcript)
	require.Empty(t, host.got)
}

func requireError(t *testing.T, a answer, status int, code string) {
	t.Helper()
	require.Equal(t, status, a.status, "%s", a.body)
	decoded := a.json(t)
	require.Equal(t, code, decoded["err_code"])
	require.NotEmpty(t, decoded["err_msg"])
	require.Regexp(t, uuidShape, decoded["request_id"])
	require.Equal(t, decoded["request_id"], a.header.Get("dg-request-id"))
	require.JSONEq(t, string(a.body), a.header.Get("dg-error"))
}

func TestErrorsHaveTheVendorsShape(t *testing.T) {
	e := serve(t, &Simulator{Ports: append(defaultPorts, 2019), MaxBody: 1000})
	file := func() io.Reader { return bytes.NewReader(wav(1, 8000, 0.01)) }
	long := strings.Repeat("x", maxJSON)
	for name, test := range map[string]struct {
		got    answer
		status int
		code   string
	}{
		"no audio": {e.post("/v1/listen", "audio/wav", nil), 400, "Bad Request"},
		"URL without type": {e.post("/v1/listen", "", strings.NewReader(`{"url":"http://x"}`)), 400,
			"Bad Request"},
		"broken JSON": {e.post("/v1/listen", "application/json", strings.NewReader(`{"url":`)),
			400, "Bad Request"},
		"JSON without URL": {e.post("/v1/listen", "application/json", strings.NewReader(`{}`)), 400,
			"Bad Request"},
		"too much audio": {e.post("/v1/listen", "audio/wav", bytes.NewReader(make([]byte, 1001))),
			413, "Request Entity Too Large"},
		"too much JSON": {e.post("/v1/listen", "application/json",
			strings.NewReader(`{"url":"`+long+`"}`)), 413, "Request Entity Too Large"},
		"callback's scheme": {e.post("/v1/listen", "audio/wav", file(), "callback", "ws://localhost/"),
			400, "Bad Request"},
		"callback's port": {e.post("/v1/listen", "audio/wav", file(), "callback",
			"http://localhost:9999/"), 400, "Bad Request"},
		"callback's address": {e.post("/v1/listen", "audio/wav", file(), "callback",
			"http://192.0.2.1/"), 400, "Bad Request"},
		"callback's method": {e.post("/v1/listen", "audio/wav", file(), "callback",
			"http://localhost/", "callback_method", "patch"), 400, "Bad Request"},
		"encoding": {e.post("/v1/listen", "audio/wav", file(), "encoding", "morse"), 400, "Bad Request"},
		"speak without text": {e.post("/v1/speak", "application/json",
			strings.NewReader(`{"text":" "}`)), 400, "Bad Request"},
		"speak's callback": {e.post("/v1/speak", "text/plain", strings.NewReader("Hi"), "callback",
			"wss://localhost/"), 400, "Bad Request"},
		"speak's length": {e.post("/v1/speak", "text/plain",
			strings.NewReader(strings.Repeat("x", 2001))), 413, "Request Entity Too Large"},
		"speak's encoding": {e.post("/v1/speak", "text/plain", strings.NewReader("Hi"), "encoding",
			"opus"), 400, "Bad Request"},
		"speak's rate": {e.post("/v1/speak", "text/plain", strings.NewReader("Hi"), "encoding",
			"linear16", "sample_rate", "7"), 400, "Bad Request"},
		"speak's container": {e.post("/v1/speak", "text/plain", strings.NewReader("Hi"), "encoding",
			"linear16", "container", "ogg"), 400, "Bad Request"},
		"flux's model": {e.post("/v2/speak", "text/plain", strings.NewReader("Hi")), 400, "Bad Request"},
		"Aura on flux": {e.post("/v2/speak", "text/plain", strings.NewReader("Hi"), "model",
			"aura-2-thalia-en"), 400, "Bad Request"},
		"flux's callback": {e.post("/v2/speak", "text/plain", strings.NewReader("Hi"), "model",
			"flux-alexis-en", "callback", "ws://localhost/"), 400, "Bad Request"},
		"callback to admin": {e.post("/v1/listen", "audio/wav", file(), "callback",
			"http://127.0.0.1:2019/stop"), 400, "Bad Request"},
		"read without text": {e.post("/v1/read", "text/plain", nil), 400, "Bad Request"},
	} {
		t.Run(name, func(t *testing.T) { requireError(t, test.got, test.status, test.code) })
	}
}

// No error reaches Caddy's log of errors: that shows the request's URI, with the callback's
// credentials.
func TestNoErrorReachesCaddysLog(t *testing.T) {
	e := serve(t, &Simulator{}) // fails where ServeHTTP returns an error
	e.sim.bodies.prerecorded = [][]byte{[]byte("no JSON")}
	a := e.post("/v1/listen", "audio/wav", bytes.NewReader(wav(1, 8000, 1)), "callback",
		"http://user:hunter2@localhost/")
	requireError(t, a, http.StatusInternalServerError, "Internal Server Error")

	gone := httptest.NewRequest(http.MethodPost, "/v1/listen?extra=secret:hunter2",
		bytes.NewReader(wav(1, 8000, 1)))
	gone.Header.Set("Authorization", "Token k")
	require.NoError(t, e.sim.ServeHTTP(goneClient{httptest.NewRecorder()}, gone, nil))
	require.Equal(t, 2, e.logs.FilterMessage("answering failed").Len())
}

// goneClient is a response that nobody takes.
type goneClient struct{ http.ResponseWriter }

func (goneClient) Write([]byte) (int, error) { return 0, net.ErrClosed }

func TestOtherMethodsAndPaths(t *testing.T) {
	e := serve(t, &Simulator{})
	request := func(method, path string) answer {
		req, err := http.NewRequest(method, e.url+path, nil)
		require.NoError(t, err)
		req.Header.Set("Authorization", "Token k")
		return e.do(req)
	}
	require.Equal(t, http.StatusTeapot, request("GET", "/v1/projects").status,
		"other paths are the next handler's")
	a := request("PUT", "/v1/listen")
	requireError(t, a, http.StatusMethodNotAllowed, "Method Not Allowed")
	require.Equal(t, "GET, POST", a.header.Get("Allow"))
	require.Equal(t, "POST", request("GET", "/v1/speak").header.Get("Allow"))
	require.Equal(t, "POST", request("GET", "/v2/speak").header.Get("Allow"))
	requireError(t, request("GET", "/v1/listen"), http.StatusUpgradeRequired, "Upgrade Required")
}

func TestCallbackBringsTheResult(t *testing.T) {
	e := serve(t, &Simulator{APIKeys: []APIKey{{"a-key", "a-key-id"}}})
	receiver := newReceiver(t)
	a := e.post("/v1/listen", "audio/wav", bytes.NewReader(wav(1, 8000, 3)),
		"callback", receiver.with("user:p%40ss@", "/hook/x%2Fy?signature=a%2Bb&z"), "extra",
		"callback_secret:s3cret")
	require.Equal(t, http.StatusOK, a.status)
	id := a.header.Get("dg-request-id")
	require.JSONEq(t, fmt.Sprintf(`{"request_id":%q}`, id), string(a.body))

	got := receiver.next(t)
	require.Equal(t, http.MethodPost, got.method)
	require.Equal(t, "/hook/x%2Fy?signature=a%2Bb&z", got.uri)
	require.Equal(t, "Basic dXNlcjpwQHNz", got.header.Get("Authorization"))
	require.Equal(t, "a-key-id", got.header.Get("dg-token"))
	require.Equal(t, "application/json", got.header.Get("Content-Type"))
	r := result(t, got.body)
	require.Equal(t, id, r.Metadata.RequestID)
	require.Equal(t, "s3cret", r.Metadata.Extra["callback_secret"])
}

func TestCallbackByPutAndWithoutDGToken(t *testing.T) {
	e := serve(t, &Simulator{DGToken: new(false)})
	receiver := newReceiver(t)
	e.post("/v1/listen", "audio/wav", bytes.NewReader(wav(1, 8000, 1)), "callback", receiver.URL,
		"callback_method", "put")
	got := receiver.next(t)
	require.Equal(t, http.MethodPut, got.method)
	require.NotContains(t, got.header, "Dg-Token")
	require.NotContains(t, got.header, "Authorization")
}

func TestKeyIdentifierIsDerivedWhereNoneIsConfigured(t *testing.T) {
	e := serve(t, &Simulator{})
	receiver := newReceiver(t)
	for range 2 {
		e.post("/v1/listen", "audio/wav", bytes.NewReader(wav(1, 8000, 1)), "callback", receiver.URL)
	}
	first, second := receiver.next(t), receiver.next(t)
	require.Regexp(t, uuidShape, first.header.Get("dg-token"))
	require.Equal(t, first.header.Get("dg-token"), second.header.Get("dg-token"))
}

func TestCallbackIsRetriedOverSockets(t *testing.T) {
	e := serve(t, &Simulator{})
	receiver := newReceiver(t, 503, 302, 401, 202)
	e.post("/v1/listen", "audio/wav", bytes.NewReader(wav(1, 8000, 1)), "callback",
		receiver.with("", "/hook"))
	var bodies [4]received
	for i := range bodies {
		bodies[i] = receiver.next(t)
		require.Equal(t, "/hook", bodies[i].uri, "no redirect is followed")
		require.Equal(t, bodies[0].body, bodies[i].body)
	}
	require.Eventually(t, func() bool {
		return e.logs.FilterMessage("callback delivered").FilterField(zap.Int("attempt", 4)).Len() == 1
	}, patience, time.Millisecond)
	require.Equal(t, 3, e.logs.FilterMessage("callback attempt failed").Len())
}

func TestDuplicateFaultOverSockets(t *testing.T) {
	e := serve(t, &Simulator{Faults: Faults{Duplicate: true}})
	receiver := newReceiver(t)
	e.post("/v1/listen", "audio/wav", bytes.NewReader(wav(1, 8000, 1)), "callback", receiver.URL)
	require.Equal(t, receiver.next(t).body, receiver.next(t).body)
}

func TestSlowUploadTakesItsTime(t *testing.T) {
	const rate = 10_000
	e := serve(t, &Simulator{Faults: Faults{SlowUpload: rate}})
	receiver := newReceiver(t)
	start := time.Now()
	e.post("/v1/listen", "audio/wav", bytes.NewReader(wav(1, 8000, 20)), "callback", receiver.URL)
	got := receiver.next(t)
	// The last piece arrives before the pause that follows it.
	require.GreaterOrEqual(t, time.Since(start),
		time.Duration(len(got.body))*time.Second/rate-slowStep)
}

// A callback URL with a name is accepted, and the address of that is checked when it is
// dialled.
func TestAddressBehindANameIsCheckedWhenDialled(t *testing.T) {
	e := serve(t, &Simulator{})
	receiver := newReceiver(t)
	named := strings.Replace(receiver.URL, "127.0.0.1", "localhost", 1)
	e.post("/v1/listen", "audio/wav", bytes.NewReader(wav(1, 8000, 1)), "callback", named)
	receiver.next(t)

	// The name now leads to a documentation address (RFC 5737).
	dial := dialer(addressPolicy{}, patience, 0)
	rebound := func(ctx context.Context, network, address string) (net.Conn, error) {
		return dial(ctx, network, strings.Replace(address, "localhost", "192.0.2.1", 1))
	}
	e.sim.sender.transport = &http.Transport{DialContext: rebound}
	e.post("/v1/listen", "audio/wav", bytes.NewReader(wav(1, 8000, 1)), "callback", named)
	require.Eventually(t, func() bool { return e.logs.FilterMessage("callback lost").Len() == 1 },
		patience, time.Millisecond)
	require.Equal(t, 1, e.logs.FilterMessage("callback attempt failed").Len())
	require.Contains(t, e.logs.FilterMessage("callback lost").All()[0].ContextMap()["error"],
		errAddress.Error())
}

func TestTooManyPendingCallbacksAreRefused(t *testing.T) {
	e := serve(t, &Simulator{Latency: new(caddy.Duration(time.Hour))})
	require.True(t, e.sim.outbox.enter(maxPendingBytes-pendingOverhead))
	a := e.post("/v1/listen", "audio/wav", bytes.NewReader(wav(1, 8000, 1)), "callback",
		"http://localhost:9/")
	requireError(t, a, http.StatusTooManyRequests, "TOO_MANY_REQUESTS")
	e.sim.outbox.leave(maxPendingBytes - pendingOverhead)
}

func TestSpeakSendsAudio(t *testing.T) {
	e := serve(t, &Simulator{})
	receiver := newReceiver(t)
	text := strings.Repeat("fifteen letters", 4) // 60 characters, 4 seconds
	for name, test := range map[string]struct {
		query       []string
		contentType string
		check       func(body []byte)
	}{
		"mp3 by default": {nil, "audio/mpeg", func(body []byte) {
			require.Zero(t, len(body)%104)
			require.InDelta(t, 4, float64(len(body)/104*1152)/44100, 0.03)
			require.Equal(t, []byte{0xff, 0xfb}, body[:2])
		}},
		"wav": {[]string{"encoding", "linear16", "sample_rate", "16000"}, "audio/wav", func(body []byte) {
			meter, err := audio.NewMeter(nil)
			require.NoError(t, err)
			_, _ = meter.Write(body)
			require.Equal(t, 4.0, meter.Seconds())
			require.Len(t, body, len(audio.AppendWAVHeader(nil, 1, 1, 16000, 16, 0))+4*32000)
		}},
		"raw mulaw": {[]string{"encoding", "mulaw", "container", "none"}, "audio/mulaw;rate=8000",
			func(body []byte) {
				require.Equal(t, bytes.Repeat([]byte{0xff}, 32000), body)
			}},
	} {
		t.Run(name, func(t *testing.T) {
			query := append([]string{"model", "aura-2-thalia-en"}, test.query...)
			a := e.post("/v1/speak", "application/json", strings.NewReader(`{"text":"`+text+`"}`), query...)
			require.Equal(t, http.StatusOK, a.status, "%s", a.body)
			require.Equal(t, test.contentType, a.header.Get("Content-Type"))
			require.Equal(t, "60", a.header.Get("dg-char-count"))
			require.Equal(t, "aura-2-thalia-en", a.header.Get("dg-model-name"))
			require.Regexp(t, uuidShape, a.header.Get("dg-model-uuid"))
			test.check(a.body)

			accepted := e.post("/v1/speak", "application/json",
				strings.NewReader(`{"text":"`+text+`"}`),
				append(query, "callback", receiver.with("u:p@", "/tts"))...)
			require.Regexp(t, uuidShape, accepted.json(t)["request_id"])
			for _, header := range []string{"dg-char-count", "dg-model-name", "dg-model-uuid"} {
				require.Equal(t, a.header.Get(header), accepted.header.Get(header), header)
			}
			got := receiver.next(t)
			require.Equal(t, test.contentType, got.header.Get("Content-Type"))
			require.Equal(t, "Basic dTpw", got.header.Get("Authorization"))
			require.Equal(t, a.body, got.body)
		})
	}
}

// The vendor's SDKs read these fields from the answers of both endpoints, with and without a
// callback, and one SDK or another fails without them.
func TestSpeakAnswersWithTheHeadersThatSDKsRead(t *testing.T) {
	e := serve(t, &Simulator{})
	receiver := newReceiver(t)
	for _, path := range []string{"/v1/speak", "/v2/speak"} {
		for _, callback := range []string{"", receiver.URL} {
			query := url.Values{"model": {"flux-alexis-en"}, "callback": {callback}}
			req, err := http.NewRequest(http.MethodPost, e.url+path+"?"+query.Encode(),
				strings.NewReader("Hi"))
			require.NoError(t, err)
			req.Header.Set("Authorization", "Token k")
			resp, err := http.DefaultClient.Do(req)
			require.NoError(t, err)
			require.NoError(t, resp.Body.Close())
			require.Equal(t, []string{"chunked"}, resp.TransferEncoding)
			require.Equal(t, "2", resp.Header.Get("Dg-Char-Count"))
			require.Equal(t, "flux-alexis-en", resp.Header.Get("Dg-Model-Name"))
			for _, name := range []string{"Content-Type", "Date", "Dg-Model-Uuid", "Dg-Request-Id"} {
				require.NotEmpty(t, resp.Header.Get(name), name)
			}
		}
		require.Equal(t, "audio/mpeg", receiver.next(t).header.Get("Content-Type"))
	}
}

func TestReadAnswersWhatIsAskedFor(t *testing.T) {
	e := serve(t, &Simulator{})
	receiver := newReceiver(t)
	ask := func(query ...string) (metadata, results map[string]any) {
		accepted := e.post("/v1/read", "application/json",
			strings.NewReader(`{"text":"One two three."}`), append(query, "callback", receiver.URL)...)
		decoded := receiver.next(t).json(t)
		metadata, results = decoded["metadata"].(map[string]any), decoded["results"].(map[string]any)
		require.Equal(t, accepted.json(t)["request_id"], metadata["request_id"])
		require.Equal(t, true, metadata["simulated"])
		_, err := time.Parse(time.RFC3339, metadata["created"].(string))
		require.NoError(t, err)
		return metadata, results
	}
	for _, feature := range readFeatures {
		metadata, results := ask(feature.parameter, "true")
		require.Len(t, results, 1)
		require.Contains(t, results, feature.result)
		for _, other := range readFeatures {
			require.Equal(t, other == feature, metadata[other.info] != nil, "%s for %s", other.info,
				feature.parameter)
		}
	}
	metadata, results := ask("summarize", "v2", "topics", "true", "intents", "false", "language", "es",
		"tag", "t", "extra", "a:b")
	require.ElementsMatch(t, []string{"summary", "topics"}, slices.Collect(maps.Keys(results)))
	require.Contains(t, results["summary"].(map[string]any)["text"], "Simulated summary")
	require.Equal(t, "es", metadata["language"])
	require.Equal(t, []any{"t"}, metadata["tags"])
	require.Equal(t, map[string]any{"a": "b"}, metadata["extra"])

	metadata, results = ask()
	require.Len(t, results, len(readFeatures), "a request that names nothing gets everything")
	require.Equal(t, "en", metadata["language"])

	byURL := e.post("/v1/read", "application/json", strings.NewReader(`{"url":"http://x/"}`)).json(t)
	require.Contains(t, byURL["metadata"], "warnings")
}

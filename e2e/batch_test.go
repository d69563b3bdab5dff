package e2e_test

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-deepgram/deepgram-callback/internal/bodytest"
)

// presigned is a signed query: if one of its bytes changes, the storage answers 403.
const presigned = "X-Amz-Algorithm=AWS4-HMAC-SHA256&" +
	"X-Amz-Credential=AKIA%2F20261122%2Fus-east-1%2Fs3%2Faws4_request" +
	"&X-Amz-Date=20261122T000000Z&X-Amz-SignedHeaders=host&" +
	"X-Amz-Signature=fe5f80f77d5fa3beca038a248ff027d0"

func TestTranscriptArrivesAsItWasSent(t *testing.T) {
	for method, submit := range map[string][]string{
		"POST": nil,
		"PUT":  {"callback_method", "put"},
	} {
		t.Run(method, func(t *testing.T) {
			s, wire := newService(t), newTap(t)
			l := start(t, setup{upstream: s.addr, gateway: plainAuth, tap: wire})
			id := l.transcribe(60, append(submit, "callback",
				l.callback("http", login, "/bucket/key%20one.json?"+presigned),
				"extra", "order:4711", "extra", "name:Zoë", "tag", "calls", "utterances", "true",
				"smart_format", "true")...)

			sent, got := take(t, wire.requests), take(t, s.requests)
			require.Equal(t, method, got.method)
			require.Equal(t, "/bucket/key%20one.json?"+presigned, got.target)
			require.Equal(t, sent.body, got.body)
			require.Greater(t, len(got.body), 10<<10)
			require.Equal(t, "application/json", got.header.Get("Content-Type"))
			require.Equal(t, apiKeyID, got.header.Get("Dg-Token"))
			require.NotEmpty(t, sent.header.Get("Authorization"))
			require.Empty(t, got.header.Get("Authorization"),
				"the gateway's credential is none of the service's business")

			metadata := got.decoded(t)["metadata"].(map[string]any)
			require.Equal(t, id, metadata["request_id"])
			require.Equal(t, map[string]any{"order": "4711", "name": "Zoë"}, metadata["extra"])
			require.Equal(t, []any{"calls"}, metadata["tags"])
			require.Equal(t, 60.0, metadata["duration"])

			statuses, _ := l.attempts(id)
			require.Equal(t, []int{200}, statuses)
			require.Empty(t, s.requests)
		})
	}
}

func TestSpokenAudioArrivesAsItWasSent(t *testing.T) {
	s := newService(t)
	l := start(t, setup{upstream: s.addr, gateway: plainAuth})
	text := []byte(`{"text":"Hello, how can I help you today?"}`)
	for _, format := range [][]string{nil, {"encoding", "linear16", "container", "wav"},
		{"encoding", "mulaw", "container", "none"}} {
		_, audio := l.post("/v1/speak", "application/json", text, format...)
		require.NotEmpty(t, audio)
		l.post("/v1/speak", "application/json", text,
			append(format, "callback", l.callback("http", login, "/speech"))...)
		got := take(t, s.requests)
		require.Equal(t, audio, got.body)
		require.Contains(t, got.header.Get("Content-Type"), "audio/")
	}
}

func TestAnalysedTextArrivesAsItWasSent(t *testing.T) {
	s, wire := newService(t), newTap(t)
	l := start(t, setup{upstream: s.addr, gateway: "callback_secret s3cret-0123456789", tap: wire})
	id, _ := l.post("/v1/read", "application/json",
		[]byte(`{"text":"The moon is far away. It is nice there."}`),
		"summarize", "true", "topics", "true", "callback", l.callback("http", "", "/read"), "extra",
		"callback_secret:s3cret-0123456789")
	got := take(t, s.requests)
	require.Equal(t, take(t, wire.requests).body, got.body)
	require.Equal(t, id, got.decoded(t)["metadata"].(map[string]any)["request_id"])
	require.Contains(t, got.decoded(t)["results"], "summary")
}

// What is not JSON cannot carry a callback secret.
func TestCallbackSecretRefusesAudio(t *testing.T) {
	s := newService(t)
	l := start(t, setup{
		upstream:  s.addr,
		gateway:   "callback_secret s3cret-0123456789",
		simulator: quick,
	})
	id, _ := l.post("/v1/speak", "application/json", []byte(`{"text":"Hello"}`),
		"callback", l.callback("http", "", "/speech"), "extra", "callback_secret:s3cret-0123456789")
	statuses, delivered := l.attempts(id)
	require.False(t, delivered)
	require.Equal(t, []int{401, 401, 401, 401}, statuses)
	require.Zero(t, s.connections.Load())
}

// The sender gets the service's answer, so its retries bring a callback through. A redirect is a
// failure, which nobody follows.
func TestRetriesCarryACallbackThrough(t *testing.T) {
	for name, answers := range map[string][]int{
		"three failures": {503, 500, 400, 200},
		"a redirect":     {302, 204},
		"any success":    {299},
	} {
		t.Run(name, func(t *testing.T) {
			s := newService(t, answers...)
			l := start(t, setup{upstream: s.addr, gateway: plainAuth, simulator: "retry_delay 1ms"})
			id := l.transcribe(5, "callback", l.callback("http", login, "/hook"))

			statuses, delivered := l.attempts(id)
			require.True(t, delivered)
			require.Equal(t, answers[:len(answers)-1], statuses[:len(statuses)-1])
			first := take(t, s.requests)
			for range answers[1:] {
				again := take(t, s.requests)
				require.Equal(t, "/hook", again.target)
				require.Equal(t, first.body, again.body)
			}
			require.Empty(t, s.requests)
		})
	}
}

func TestCallbackIsLostWhenEveryRetryFails(t *testing.T) {
	s := newService(t, 503)
	l := start(t, setup{upstream: s.addr, gateway: plainAuth, simulator: quick})
	id := l.transcribe(5, "callback", l.callback("http", login, "/hook"))
	statuses, delivered := l.attempts(id)
	require.False(t, delivered)
	require.Equal(t, []int{503, 503, 503, 503}, statuses)
	require.Len(t, s.requests, 4)
}

func TestServiceThatIsDownGetsItsCallbackOnceItIsUp(t *testing.T) {
	s := unstartedService(t)
	addr := freeAddr(t)
	l := start(t, setup{
		upstream:  addr,
		gateway:   plainAuth,
		simulator: "retries 100000\nretry_delay 5ms",
	})
	id := l.transcribe(5, "callback", l.callback("http", login, "/hook"))
	l.waitFor("callback attempt failed", map[string]any{"request_id": id, "status": 502.0})

	require.NoError(t, s.Listener.Close())
	require.Eventually(t, func() bool { // the port may be on loan to a connection
		listener, err := net.Listen("tcp", addr)
		if err == nil {
			s.Listener = listener
		}
		return err == nil
	}, patience, time.Millisecond)
	s.Start()
	t.Cleanup(s.Close) // before it is asked what of the loop is left
	require.Equal(t, id, take(t, s.requests).decoded(t)["metadata"].(map[string]any)["request_id"])
	_, delivered := l.attempts(id)
	require.True(t, delivered)
}

func TestGatewayThatIsDownGetsItsCallbackOnceItIsUp(t *testing.T) {
	s, wire := newService(t), newTap(t)
	nobody := freeAddr(t)
	l := start(t, setup{
		upstream:  s.addr,
		gateway:   plainAuth,
		tap:       wire,
		simulator: "retries 100000\nretry_delay 5ms",
	})
	wire.to.Store(&nobody)
	id := l.transcribe(5, "callback", l.callback("http", login, "/hook"))
	l.waitFor("callback attempt failed", map[string]any{"request_id": id})
	wire.to.Store(&l.gateway)
	take(t, s.requests)
	_, delivered := l.attempts(id)
	require.True(t, delivered)
	require.Empty(t, s.requests)
}

func TestDuplicateArrivesTwice(t *testing.T) {
	s := newService(t)
	l := start(t, setup{upstream: s.addr, gateway: plainAuth, simulator: "fault duplicate"})
	l.transcribe(5, "callback", l.callback("http", login, "/hook"))
	first, second := take(t, s.requests), take(t, s.requests)
	require.Equal(t, first.body, second.body)
	require.Equal(t, first.target, second.target)
}

// The gateway has no time limit for a whole body.
func TestSlowUploadArrivesWhole(t *testing.T) {
	for name, gateway := range map[string]string{
		"streaming through":  plainAuth,
		"secret in the body": "callback_secret s3cret-0123456789",
	} {
		t.Run(name, func(t *testing.T) {
			s, wire := newService(t), newTap(t)
			l := start(t, setup{
				upstream:  s.addr,
				gateway:   gateway,
				tap:       wire,
				simulator: "fault slow_upload 100KB",
			})
			l.transcribe(120, "callback", l.callback("http", login, "/hook"), "extra",
				"callback_secret:s3cret-0123456789")
			got := take(t, s.requests)
			require.Greater(t, len(got.body), 20<<10)
			require.Equal(t, take(t, wire.requests).body, got.body)
		})
	}
}

func TestCallbackByHTTPS(t *testing.T) {
	s := newService(t)
	l := start(t, setup{upstream: s.addr, gateway: plainAuth, tls: newAuthority(t)})
	id := l.transcribe(5, "callback", l.callback("https", login, "/hook"))
	require.Equal(t, id, take(t, s.requests).decoded(t)["metadata"].(map[string]any)["request_id"])
}

func TestSentBodiesArriveAsTheyWereSent(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(bodytest.Folder(t), "*.*"))
	require.NoError(t, err)
	requests := []struct {
		prefix, path, contentType, body string
	}{
		{"prerecorded", "/v1/listen", "application/json", `{"url":"https://example.com/call.wav"}`},
		{"read", "/v1/read", "text/plain", "The moon is far away."},
		{"speak", "/v1/speak", "text/plain", "Hello"},
	}
	tried := 0
	for _, file := range files {
		for _, r := range requests {
			if !strings.HasPrefix(filepath.Base(file), r.prefix) {
				continue
			}
			tried++
			t.Run(filepath.Base(file), func(t *testing.T) {
				s, wire := newService(t), newTap(t)
				l := start(t, setup{
					upstream:  s.addr,
					gateway:   plainAuth,
					tap:       wire,
					simulator: "results " + file,
				})
				l.post(r.path, r.contentType, []byte(r.body), "callback",
					l.callback("http", login, "/hook"), "extra", "k:v")
				got := take(t, s.requests)
				require.Equal(t, take(t, wire.requests).body, got.body)

				content, err := os.ReadFile(file)
				require.NoError(t, err)
				if r.prefix == "speak" {
					require.Equal(t, content, got.body)
					return
				}
				require.Equal(t, request{body: content}.decoded(t)["results"], got.decoded(t)["results"])
				require.Equal(t, map[string]any{"k": "v"}, got.decoded(t)["metadata"].(map[string]any)["extra"])
			})
		}
	}
	require.Positive(t, tried)
}

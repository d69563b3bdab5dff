package demo

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/gorilla/websocket"
	"github.com/stretchr/testify/require"
)

// log is what a service prints.
type log struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// serve runs a service behind a writer that, like Caddy's, is no http.Hijacker
// itself.
func serve(t *testing.T) (url string, printed *log) {
	t.Helper()
	printed = new(log)
	service := &Service{output: printed, now: time.Now}
	return start(t, service), printed
}

func start(t *testing.T, service *Service) (url string) {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		err := service.ServeHTTP(&caddyhttp.ResponseWriterWrapper{ResponseWriter: w}, r, nil)
		if err != nil {
			t.Error(err)
		}
	}))
	t.Cleanup(server.Close)
	return server.URL
}

func get(t *testing.T, url string) string {
	t.Helper()
	response, err := http.Get(url)
	require.NoError(t, err)
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	return string(body)
}

const batchBody = `{"metadata": {"request_id": "id-1", "extra": {"callback_secret": "body-secret"}},
	"results": {"channels": [
		{"alternatives": [{"transcript": "how can i help you"}]},
		{"alternatives": [{"transcript": "my order"}]}
	]}}`

func TestACallbackIsShownWithoutCredentials(t *testing.T) {
	url, printed := serve(t)
	require.Equal(t, "nothing received yet\n", get(t, url))

	request, err := http.NewRequest(http.MethodPut, url+"/calls/7?token=query-secret",
		strings.NewReader(batchBody))
	require.NoError(t, err)
	request.SetBasicAuth("deepgram", "password")
	request.Header.Set("Dg-Token", "key-id")
	request.Header.Set("Content-Type", "application/json")
	response, err := http.DefaultClient.Do(request)
	require.NoError(t, err)
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	require.Equal(t, "received callback 1\n", string(answer))

	shown := printed.String()
	require.Regexp(t, `^\d\d:\d\d:\d\d callback 1: PUT /calls/7, \d+ bytes\n`, shown)
	require.Contains(t, shown, "Content-Type: application/json\n")
	require.Contains(t, shown, `request_id: "id-1"`)
	require.Contains(t, shown, `transcript: "how can i help you / my order"`)
	for _, secret := range []string{"body-secret", "query-secret", "key-id", "Basic "} {
		require.NotContains(t, shown, secret)
	}
	require.Equal(t, shown, get(t, url))
}

func TestOnlyTheLatestIsKept(t *testing.T) {
	url, _ := serve(t)
	for range keep + 5 {
		response, err := http.Post(url, "application/json", strings.NewReader("{}"))
		require.NoError(t, err)
		response.Body.Close()
	}
	listed := get(t, url)
	require.NotContains(t, listed, "callback 5:")
	require.Contains(t, listed, "callback 6:")
	require.Contains(t, listed, "callback 25:")
}

func TestWhatIsFlakyFailsInTheLastQuarterOfEachMinute(t *testing.T) {
	printed := new(log)
	var now atomic.Pointer[time.Time]
	url := start(t, &Service{output: printed, now: func() time.Time { return *now.Load() }})
	post := func(path string, second int) int {
		now.Store(new(time.Date(2026, 1, 1, 0, 0, second, 0, time.UTC)))
		response, err := http.Post(url+path, "application/json", strings.NewReader("{}"))
		require.NoError(t, err)
		response.Body.Close()
		return response.StatusCode
	}
	require.Equal(t, 200, post("/flaky/x", 0))
	require.Equal(t, 200, post("/flaky/x", 44))
	require.Equal(t, 503, post("/flaky/x", 45))
	require.Equal(t, 503, post("/flaky/x", 59))
	require.Equal(t, 200, post("/flakyness", 59))
	require.Equal(t, 200, post("/callback", 59))
	require.Contains(t, printed.String(), "refused POST /flaky/x\n")
	require.Contains(t, printed.String(), "callback 4:")
	require.NotContains(t, printed.String(), "callback 5:")
}

func TestAStreamIsShownToItsEnd(t *testing.T) {
	url, printed := serve(t)
	conn, response, err := websocket.DefaultDialer.Dial("ws"+strings.TrimPrefix(url, "http")+"/live",
		nil)
	require.NoError(t, err)
	defer response.Body.Close()
	defer conn.Close()

	_, message, err := conn.ReadMessage()
	require.NoError(t, err)
	require.Equal(t, greeting, string(message))

	for _, text := range []string{
		`{"type":"SpeechStarted","channel":[0],"timestamp":1.2}`,
		`{"type":"Results","is_final":false,"channel":{"alternatives":[{"transcript":"how can"}]}}`,
		`{"type":"Results","is_final":true,"channel":{"alternatives":[{"transcript":"how can i help"}]}}`,
		"no JSON \x1b[2J",
	} {
		require.NoError(t, conn.WriteMessage(websocket.TextMessage, []byte(text)))
	}
	require.NoError(t, conn.WriteControl(websocket.CloseMessage,
		websocket.FormatCloseMessage(4000, "done"), time.Now().Add(5*time.Second)))
	_, _, err = conn.ReadMessage() // returns once the service has answered the Close frame
	require.True(t, websocket.IsCloseError(err, 4000), err)

	require.Eventually(t, func() bool { return strings.Contains(printed.String(), "ended") },
		5*time.Second, time.Millisecond)
	var lines []string
	for line := range strings.Lines(printed.String()) {
		lines = append(lines, line[len("15:04:05 "):])
	}
	require.Equal(t, []string{
		"stream 1 opened on /live\n",
		"stream 1 says \"SpeechStarted\"\n",
		"stream 1 says interim \"how can\"\n",
		"stream 1 says final \"how can i help\"\n",
		"stream 1 says \"no JSON \\x1b[2J\"\n",
		"stream 1 ended: close code 4000, \"done\"\n",
	}, lines)
}

func TestDeleteDropsTheStreamsWithoutACloseFrame(t *testing.T) {
	url, printed := serve(t)
	conn, response, err := websocket.DefaultDialer.Dial("ws"+strings.TrimPrefix(url, "http"), nil)
	require.NoError(t, err)
	defer response.Body.Close()
	defer conn.Close()
	_, _, err = conn.ReadMessage() // the greeting
	require.NoError(t, err)

	request, err := http.NewRequest(http.MethodDelete, url, nil)
	require.NoError(t, err)
	answer, err := http.DefaultClient.Do(request)
	require.NoError(t, err)
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	require.NoError(t, err)
	require.Equal(t, "dropped 1 streams\n", string(text))

	_, _, err = conn.ReadMessage()
	require.True(t, websocket.IsCloseError(err, websocket.CloseAbnormalClosure), err)
	require.Eventually(t, func() bool { return strings.Contains(printed.String(), "stream 1 ended") },
		5*time.Second, time.Millisecond)
}

func TestTheEndOfAStreamWithoutACloseFrame(t *testing.T) {
	url, printed := serve(t)
	conn, response, err := websocket.DefaultDialer.Dial("ws"+strings.TrimPrefix(url, "http"), nil)
	require.NoError(t, err)
	defer response.Body.Close()
	require.NoError(t, conn.NetConn().Close())
	require.Eventually(t, func() bool {
		return strings.Contains(printed.String(), "ended: no Close frame came")
	}, 5*time.Second, time.Millisecond)
}

func TestWhatIsSaidOfABody(t *testing.T) {
	long := strings.Repeat("ä", excerptLength+1)
	for name, test := range map[string]struct {
		body string
		want []string
	}{
		"audio": {"RIFF\x00\x01", nil},
		"an error": {`{"err_code":"Bad Request","err_msg":"corrupt audio","request_id":"id-2"}`,
			[]string{`request_id: "id-2"`, `error: "corrupt audio"`}},
		"a live result": {
			`{"type":"Results","channel":{"alternatives":[{"transcript":"hi"}]},` +
				`"metadata":{"request_id":"id-3"}}`, []string{
				`request_id: "id-3"`, `transcript: "hi"`,
			},
		},
		"no words": {`{"results":{"channels":[{"alternatives":[]}]}}`, nil},
		"a long one": {`{"results":{"channels":[{"alternatives":[{"transcript":"` + long + `"}]}]}}`,
			[]string{`transcript: "` + long[:len(long)-len("ä")] + `…"`}},
	} {
		t.Run(name, func(t *testing.T) {
			request := httptest.NewRequest(http.MethodPost, "/callback", nil)
			text := describeCallback("callback 1", request, []byte(test.body), 42)
			lines := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
			require.Equal(t, "callback 1: POST /callback, 42 bytes", lines[0])
			for i := range lines[1:] {
				lines[i+1] = strings.TrimSpace(lines[i+1])
			}
			require.ElementsMatch(t, test.want, lines[1:])
		})
	}
}

func TestTheDirectiveTakesNothing(t *testing.T) {
	for _, input := range []string{"demo_service x", "demo_service quiet x", "demo_service {\n\tkeep 3\n}"} {
		require.Error(t, new(Service).UnmarshalCaddyfile(caddyfile.NewTestDispenser(input)), input)
	}
	loud, quiet := new(Service), new(Service)
	require.NoError(t, loud.UnmarshalCaddyfile(caddyfile.NewTestDispenser("demo_service")))
	require.NoError(t, quiet.UnmarshalCaddyfile(caddyfile.NewTestDispenser("demo_service quiet")))
	require.False(t, loud.Quiet)
	require.True(t, quiet.Quiet)
}

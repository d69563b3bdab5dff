package handler_test

import (
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/gorilla/websocket"
	"github.com/stretchr/testify/require"

	"github.com/caddy-deepgram/deepgram-callback/internal/caddytest"
)

// The secrets of these tests, none of which may show in a log.
const (
	secretPassword = "password-0123456789abcdef01234567"
	secretToken    = "token-9a2b"
	secretQuery    = "query-7c3d-0123456789"
	secretBody     = "body-5e4f-0123456789"
	wrongSecret    = "guessed-1a6b" // part of every wrong one: it may be a right one elsewhere
)

// The secrets come from the environment, since Caddy logs the configuration at
// level DEBUG.
const everyCredential = `
	basic_auth plain {
		deepgram {env.TEST_PASSWORD}
	}
	dg_token {env.TEST_TOKEN}
	query_secret token {env.TEST_QUERY}
	callback_secret {env.TEST_BODY}
`

func secrets() []string {
	login := base64.StdEncoding.EncodeToString([]byte("deepgram:" + secretPassword))
	guess := base64.StdEncoding.EncodeToString([]byte("deepgram:" + wrongSecret))
	return []string{secretPassword, secretToken, secretQuery, secretBody, wrongSecret, login, guess}
}

// sendEveryKind sends callbacks and handshakes in which one credential after the
// other is wrong and missing, and some with all of them right.
func sendEveryKind(t *testing.T, g *gateway, streams bool) {
	t.Helper()
	for wrong := range 9 {
		password, token, query, body := secretPassword, secretToken, secretQuery, secretBody
		header := http.Header{}
		switch wrong {
		case 1:
			password = wrongSecret
		case 2:
			token = wrongSecret
		case 3:
			query = wrongSecret
		case 4:
			body = wrongSecret
		case 5:
			query = url.QueryEscape(wrongSecret) + "&token=" + secretQuery
		}
		login := &http.Request{Header: header}
		login.SetBasicAuth("deepgram", password)
		header.Set("dg-token", token)
		target := "/path?a=1&token=" + query
		message := `{"metadata":{"extra":{"callback_secret":"` + body + `"}}}`
		switch wrong {
		case 6:
			header.Del("Authorization")
		case 7:
			header.Del("dg-token")
		case 8:
			message = `{"callback_secret":"` + secretBody + `"` // broken off
		}
		if !streams {
			send(t, "POST", g.url+target, strings.NewReader(message), header)
			continue
		}
		conn, res, err := websocket.DefaultDialer.Dial("ws://"+g.addr+target, header)
		if err != nil {
			require.NotNil(t, res)
			continue
		}
		_ = conn.WriteMessage(websocket.TextMessage, []byte(message))
		_, _, _ = conn.ReadMessage() // an echo or a Close
		_ = conn.Close()
	}
}

func TestNoSecretIsLogged(t *testing.T) {
	t.Setenv("TEST_PASSWORD", secretPassword)
	t.Setenv("TEST_TOKEN", secretToken)
	t.Setenv("TEST_QUERY", secretQuery)
	t.Setenv("TEST_BODY", secretBody)
	for name, test := range map[string]struct {
		answer   http.HandlerFunc
		upstream string // before the service's own
		relay    string
		streams  bool
	}{
		"batch": {},
		"batch, retried": {
			upstream: "dead", relay: "lb_policy first\nlb_retries 2\nfail_duration 1h",
		},
		"batch, retried with header operations": {
			upstream: "dead", relay: "lb_policy first\nlb_retries 2\nfail_duration 1h\nheader_up X-A b",
		},
		"batch, answer broken off": {
			answer: func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Length", "100")
				_, _ = w.Write([]byte("short"))
				_ = http.NewResponseController(w).Flush()
				panic(http.ErrAbortHandler)
			},
		},
		"batch, dead service": {
			answer: func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
		},
		"streams": {streams: true},
	} {
		t.Run(name, func(t *testing.T) {
			var addr string
			var backend *service
			if test.streams {
				addr = newEcho(t).addr
			} else {
				backend = newService(t, test.answer)
				addr = backend.addr
			}
			if test.upstream == "dead" {
				addr = deadAddr(t) + " " + addr
			}
			g := start(t, callback(addr, everyCredential+"relay {\n"+test.relay+"\n}"),
				options{level: "DEBUG"})
			if strings.HasSuffix(name, "broken off") {
				sendBrokenOff(t, g)
			} else {
				sendEveryKind(t, g, test.streams)
			}
			if test.streams {
				g.waitForEnd(addr)
			}
			ours := 0
			for _, line := range g.logLines() {
				// Caddy's own logs show them: it encodes the request before any handler runs.
				if logger, _ := line["logger"].(string); strings.HasPrefix(logger, "http.log") {
					delete(line, "request")
				}
				ours++
				text, err := json.Marshal(line)
				require.NoError(t, err)
				for _, secret := range secrets() {
					require.NotContains(t, string(text), secret)
				}
			}
			require.Greater(t, ours, 5)

			if backend != nil { // what is hidden from the log arrives nevertheless
				require.Equal(t, secretToken, backend.next(t).Header.Get("dg-token"))
			}
		})
	}
}

// sendBrokenOff sends a callback whose answer ends early.
func sendBrokenOff(t *testing.T, g *gateway) {
	t.Helper()
	header := http.Header{"Dg-Token": {secretToken}}
	(&http.Request{Header: header}).SetBasicAuth("deepgram", secretPassword)
	r, err := http.NewRequest("POST", g.url+"/path?token="+secretQuery,
		strings.NewReader(`{"metadata":{"extra":{"callback_secret":"`+secretBody+`"}}}`))
	require.NoError(t, err)
	r.Header = header
	if res, err := client.Do(r); err == nil {
		_ = res.Body.Close()
	}
	g.waitForLog("the answer's end", func(line map[string]any) bool {
		return line["msg"] == "aborting with incomplete response"
	})
}

func TestHeaderOperationsSeeTheToken(t *testing.T) {
	backend := newService(t, nil)
	for operations, want := range map[string]http.Header{
		"":                        {"Dg-Token": {"key"}},
		"header_up -Dg-Token":     {},
		"header_up -Dg-*":         {},
		"header_up Dg-Token x":    {"Dg-Token": {"x"}},
		"header_up +Dg-Token x":   {"Dg-Token": {"key", "x"}},
		"header_up Dg-Token ^k l": {"Dg-Token": {"ley"}},
		"header_up X-Key {http.request.header.dg-token}": {"Dg-Token": {"key"},
			"X-Key": {"key"}},
		"handle_response {\nreverse_proxy " + backend.addr + "\n}": {"Dg-Token": {"key"}},
	} {
		g := start(t, callback(backend.addr, "dg_token key\nrelay {\n"+operations+"\n}"))
		require.Equal(t, 200, send(t, "POST", g.url, nil, http.Header{"Dg-Token": {"key"}}).StatusCode)
		seen := backend.next(t)
		for len(backend.requests) > 0 {
			seen = backend.next(t)
		}
		for _, name := range []string{"Dg-Token", "X-Key"} {
			require.Equal(t, want[name], seen.Header[name], "%s: %s", operations, name)
		}
	}
}

// The Caddyfile in the documentation, which people copy, hides what Caddy logs.
func TestLogFilterHidesWhatCaddyLogs(t *testing.T) {
	source, err := os.ReadFile(filepath.Join("..", "testdata", "log-filter.Caddyfile"))
	require.NoError(t, err)
	backend := newService(t, nil)
	g := &gateway{t: t}
	g.port = freePort(t)
	g.url = "http://127.0.0.1:" + strconv.Itoa(g.port)
	g.addr = strings.TrimPrefix(g.url, "http://")
	g.log = filepath.Join(t.TempDir(), "caddy.log")
	config := strings.NewReplacer(
		"127.0.0.1:9000", backend.addr,
		":8080", ":"+strconv.Itoa(g.port),
		"8080", strconv.Itoa(g.port),
		"output stderr", "output file "+g.log,
		"{env.DG_TOKEN}", secretToken,
		"{env.QUERY_SECRET}", secretQuery,
		"admin off", "admin off\npersist_config off",
		"dg_token", "ports "+strconv.Itoa(g.port)+"\ndg_token",
	).Replace(string(source))
	caddytest.Start(t, func() []byte { return caddytest.Adapt(t, config) })

	backend.Close() // a 502 is an error that is logged at any level
	for _, token := range []string{secretToken, wrongSecret} {
		for _, query := range []string{secretQuery, wrongSecret} {
			send(t, "POST", g.url+"/path?a=1&token="+query+"&b=2", strings.NewReader("{}"),
				http.Header{"Dg-Token": {token}})
		}
	}
	for _, logger := range []string{"http.log.access", "http.log.error"} {
		line := g.waitForLog(logger, func(line map[string]any) bool {
			name, _ := line["logger"].(string)
			return strings.HasPrefix(name, logger)
		})
		request, _ := line["request"].(map[string]any)
		uri, _ := request["uri"].(string)
		require.Contains(t, uri, "/path?a=1", "more than the secret is hidden")
		require.Contains(t, request["headers"], "User-Agent")
		require.NotContains(t, request["headers"], "Dg-Token")
	}
	content, err := os.ReadFile(g.log)
	require.NoError(t, err)
	for _, secret := range secrets() {
		require.NotContains(t, string(content), secret)
	}
}

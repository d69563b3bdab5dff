package console_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	_ "github.com/caddyserver/caddy/v2/modules/standard"
	"github.com/stretchr/testify/require"

	_ "github.com/caddy-deepgram/deepgram-callback"
	"github.com/caddy-deepgram/deepgram-callback/internal/caddytest"
)

func TestMain(m *testing.M) { caddytest.Main(m) }

const password = "operator-password-of-32-characters"

const account = "basic_auth plain {\noperator " + password + "\n}\n"

// A gateway is a Caddy with a console, an inbox and a service behind it.
type gateway struct {
	t         testing.TB
	base      string // the console's address, with a slash behind it
	callbacks string
	log       caddytest.Log
	config    []byte
}

// site is a Caddyfile with a console that has the given options, below a prefix, and callbacks on
// another address, whose service is at a third.
func site(address, callbacks, service, prefix, options, log, inbox string) string {
	console := "deepgram_console {\n" + options + "}\n"
	if prefix != "" {
		console = "handle_path " + prefix + "* {\n" + console + "}\n"
	}
	_, port, _ := strings.Cut(callbacks, ":")
	_, consolePort, _ := strings.Cut(address, ":")
	return caddytest.Globals(log) + "http://:" + consolePort + " {\nbind 127.0.0.1\n" + console + "}\n" +
		"http://:" + port + " {\nbind 127.0.0.1\ndeepgram_callback " + service + " {\nanonymous\nports " + port +
		"\nspool {\npath " + inbox + "\nroute calls\nkeep 1h\nretry_for 1s\nretry_delays 20ms\n}\n}\n}\n"
}

func start(t testing.TB, prefix, options, service string) *gateway {
	t.Helper()
	g := &gateway{t: t, log: caddytest.NewLog(t)}
	inbox := t.TempDir()
	caddytest.Start(t, func() []byte {
		addresses := caddytest.FreePorts(t, 2)
		g.base = "http://" + caddytest.Addr(addresses[0]) + prefix + "/"
		g.callbacks = "http://" + caddytest.Addr(addresses[1])
		g.config = caddytest.Adapt(t, site(caddytest.Addr(addresses[0]), caddytest.Addr(addresses[1]),
			service, prefix, options, g.log.Option(""), inbox))
		return g.config
	})
	return g
}

// ask makes a request to the console, with header fields as pairs.
func (g *gateway) ask(method, path string, fields ...string) (*http.Response, string) {
	g.t.Helper()
	request, err := http.NewRequestWithContext(g.t.Context(), method, g.base+path, nil)
	require.NoError(g.t, err)
	request.SetBasicAuth("operator", password)
	for i := 0; i < len(fields); i += 2 {
		switch {
		case fields[i] == "Host":
			request.Host = fields[i+1]
		case fields[i+1] == "":
			request.Header.Del(fields[i])
		default:
			request.Header.Set(fields[i], fields[i+1])
		}
	}
	client := http.Client{CheckRedirect: func(*http.Request, []*http.Request) error {
		return http.ErrUseLastResponse
	}}
	response, err := client.Do(request)
	require.NoError(g.t, err)
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	require.NoError(g.t, err)
	return response, string(body)
}

func (g *gateway) status(method, path string, fields ...string) int {
	g.t.Helper()
	response, _ := g.ask(method, path, fields...)
	return response.StatusCode
}

// perseveres has the gateway go on trying for an hour, and not for a second.
func (g *gateway) perseveres() {
	g.t.Helper()
	config := strings.Replace(string(g.config), `"retry_for":1000000000`, `"retry_for":3600000000000`, 1)
	require.NotEqual(g.t, string(g.config), config)
	g.config = []byte(config)
	require.NoError(g.t, caddy.Load(g.config, true))
}

// send sends a callback.
func (g *gateway) send(path, body string) {
	g.t.Helper()
	response, err := http.Post(g.callbacks+path, "application/json", strings.NewReader(body))
	require.NoError(g.t, err)
	require.NoError(g.t, response.Body.Close())
	require.Equal(g.t, http.StatusAccepted, response.StatusCode)
}

// own is what the pages send with an action.
var own = []string{"Deepgram-Console", "1", "Sec-Fetch-Site", "same-origin"}

const nobody = "127.0.0.1:1"

func TestWhoHasNoAccountGetsNothing(t *testing.T) {
	g := start(t, "/x/console", account, nobody)
	for _, path := range []string{"", "app.js", "api/overview", "api/events?topic=overview", "none"} {
		response, body := g.ask("GET", path, "Authorization", "")
		require.Equal(t, http.StatusUnauthorized, response.StatusCode, path)
		require.Contains(t, response.Header.Get("WWW-Authenticate"), "Basic ")
		require.Empty(t, body)
	}
	response, _ := g.ask("POST", "api/spool/replay?state=dead", "Authorization", "Basic b3BlcmF0b3I6eA==")
	require.Equal(t, http.StatusUnauthorized, response.StatusCode)
	require.Contains(t, g.log.Text(t), "console: login refused")
	require.NotContains(t, g.log.Text(t), password)
	require.Equal(t, http.StatusOK, g.status("GET", ""))
}

func TestPagesAreServedBelowAnyPath(t *testing.T) {
	for _, prefix := range []string{"", "/console", "/x/console"} {
		t.Run(prefix, func(t *testing.T) {
			g := start(t, prefix, account, nobody)
			for path, contentType := range map[string]string{
				"":           "text/html; charset=utf-8",
				"index.html": "text/html; charset=utf-8",
				"app.js":     "text/javascript; charset=utf-8",
				"style.css":  "text/css; charset=utf-8",
				"icon.svg":   "image/svg+xml",
			} {
				response, body := g.ask("GET", path)
				require.Equal(t, http.StatusOK, response.StatusCode, path)
				require.Equal(t, contentType, response.Header.Get("Content-Type"))
				require.NotEmpty(t, body)
				require.Equal(t, "no-cache", response.Header.Get("Cache-Control"))
				require.Equal(t, http.StatusNotModified,
					g.status("GET", path, "If-None-Match", response.Header.Get("ETag")))
			}
			for _, path := range []string{"x", "app.js/", "pages/app.js", "pages.go", "../console.go", "api"} {
				require.Equal(t, http.StatusNotFound, g.status("GET", path), path)
			}
			response, _ := g.ask("POST", "app.js")
			require.Equal(t, http.StatusMethodNotAllowed, response.StatusCode)
			require.Equal(t, "GET, HEAD", response.Header.Get("Allow"))

			response, body := g.ask("GET", "api/overview")
			require.Equal(t, http.StatusOK, response.StatusCode)
			require.Equal(t, "no-store", response.Header.Get("Cache-Control"))
			require.Contains(t, body, `"user":"operator"`)
			require.Contains(t, body, `"read_only":false`)
		})
	}
}

// Links of the pages are relative to a directory.
func TestTheDirectoryOfThePagesHasItsSlash(t *testing.T) {
	g := start(t, "/x/console", account, nobody)
	g.base = strings.TrimSuffix(g.base, "/")
	response, _ := g.ask("GET", "")
	require.Equal(t, http.StatusPermanentRedirect, response.StatusCode)
	require.Equal(t, "./console/", response.Header.Get("Location"))
}

func TestEveryAnswerSaysWhatABrowserMayDoWithIt(t *testing.T) {
	g := start(t, "/console", account, nobody)
	for _, request := range []string{
		"GET ", "GET app.js", "GET none", "GET api/overview", "GET api/none", "POST api/streams",
		"GET api/spool/messages", "DELETE app.js",
	} {
		method, path, _ := strings.Cut(request, " ")
		for _, authorization := range []string{"", "Basic eDp5"} {
			fields := own
			if authorization != "" {
				fields = append(fields, "Authorization", authorization)
			}
			response, _ := g.ask(method, path, fields...)
			header := response.Header
			csp := header.Get("Content-Security-Policy")
			for _, directive := range []string{
				"default-src 'none'", "script-src 'self'", "frame-ancestors 'none'", "base-uri 'none'",
			} {
				require.Contains(t, csp, directive, request)
			}
			require.NotContains(t, csp, "unsafe")
			require.Equal(t, "nosniff", header.Get("X-Content-Type-Options"))
			require.Equal(t, "no-referrer", header.Get("Referrer-Policy"))
			require.Equal(t, "same-origin", header.Get("Cross-Origin-Resource-Policy"))
			require.Equal(t, "DENY", header.Get("X-Frame-Options"))
			require.NotEmpty(t, header.Get("Cache-Control"))
			require.Empty(t, header.Get("Access-Control-Allow-Origin"))
		}
	}
}

func TestOtherOriginsCanNeitherReadNorAct(t *testing.T) {
	g := start(t, "/console", account, nobody)
	const action = "api/spool/replay?state=dead"
	for name, fields := range map[string][]string{
		"no header field of its own": {"Deepgram-Console", ""},
		"a form":                     {"Deepgram-Console", "", "Sec-Fetch-Site", "same-origin"},
		"another site":               {"Deepgram-Console", "1", "Sec-Fetch-Site", "cross-site"},
		"a sibling":                  {"Deepgram-Console", "1", "Sec-Fetch-Site", "same-site"},
		"an older browser":           {"Deepgram-Console", "1", "Origin", "http://evil.example"},
		"a sandbox":                  {"Deepgram-Console", "1", "Origin", "null"},
	} {
		for _, method := range []string{"POST", "DELETE", "PUT", "PATCH"} {
			response, body := g.ask(method, action, fields...)
			require.Equal(t, http.StatusForbidden, response.StatusCode, "%s: %s", name, method)
			require.Contains(t, body, `{"error":`)
		}
	}
	for _, site := range []string{"cross-site", "same-site"} {
		require.Equal(t, http.StatusForbidden, g.status("GET", "api/overview", "Sec-Fetch-Site", site))
	}
	for name, fields := range map[string][]string{
		"the pages": own,
		"a program": {"Deepgram-Console", "1"},
		"the pages in an older browser": {
			"Deepgram-Console", "1", "Origin", "http://" + strings.Split(g.base, "/")[2],
		},
	} {
		require.Equal(t, http.StatusOK, g.status("POST", action, fields...), name)
	}
	for _, site := range []string{"none", "same-origin"} {
		require.Equal(t, http.StatusOK, g.status("GET", "api/overview", "Sec-Fetch-Site", site))
	}
}

// A page of another site can have its own name point to loopback.
func TestAnAnonymousConsoleOnLoopbackAnswersToItsOwnNamesAlone(t *testing.T) {
	g := start(t, "", "anonymous\n", nobody)
	for host, status := range map[string]int{
		"127.0.0.1": http.StatusOK, "localhost:9090": http.StatusOK,
		"evil.example": http.StatusForbidden, "127.0.0.1.evil.example": http.StatusForbidden,
	} {
		require.Equal(t, status, g.status("GET", "api/overview", "Host", host), host)
		require.Equal(t, status, g.status("GET", "", "Host", host), host)
	}
}

func TestWhatIsReadOnlyOffersNoAction(t *testing.T) {
	g := start(t, "", account+"read_only\n", nobody)
	_, body := g.ask("GET", "api/overview")
	require.Contains(t, body, `"read_only":true`)
	for _, request := range []string{
		"POST api/spool/replay?state=dead", "DELETE api/spool/messages?state=dead", "DELETE api/streams?user=x",
		"POST api/spool/routes/calls/pause", "DELETE api/streams/x",
	} {
		method, path, _ := strings.Cut(request, " ")
		response, body := g.ask(method, path, own...)
		require.Equal(t, http.StatusForbidden, response.StatusCode, request)
		require.Contains(t, body, "read-only")
	}
	require.Contains(t, g.log.Text(t), "console: action failed")
}

func TestEachActionIsALineInTheLog(t *testing.T) {
	g := start(t, "/console", account, nobody)
	g.send("/hook?token=secret-of-the-query", `{"request_id":"e4ac910d"}`)
	require.Equal(t, http.StatusNoContent,
		g.status("POST", "api/spool/routes/calls/pause", own...))
	require.Equal(t, http.StatusNoContent,
		g.status("POST", "api/spool/routes/calls/resume", own...))
	found := 0
	for _, line := range g.log.Lines(t) {
		if line["msg"] != "console: action" {
			continue
		}
		found++
		require.Equal(t, "operator", line["user"])
		require.Equal(t, "127.0.0.1", line["client_ip"])
		require.Equal(t, "POST", line["method"])
		require.Contains(t, line["resource"], "/spool/routes/calls/")
	}
	require.Equal(t, 2, found)
	require.NotContains(t, g.log.Text(t), "secret-of-the-query")
}

// follow opens events of a topic, and returns the data of each as they come.
func (g *gateway) follow(ctx context.Context, topic string) <-chan string {
	g.t.Helper()
	request, err := http.NewRequestWithContext(ctx, "GET", g.base+"api/events?topic="+topic, nil)
	require.NoError(g.t, err)
	request.SetBasicAuth("operator", password)
	response, err := http.DefaultClient.Do(request)
	require.NoError(g.t, err)
	require.Equal(g.t, http.StatusOK, response.StatusCode)
	require.Equal(g.t, "text/event-stream", response.Header.Get("Content-Type"))
	require.Equal(g.t, "no-store", response.Header.Get("Cache-Control"))
	events := make(chan string)
	go func() {
		defer close(events)
		defer response.Body.Close()
		buffer, text := make([]byte, 64<<10), ""
		for {
			n, err := response.Body.Read(buffer)
			text += string(buffer[:n])
			for {
				event, rest, found := strings.Cut(text, "\n\n")
				if !found {
					break
				}
				text = rest
				if data, ok := strings.CutPrefix(event, "data: "); ok {
					select {
					case events <- data:
					case <-ctx.Done():
					}
				}
			}
			if err != nil {
				return
			}
		}
	}()
	return events
}

// wait waits for an event with a text in it.
func wait(t testing.TB, events <-chan string, text string) {
	t.Helper()
	timeout := time.After(caddytest.Patience)
	for {
		select {
		case event, open := <-events:
			require.True(t, open, "no event has "+text)
			if strings.Contains(event, text) {
				return
			}
		case <-timeout:
			require.FailNow(t, "no event has "+text)
		}
	}
}

func TestEventsTellWhatHasChangedAndEndWithAReload(t *testing.T) {
	g := start(t, "/console", account, nobody)
	events := g.follow(t.Context(), "overview")
	wait(t, events, `"pending":0`)
	g.send("/hook", "{}")
	wait(t, events, `"dead":1`)

	require.Equal(t, http.StatusBadRequest, g.status("GET", "api/events?topic=none"))
	caddytest.Reload(t, []byte(strings.Replace(string(g.config), `"retry_for"`, `"concurrency":3,"retry_for"`, 1)))
	for range events { //nolint:revive // until they end
	}
	wait(t, g.follow(t.Context(), "streams"), "[]")
}

func TestWithoutAnAccountTheConsoleDoesNotLoad(t *testing.T) {
	for _, config := range []string{`{}`, `{"read_only": true}`, `{"basic_auth": null}`} {
		handler := strings.Replace(config, "{", `{"handler": "deepgram_console",`, 1)
		handler = strings.Replace(handler, ",}", "}", 1)
		err := load(t, fmt.Sprintf(`{"admin": {"disabled": true, "config": {"persist": false}}, "apps": {"http": `+
			`{"servers": {"s": {"listen": ["127.0.0.1:0"], "routes": [{"handle": [%s]}]}}}}}`, handler))
		require.ErrorContains(t, err, "nothing says who may use the console", config)
	}
}

func load(t testing.TB, config string) error {
	t.Helper()
	var parsed caddy.Config
	require.NoError(t, json.Unmarshal([]byte(config), &parsed))
	return caddy.Validate(&parsed)
}

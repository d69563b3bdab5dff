package handler_test

import (
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/bcrypt"
)

// unsized keeps net/http from knowing how long a body is, so that it is sent
// in chunks.
func unsized(body io.Reader) io.Reader { return struct{ io.Reader }{body} }

// Each callback breaks some of the rules; the first of them, in the order of
// the checks, decides about the answer.
func TestChecksAreMadeInOrder(t *testing.T) {
	backend := newService(t, nil)
	g := start(t, callback(backend.addr, plainAuth+`
		callback_secret body-secret
		max_body 1KiB
	`), options{global: "servers {\ntrusted_proxies static 127.0.0.1/32\n}"})

	const port, method, credentials, size, secret = 1, 2, 4, 8, 16
	for broken := range 32 {
		header := withPassword()
		verb, body := "POST", `{"metadata":{"extra":{"callback_secret":"body-secret"}}}`
		if broken&port != 0 {
			header.Set("X-Forwarded-Port", "9999")
		}
		if broken&method != 0 {
			verb = "DELETE"
		}
		if broken&credentials != 0 {
			header.Set("Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte("deepgram:guess")))
		}
		if broken&secret != 0 {
			body = strings.Replace(body, "body-secret", "wrong", 1)
		}
		if broken&size != 0 {
			body += strings.Repeat(" ", 1024)
		}
		want := http.StatusOK
		switch {
		case broken&port != 0:
			want = http.StatusForbidden
		case broken&method != 0:
			want = http.StatusMethodNotAllowed
		case broken&credentials != 0:
			want = http.StatusUnauthorized
		case broken&size != 0:
			want = http.StatusRequestEntityTooLarge
		case broken&secret != 0:
			want = http.StatusUnauthorized
		}
		t.Run(fmt.Sprintf("%05b", broken), func(t *testing.T) {
			got := send(t, verb, g.url, strings.NewReader(body), header)
			require.Equal(t, want, got.StatusCode)
			if want == http.StatusOK {
				require.Equal(t, body, string(backend.next(t).body))
			}
		})
	}
	require.Empty(t, backend.requests, "what was refused reached the service")
}

func TestPortOfTheListenerHasToBeAllowed(t *testing.T) {
	backend := newService(t, nil)
	g := start(t, "deepgram_callback "+backend.addr+" {\nanonymous\n}")
	require.Equal(t, http.StatusForbidden, send(t, "POST", g.url, nil, nil).StatusCode)
	require.Empty(t, backend.requests)
}

func TestForwardedPort(t *testing.T) {
	backend := newService(t, nil)
	trust := options{global: "servers {\ntrusted_proxies static 127.0.0.1/32\n}"}
	for name, test := range map[string]struct {
		options   options
		ports     string
		forwarded []string
		want      int
	}{
		"a trusted proxy's counts":                   {trust, "443", []string{"443"}, 200},
		"a trusted proxy's counts against it":        {trust, "PORT", []string{"80"}, 403},
		"with spaces around":                         {trust, "443", []string{" 443 "}, 200},
		"of a trusted proxy that sends none":         {trust, "PORT", nil, 200},
		"of a trusted proxy that sends none, closed": {trust, "443", nil, 403},
		"anyone else's does not count":               {options{}, "443", []string{"443"}, 403},
		"anyone else's does not count against it":    {options{}, "PORT", []string{"80"}, 200},
		"nonsense is as good as none":                {trust, "PORT", []string{"https"}, 200},
	} {
		t.Run(name, func(t *testing.T) {
			g := start(t, "deepgram_callback "+backend.addr+" {\nanonymous\nports "+test.ports+"\n}", test.options)
			header := http.Header{}
			if test.forwarded != nil {
				header["X-Forwarded-Port"] = test.forwarded
			}
			require.Equal(t, test.want, send(t, "POST", g.url, nil, header).StatusCode)
		})
	}
}

func TestUnixSocketHasNoPortToCheck(t *testing.T) {
	backend := newService(t, nil)
	socket := filepath.Join(t.TempDir(), "gateway.sock")
	start(t, "deepgram_callback "+backend.addr+" {\n"+plainAuth+"\n}", options{bind: "unix/" + socket})
	overSocket := &http.Client{Transport: &http.Transport{
		DialContext: func(context.Context, string, string) (net.Conn, error) {
			return net.Dial("unix", socket)
		},
		DisableKeepAlives: true,
	}}
	for _, test := range []struct {
		header http.Header
		want   int
	}{{nil, 401}, {withPassword(), 200}} {
		r, err := http.NewRequest("POST", "http://gateway/", strings.NewReader("body"))
		require.NoError(t, err)
		r.Header = test.header
		res, err := overSocket.Do(r)
		require.NoError(t, err)
		require.NoError(t, res.Body.Close())
		require.Equal(t, test.want, res.StatusCode)
	}
	require.Equal(t, "body", string(backend.next(t).body))
}

func TestMethods(t *testing.T) {
	backend := newService(t, nil)
	for name, test := range map[string]struct {
		config string
		allow  string
		allows []string
	}{
		"by default":        {"", "POST, PUT", []string{"POST", "PUT"}},
		"as configured":     {"methods PATCH", "PATCH", []string{"PATCH"}},
		"GET among them":    {"methods GET POST", "GET, POST", []string{"GET", "POST"}},
		"with streams only": {"stream " + backend.addr, "GET", nil},
	} {
		t.Run(name, func(t *testing.T) {
			upstream := backend.addr
			if strings.HasPrefix(test.config, "stream") {
				upstream = ""
			}
			g := start(t, callback(upstream, "anonymous\n"+test.config))
			allowed := make(map[string]bool)
			for _, method := range test.allows {
				allowed[method] = true
			}
			for _, method := range []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND"} {
				got := send(t, method, g.url, nil, nil)
				if allowed[method] {
					require.Equal(t, 200, got.StatusCode, method)
					continue
				}
				require.Equal(t, 405, got.StatusCode, method)
				require.Equal(t, []string{test.allow}, got.Header["Allow"], method)
			}
			got := sendRaw(t, g.addr, "CONNECT "+backend.addr+" HTTP/1.1\r\nHost: "+backend.addr+"\r\n\r\n")
			require.Equal(t, 405, got.StatusCode)
		})
	}
}

func TestRefusalForCredentialsChallenges(t *testing.T) {
	backend := newService(t, nil)
	for config, want := range map[string][]string{
		plainAuth:      {`Basic realm="restricted", charset="UTF-8"`},
		"dg_token key": {`DeepgramCallback realm="restricted"`},
		strings.Replace(plainAuth, "plain", `plain "Our \"realm\""`, 1) + "query_secret t s": {
			`Basic realm="Our \"realm\"", charset="UTF-8"`, `DeepgramCallback realm="Our \"realm\""`,
		},
	} {
		g := start(t, callback(backend.addr, config))
		got := send(t, "POST", g.url, strings.NewReader("{}"), nil)
		require.Equal(t, 401, got.StatusCode)
		require.Equal(t, want, got.Header["Www-Authenticate"])
	}
}

func TestGuessesAreLimitedAndWhoIsKnownStaysIn(t *testing.T) {
	backend := newService(t, nil)
	hash, err := bcrypt.GenerateFromPassword([]byte("right"), bcrypt.MinCost)
	require.NoError(t, err)
	g := start(t, callback(backend.addr, "guess_limit 2 1h\nbasic_auth {\ndeepgram "+string(hash)+"\n}"))
	login := func(password string) answer {
		r, err := http.NewRequest("POST", g.url, nil)
		require.NoError(t, err)
		r.SetBasicAuth("deepgram", password)
		return do(t, r)
	}
	require.Equal(t, 200, login("right").StatusCode)
	require.Equal(t, 401, login("wrong").StatusCode)
	require.Equal(t, 401, login("also wrong").StatusCode)
	tooMany := login("wrong again")
	require.Equal(t, 429, tooMany.StatusCode)
	require.NotEmpty(t, tooMany.Header.Get("Retry-After"))
	require.Equal(t, 401, login("wrong").StatusCode, "a known wrong one costs nothing")
	require.Equal(t, 200, login("right").StatusCode)
}

func TestRequireAllAndAny(t *testing.T) {
	backend := newService(t, nil)
	const credentials = plainAuth + "dg_token key\nquery_secret token query\ncallback_secret body\n"
	for _, require_ := range []string{"all", "any"} {
		g := start(t, callback(backend.addr, credentials+"require "+require_))
		for shown := range 16 {
			header, url, body := http.Header{}, g.url+"/path?a=1", `{"metadata":{"extra":{}}}`
			if shown&1 != 0 {
				header = withPassword()
			}
			if shown&2 != 0 {
				header.Set("dg-token", "key")
			}
			if shown&4 != 0 {
				url += "&token=query"
			}
			if shown&8 != 0 {
				body = `{"metadata":{"extra":{"callback_secret":"body"}}}`
			}
			want := 401
			if shown == 15 || require_ == "any" && shown != 0 {
				want = 200
			}
			got := send(t, "POST", url, strings.NewReader(body), header)
			require.Equal(t, want, got.StatusCode, "require %s, shown %04b", require_, shown)
			if want == 200 {
				seen := backend.next(t)
				require.Equal(t, body, string(seen.body))
				require.Equal(t, "/path?a=1", seen.RequestURI)
				require.NotContains(t, seen.Header, "Authorization")
			}
		}
	}
	require.Empty(t, backend.requests)
}

func TestNothingReachesTheServiceBeforeTheBodysSecret(t *testing.T) {
	backend := newService(t, nil)
	g := start(t, callback(backend.addr, "callback_secret right"))
	filler := strings.Repeat("word ", 100<<10) // far more than is kept in memory
	body := func(secret string) string {
		return `{"results":{"transcript":"` + filler + `"},"metadata":{"extra":{"callback_secret":"` + secret + `"}}}`
	}
	for name, body := range map[string]string{
		"wrong":                body("wrong"),
		"missing":              `{"results":"` + filler + `","metadata":{}}`,
		"empty":                "",
		"not JSON":             "RIFF" + filler,
		"in the wrong place":   `{"callback_secret":"right","extra":{"callback_secret":"right"},"results":{"metadata":{"extra":{"callback_secret":"right"}}}}`,
		"cut off before it":    `{"results":"` + filler + `"`,
		"twice, first wrong":   `{"metadata":{"extra":{"callback_secret":"wrong","callback_secret":"right"}}}`,
		"an object":            `{"metadata":{"extra":{"callback_secret":{"right":"right"}}}}`,
		"an array of the JSON": `[` + body("right") + `]`,
	} {
		for _, chunked := range []bool{false, true} {
			var r io.Reader = strings.NewReader(body)
			if chunked {
				r = unsized(r)
			}
			got := send(t, "POST", g.url, r, nil)
			require.Equal(t, 401, got.StatusCode, "%s, chunked %v", name, chunked)
		}
	}
	require.Zero(t, backend.accepted.Load(), "the service was connected to")

	// While the secret has not come there is not even a connection.
	right := body("right")
	reader, writer := io.Pipe()
	go func() {
		_, _ = io.WriteString(writer, right[:len(right)-10])
		if n := backend.accepted.Load(); n != 0 {
			_ = writer.CloseWithError(fmt.Errorf("%d connections to the service", n))
			return
		}
		_, _ = io.WriteString(writer, right[len(right)-10:])
		_ = writer.Close()
	}()
	require.Equal(t, 200, send(t, "POST", g.url, reader, nil).StatusCode)
	require.Equal(t, right, string(backend.next(t).body))
}

func TestBodyThatIsTooLong(t *testing.T) {
	const limit = 64 << 10
	backend := newService(t, nil)
	for name, config := range map[string]string{
		"streaming through":            "anonymous",
		"while its secret is searched": "callback_secret right",
		"with retries":                 "anonymous\nrelay {\nlb_retries 3\n}",
	} {
		t.Run(name, func(t *testing.T) {
			g := start(t, callback(backend.addr, config+"\nmax_body 64KiB"))
			body := `{"results":"` + strings.Repeat("x", limit)
			if strings.HasPrefix(config, "anonymous") {
				body = `{"metadata":{"extra":{"callback_secret":"right"}}}` + body
			}
			for _, size := range []int{limit - 1, limit, limit + 1, len(body)} {
				for _, chunked := range []bool{false, true} {
					var r io.Reader = strings.NewReader(body[:size])
					if chunked {
						r = unsized(r)
					}
					want := 200
					if size > limit {
						want = 413
					} else if strings.HasPrefix(config, "callback_secret") {
						want = 401
					}
					got := send(t, "PUT", g.url, r, nil)
					require.Equal(t, want, got.StatusCode, "%d bytes, chunked %v", size, chunked)
				}
			}
		})
	}
	for len(backend.requests) > 0 {
		seen := <-backend.requests
		if seen.bytes > limit {
			require.Error(t, seen.err, "a body that is too long arrived as if it were whole")
		}
	}
}

func TestOnlyStreamsAreTunnelled(t *testing.T) {
	// a service that would switch to any protocol
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer func() { _ = listener.Close() }()
	heads := make(chan string, 10)
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			buf := make([]byte, 4096)
			n, _ := conn.Read(buf)
			heads <- string(buf[:n])
			_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n")
			defer func() { _ = conn.Close() }()
		}
	}()
	g := start(t, callback(listener.Addr().String(), plainAuth+"methods POST GET"))
	auth := "Authorization: " + withPassword().Get("Authorization") + "\r\n"
	for _, request := range []string{
		"POST / HTTP/1.1\r\nHost: x\r\n" + auth + "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\nContent-Length: 0\r\n\r\n",
		"GET / HTTP/1.1\r\nHost: x\r\n" + auth + "Connection: upgrade\r\nUpgrade: TLS/1.3\r\n\r\n",
		"GET / HTTP/1.1\r\nHost: x\r\n" + auth + "Upgrade: websocket\r\n\r\n",
		"GET / HTTP/1.1\r\nHost: x\r\n" + auth + "Connection: upgrade\r\nUpgrade: websocket/9\r\n\r\n",
	} {
		got := sendRaw(t, g.addr, request)
		require.NotEqual(t, 101, got.StatusCode, request)
		head := strings.ToLower(<-heads)
		require.NotContains(t, head, "upgrade", request)
	}
}

func TestUserIsKnownToOthers(t *testing.T) {
	backend := newService(t, nil)
	g := start(t, "log\n"+callback(backend.addr, plainAuth+"relay {\nheader_up X-User {http.auth.user.id}\n}"))
	require.Equal(t, 200, send(t, "POST", g.url, nil, withPassword()).StatusCode)
	require.Equal(t, "deepgram", backend.next(t).Header.Get("X-User"))
	line := g.waitForLog("the access", func(line map[string]any) bool { return line["msg"] == "handled request" })
	require.Equal(t, "deepgram", line["user_id"])
}

func TestErrorsAreShapedByTheirHandlers(t *testing.T) {
	g := start(t, callback(deadAddr(t), plainAuth)+`
		handle_errors {
			respond "shaped: {err.status_code}"
		}
	`)
	got := send(t, "POST", g.url, nil, nil)
	require.Equal(t, 401, got.StatusCode)
	require.Equal(t, "shaped: 401", got.body)
	require.NotEmpty(t, got.Header["Www-Authenticate"])

	got = send(t, "POST", g.url, nil, withPassword())
	require.Equal(t, 502, got.StatusCode)
	require.Equal(t, "shaped: 502", got.body)
}

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
	"time"

	"github.com/gorilla/websocket"
	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/bcrypt"
)

// unsized hides how long a body is from net/http, so that it is sent in chunks.
func unsized(body io.Reader) io.Reader { return struct{ io.Reader }{body} }

// Each callback breaks some of the rules. The first of these, in the order of the
// checks, decides about the answer.
func TestChecksAreMadeInOrder(t *testing.T) {
	backend := newService(t, nil)
	g := start(t, callback(backend.addr, plainAuth+`
		callback_secret body-secret-2025
		max_body 1KiB
	`), options{global: "servers {\ntrusted_proxies static 127.0.0.1/32\n}"})

	const port, method, credentials, size, secret = 1, 2, 4, 8, 16
	for broken := range 32 {
		header := withPassword()
		verb, body := "POST", `{"metadata":{"extra":{"callback_secret":"body-secret-2025"}}}`
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
			body = strings.Replace(body, "body-secret-2025", "wrong", 1)
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
		"a sign is nonsense":                         {trust, "443", []string{"+443"}, 403},
		"what is no port is not allowed":             {trust, "PORT", []string{"70000"}, 403},
		"of a list, the first":                       {trust, "443", []string{"443,80"}, 200},
		"of a list, the first, against it":           {trust, "443", []string{"80,443"}, 403},
		"of a list with spaces":                      {trust, "443", []string{"\t443 , 443"}, 200},
		"of a list with nothing in front":            {trust, "443", []string{" , ,443,80"}, 200},
		"of several fields":                          {trust, "443", []string{"443", "80"}, 200},
		"of several fields, against it":              {trust, "443", []string{"80", "443"}, 403},
		"of several fields, one of them empty":       {trust, "443", []string{"", "443"}, 200},
		"a list of nonsense is as good as none":      {trust, "PORT", []string{"https,443"}, 200},
		"anyone else's list does not count":          {options{}, "443", []string{"443,443"}, 403},
	} {
		t.Run(name, func(t *testing.T) {
			g := start(t, "deepgram_callback "+backend.addr+" {\nanonymous\nports "+test.ports+"\n}",
				test.options)
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
			for _, method := range []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS",
				"TRACE", "PROPFIND"} {
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
		strings.Replace(plainAuth, "plain", `plain "Our \"realm\""`, 1) +
			"query_secret t a-secret-of-2025": {
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
	g := start(t,
		callback(backend.addr, "guess_limit 2 1h\nbasic_auth {\ndeepgram "+string(hash)+"\n}"))
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
	const credentials = plainAuth +
		"dg_token key\nquery_secret token query-0123456789\ncallback_secret body-secret-2025\n"
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
				url += "&token=query-0123456789"
			}
			if shown&8 != 0 {
				body = `{"metadata":{"extra":{"callback_secret":"body-secret-2025"}}}`
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
	g := start(t, callback(backend.addr, "callback_secret right-0123456789ab"))
	filler := strings.Repeat("word ", 100<<10) // far more than is kept in memory
	body := func(secret string) string {
		return `{"results":{"transcript":"` + filler + `"},"metadata":{"extra":{"callback_secret":"` +
			secret + `"}}}`
	}
	for name, body := range map[string]string{
		"wrong":    body("wrong"),
		"missing":  `{"results":"` + filler + `","metadata":{}}`,
		"empty":    "",
		"not JSON": "RIFF" + filler,
		"in the wrong place": `{"callback_secret":"right-0123456789ab",` +
			`"Extra":{"callback_secret":"right-0123456789ab"},` +
			`"results":{"metadata":{"extra":{"callback_secret":"right-0123456789ab"}}}}`,
		"cut off before it": `{"results":"` + filler + `"`,
		"twice, first wrong": `{"metadata":{"extra":{"callback_secret":"wrong",` +
			`"callback_secret":"right-0123456789ab"}}}`,
		"an object": `{"metadata":{"extra":{"callback_secret":{"right-0123456789ab":` +
			`"right-0123456789ab"}}}}`,
		"an array of the JSON": `[` + body("right-0123456789ab") + `]`,
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

	// Before the secret has come, there is not even a connection to the service.
	right := body("right-0123456789ab")
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
		"while its secret is searched": "callback_secret right-0123456789ab",
		"with retries":                 "anonymous\nrelay {\nlb_retries 3\n}",
	} {
		t.Run(name, func(t *testing.T) {
			g := start(t, callback(backend.addr, config+"\nmax_body 64KiB"))
			body := `{"results":"` + strings.Repeat("x", limit)
			if strings.HasPrefix(config, "anonymous") {
				body = `{"metadata":{"extra":{"callback_secret":"right-0123456789ab"}}}` + body
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

// The log says that a body is too long, wherever that is found out.
func TestATooLongBodyIsLoggedWhereverItIsFoundOut(t *testing.T) {
	backend := newService(t, nil)
	long := `{"metadata":{"extra":{"callback_secret":"right-0123456789ab"}},"x":"` +
		strings.Repeat("x", 100<<10) + `"}`
	late := `{"x":"` + strings.Repeat("x", 100<<10) +
		`","metadata":{"extra":{"callback_secret":"right-0123456789ab"}}}`
	for name, test := range map[string]struct{ config, body string }{
		"while it is relayed":                   {"anonymous", long},
		"while it is relayed, with retries":     {"anonymous\nrelay {\nlb_retries 3\n}", long},
		"while it is relayed, its secret right": {"callback_secret right-0123456789ab", long},
		"while its secret is searched":          {"callback_secret right-0123456789ab", late},
		"while the inbox takes it": {"anonymous\nspool {\npath " + t.TempDir() + "\n}",
			long},
		"while the inbox takes it, a small one in memory": {
			"anonymous\nmax_body 1KiB\nspool {\npath " + t.TempDir() + "\n}", long[:2000],
		},
	} {
		t.Run(name, func(t *testing.T) {
			config := test.config
			if !strings.Contains(config, "max_body") {
				config += "\nmax_body 64KiB"
			}
			g := start(t, callback(backend.addr, config))
			for _, chunked := range []bool{true, false} {
				var body io.Reader = strings.NewReader(test.body)
				if chunked {
					body = unsized(body)
				}
				require.Equal(t, 413, send(t, "POST", g.url+"/"+fmt.Sprint(chunked), body, nil).StatusCode)
				line := g.waitForLog("the refusal", func(line map[string]any) bool {
					return line["msg"] == "callback refused: max_body" && line["path"] == "/"+fmt.Sprint(chunked)
				})
				require.EqualValues(t, 413, line["status"])
				require.Equal(t, "127.0.0.1", line["client_ip"])
			}
		})
	}
}

func TestTrailersCarryNoCredentials(t *testing.T) {
	trailers := make(chan http.Header, 10)
	backend := newService(t, func(_ http.ResponseWriter, r *http.Request) { trailers <- r.Trailer })
	for name, config := range map[string]string{
		"relayed":          "anonymous",
		"after its secret": "callback_secret right-0123456789ab",
		"with retries":     "anonymous\nrelay {\nlb_retries 2\nrequest_buffers 1MiB\n}",
	} {
		g := start(t, callback(backend.addr, config))
		for _, announced := range []string{
			"X-Checksum, Authorization, dg-token, Cookie, X-Forwarded-For", "X-Checksum", "Authorization",
		} {
			body := `{"metadata":{"extra":{"callback_secret":"right-0123456789ab"}}}`
			got := sendRaw(t, g.addr,
				"POST / HTTP/1.1\r\nHost: x\r\nTrailer: "+announced+"\r\nTransfer-Encoding: chunked\r\n\r\n"+
					fmt.Sprintf("%x\r\n%s\r\n0\r\n", len(body), body)+
					"X-Checksum: 1\r\nAuthorization: Basic eDp5\r\ndg-token: k\r\nCookie: a=b\r\n"+
					"X-Forwarded-For: 192.0.2.1\r\n"+
					"X-Forwarded-Port: 443\r\nProxy-Authorization: Basic eDp5\r\nHost: other\r\n"+
					"Content-Type: a/b\r\n\r\n")
			require.Equal(t, 200, got.StatusCode, name)
			require.Equal(t, http.Header{"X-Checksum": {"1"}}, <-trailers, "%s, announced: %s",
				name, announced)
		}
	}
}

func TestNobodyStandsInTheLogWithControlCharacters(t *testing.T) {
	live := newEcho(t)
	g := start(t, callback(live.addr, plainAuth))
	const steering = "/%1b%5b2J%c2%9b31m%e2%80%ae"
	require.Equal(t, 401, send(t, "POST", g.url+steering, nil, nil).StatusCode)
	conn, _, err := websocket.DefaultDialer.Dial("ws"+strings.TrimPrefix(g.url, "http")+steering,
		withPassword())
	require.NoError(t, err)
	require.NoError(t, conn.WriteControl(websocket.CloseMessage,
		websocket.FormatCloseMessage(4000, "\u009b2J"), time.Now().Add(patience)))
	_ = conn.Close()
	for _, message := range []string{"callback refused: basic_auth_missing", "stream ended"} {
		line := g.waitForLog(message, func(line map[string]any) bool { return line["msg"] == message })
		require.Equal(t, `/\x1b[2J\u009b31m\u202e`, line["path"])
		if message == "stream ended" {
			require.Equal(t, `\u009b2J`, line["close_text"])
		}
	}
}

func TestTheSecretOfAClosingMetadataCounts(t *testing.T) {
	backend := newService(t, nil)
	g := start(t, callback(backend.addr, "callback_secret right-0123456789ab"))
	for body, want := range map[string]int{
		`{"type":"Metadata","request_id":"1",` +
			`"extra":{"callback_secret":"right-0123456789ab"}}`: 200,
		`{"metadata":{"extra":{}},` +
			`"extra":{"callback_secret":"right-0123456789ab"}}`: 200,
		`{"extra":null,"metadata":{"extra":{"callback_secret":"right-0123456789ab"}}}`: 200,
		`{"extra":{"callback_secret":"wrong"},` +
			`"metadata":{"extra":{"callback_secret":"right-0123456789ab"}}}`: 401,
		`{"extra":{},"extra":{"callback_secret":"right-0123456789ab"}}`:  401,
		`{"channel":{"extra":{"callback_secret":"right-0123456789ab"}}}`: 401,
		`{"type":"UtteranceEnd","channel":[0,1],"last_word_end":2.1}`:    401,
	} {
		require.Equal(t, want, send(t, "POST", g.url, strings.NewReader(body), nil).StatusCode, body)
	}
}

func TestWeakSettingsAreWarnedOf(t *testing.T) {
	g := start(t, callback(deadAddr(t),
		"dg_token name-of-a-key 51f1ad0b-4c3f-4d0e-9f61-0123456789a1 x\nbasic_auth {\n"+
			"dear $2a$19$MAMohYqpRH6Jv1pZAwgMWOpSqn1vYQKoXHhbzv3sTx09SAXw3.ZMm\n}"))
	var warnings []map[string]any
	for _, line := range g.logLines() {
		if line["level"] == "warn" && line["logger"] == "http.handlers.deepgram_callback" {
			warnings = append(warnings, line)
		}
	}
	message := func(i int) string { return warnings[i]["msg"].(string) }
	require.GreaterOrEqual(t, len(warnings), 2)
	require.Contains(t, message(0),
		"dg_token: not what the identifier of a Deepgram API key looks like")
	require.Equal(t, []any{1.0, 3.0}, warnings[0]["which"])
	require.Contains(t, message(1), "takes long to hash on this machine")
	require.Greater(t, warnings[1]["takes"], 2.0)
}

func TestShortSecretsAreRefused(t *testing.T) {
	t.Setenv("TEST_SHORT", "fifteen-letters")
	g := start(t, callback(deadAddr(t), "anonymous"))
	for _, config := range []string{"callback_secret {env.TEST_SHORT}",
		"query_secret t {env.TEST_SHORT}"} {
		require.ErrorContains(t, g.load(callback(deadAddr(t), config), options{}),
			"it has 15 characters, but needs at least 16")
	}
}

func TestOnlyStreamsAreTunnelled(t *testing.T) {
	// The service would switch to any protocol.
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
			_, _ = io.WriteString(conn,
				"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n")
			defer func() { _ = conn.Close() }()
		}
	}()
	g := start(t, callback(listener.Addr().String(), plainAuth+"methods POST GET"))
	auth := "Authorization: " + withPassword().Get("Authorization") + "\r\n"
	for _, request := range []string{
		"POST / HTTP/1.1\r\nHost: x\r\n" + auth +
			"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n" +
			"HTTP2-Settings: AAMAAABkAAQAAP__\r\nContent-Length: 0\r\n\r\n",
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
	g := start(t,
		"log\n"+callback(backend.addr, plainAuth+"relay {\nheader_up X-User {http.auth.user.id}\n}"))
	require.Equal(t, 200, send(t, "POST", g.url, nil, withPassword()).StatusCode)
	require.Equal(t, "deepgram", backend.next(t).Header.Get("X-User"))
	line := g.waitForLog("the access", func(line map[string]any) bool {
		return line["msg"] == "handled request"
	})
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

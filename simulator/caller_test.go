package simulator

import (
	"bytes"
	"crypto/tls"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/gorilla/websocket"
	"github.com/stretchr/testify/require"
)

func TestKeyDecidesWhoMayCall(t *testing.T) {
	request := func(e *env, authorization string) answer {
		req, err := http.NewRequest(http.MethodPost, e.url+"/v1/listen", bytes.NewReader(wav(1, 8000, 1)))
		require.NoError(t, err)
		if authorization != "" {
			req.Header.Set("Authorization", authorization)
		}
		return e.do(req)
	}
	t.Setenv("SIMULATOR_TEST_KEY", "from-env")
	closed := serve(t, &Simulator{
		APIKeys: []APIKey{{"good", "good-id"}, {"{env.SIMULATOR_TEST_KEY}", "env-id"}},
	})
	open := serve(t, &Simulator{})
	for _, good := range []string{"Token good", "token good", "Bearer good", "Token from-env"} {
		require.Equal(t, http.StatusOK, request(closed, good).status, good)
	}
	require.Equal(t, http.StatusOK, request(open, "Token anything").status)
	for _, bad := range []string{"", "Token", "Token ", "Token wrong", "Basic good", "good",
		"Token {env.SIMULATOR_TEST_KEY}"} {
		a := request(closed, bad)
		requireError(t, a, http.StatusUnauthorized, "INVALID_AUTH")
		require.NotEmpty(t, a.header.Get("WWW-Authenticate"))
	}
	requireError(t, request(open, ""), http.StatusUnauthorized, "INVALID_AUTH")
}

// A page of any origin can open a WebSocket, and can post without the browser asking (by a
// form, or fetch with no-cors). After DNS rebinding, the browser takes it for a page of the
// simulator's own origin.
func TestWebPagesOfOtherOriginsAreRefusedUnlessAKeyIsConfigured(t *testing.T) {
	open := serve(t, &Simulator{})
	closed := serve(t, &Simulator{APIKeys: []APIKey{{"a-key", "an-id"}}})
	address := strings.TrimPrefix(open.url, "http://")
	_, port, _ := strings.Cut(address, ":")
	for _, test := range []struct {
		host   string
		header http.Header
		own    bool
	}{
		{address, nil, true},
		{address, http.Header{"Origin": {"http://" + address}}, true},
		{"localhost:" + port, http.Header{"Origin": {"http://LOCALHOST:" + port}}, true},
		{"[::1]:" + port, http.Header{"Origin": {"http://[::1]:" + port},
			"Sec-Fetch-Site": {"same-origin"}}, true},
		{"simulator:8090", http.Header{"Origin": {"http://simulator:8090"}}, true},
		{"simulator.test", http.Header{"Origin": {"http://simulator.test"}}, true},
		{"simulator.example", nil, true},                         // no browser
		{address, http.Header{"Sec-Fetch-Mode": {"cors"}}, true}, // Node.js says that much

		{address, http.Header{"Origin": {"https://evil.example"}}, false},
		{address, http.Header{"Origin": {"https://" + address}}, false},
		{address, http.Header{"Origin": {"http://localhost:" + port}}, false},
		{address, http.Header{"Origin": {"http://127.0.0.1:1"}}, false},
		{address, http.Header{"Origin": {"http://127.0.0.1"}}, false},
		{address, http.Header{"Origin": {"http://" + address, "https://evil.example"}}, false},
		{address, http.Header{"Origin": {"null"}}, false},
		{address, http.Header{"Origin": {""}}, false},
		{address, http.Header{"Origin": {"chrome-extension://abcdef"}}, false},
		{address, http.Header{"Origin": {"%"}}, false},
		{"", http.Header{"Origin": {"http://"}}, false},
		// The page's name was rebound to this machine.
		{"evil.example:" + port, http.Header{"Origin": {"http://evil.example:" + port}}, false},
		{"127.0.0.1.evil.example", http.Header{"Origin": {"http://127.0.0.1.evil.example"}}, false},
		{"evil.example.", http.Header{"Origin": {"http://evil.example."}}, false},
		{address, http.Header{"Sec-Fetch-Site": {"cross-site"}, "Sec-Fetch-Mode": {"no-cors"}}, false},
		{address, http.Header{"Sec-Fetch-Site": {"same-site"}}, false},
	} {
		for e, want := range map[*env]bool{open: test.own, closed: true} {
			for _, kind := range []string{"WebSocket", "text/plain", "application/x-www-form-urlencoded"} {
				req := httptest.NewRequest(http.MethodPost, "/v1/read", strings.NewReader("text"))
				req.Header.Set("Content-Type", kind)
				if kind == "WebSocket" {
					req = httptest.NewRequest(http.MethodGet, "/v1/listen?encoding=morse", nil)
					req.Header.Set("Connection", "Upgrade")
					req.Header.Set("Upgrade", "websocket")
					req.Header.Set("Sec-WebSocket-Protocol", "token, a-key")
				} else {
					req.Header.Set("Authorization", "Token a-key")
				}
				req.Host = test.host
				for name, values := range test.header {
					req.Header[name] = values
				}
				w := httptest.NewRecorder()
				require.NoError(t, e.sim.ServeHTTP(w, req, nil))
				require.Equal(t, want, w.Code != http.StatusForbidden, "%s to %s with %v: %d", kind,
					test.host, test.header, w.Code)
			}
		}
	}
}

// With TLS a certificate has proved that the name is the simulator's.
func TestWithTLSAnyNameCanBeItsOwn(t *testing.T) {
	req := httptest.NewRequest(http.MethodGet, "https://simulator.example/v1/listen", nil)
	req.TLS = new(tls.ConnectionState)
	req.Header.Set("Origin", "https://simulator.example")
	require.False(t, fromForeignPage(req))
	req.Header.Set("Origin", "http://simulator.example")
	require.True(t, fromForeignPage(req))
}

// For a WebSocket of a foreign page no callback is made, of whatever kind.
func TestAPagesWebSocketCallsNobody(t *testing.T) {
	e := serve(t, &Simulator{})
	batch, socket := newReceiver(t), newSocketReceiver(t)
	browser := websocket.Dialer{Subprotocols: []string{"token", "anything"}}
	for _, callback := range []string{batch.URL, socket.with("", "/")} {
		target := strings.Replace(e.url, "http", "ws", 1) + "/v1/listen?" +
			pairs([]string{"callback", callback}).Encode()
		_, resp, err := browser.Dial(target, http.Header{"Origin": {"https://evil.example"}})
		require.ErrorIs(t, err, websocket.ErrBadHandshake)
		require.Equal(t, http.StatusForbidden, resp.StatusCode)
		require.Contains(t, resp.Header.Get("dg-error"), "api_key")
	}
	require.Empty(t, batch.got)
	require.Empty(t, socket.got)
}

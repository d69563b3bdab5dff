package handler_test

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/crypto/bcrypt"

	"github.com/caddy-deepgram/deepgram-callback/app"
)

// refusingSite has a path for each way in which a callback is refused.
func refusingSite(t *testing.T) string {
	t.Helper()
	backend := newService(t, nil)
	hash, err := bcrypt.GenerateFromPassword([]byte("right"), bcrypt.MinCost)
	require.NoError(t, err)
	var site strings.Builder
	for path, block := range map[string]string{
		"/plain":   plainAuth + "max_body 1KiB",
		"/hashed":  "guess_limit 1 1h\nbasic_auth {\ndeepgram " + string(hash) + "\n}",
		"/token":   "dg_token key",
		"/query":   "query_secret token " + secretQuery,
		"/body":    "callback_secret " + secretBody,
		"/off":     "anonymous\nstream off",
		"/rewrite": "anonymous\nrelay {\nheader_up X-A {query.a}\n}",
		"/spool":   "anonymous\nmax_body 1MiB\n" + inbox(t.TempDir(), "max_size 1MiB"),
	} {
		upstream := backend.addr
		if path == "/spool" {
			upstream = deadAddr(t)
		}
		fmt.Fprintf(&site, "handle %s {\n%s}\n", path, callback(upstream, block))
	}
	fmt.Fprintf(&site, "handle {\ndeepgram_callback %s {\nanonymous\nports 1\n}\n}\n", backend.addr)
	return site.String()
}

// What is refused for any reason is noted with what it was, before a callback is
// admitted and after.
func TestRefusedCallbacksAreNoted(t *testing.T) {
	g := start(t, refusingSite(t), options{global: "servers {\ntimeouts {\nread_body 1s\n}\n}"})
	login := "Authorization: Basic " +
		base64.StdEncoding.EncodeToString([]byte("deepgram:"+password))
	chunked := login + "\r\nTransfer-Encoding: chunked"
	metadata := `{"metadata":{"extra":{"callback_secret":"` + wrongSecret + `"}}}`
	tooLong := strings.Repeat("x", 2000)
	chunkTooLong := "7d0\r\n" + tooLong + "\r\n0\r\n\r\n"
	guess := func(n int) string {
		login := fmt.Appendf(nil, "deepgram:%s-%d", wrongSecret, n)
		return "Authorization: Basic " + base64.StdEncoding.EncodeToString(login)
	}
	const upgrade = "Connection: Upgrade\r\nUpgrade: websocket"
	for _, test := range []struct {
		name, method, path string
		header, body       string // the length is declared, unless the header says how it is
		size               int64
		status             int
		reason             string
	}{
		{"target", "POST", "http://user:" + wrongSecret + "@gateway/plain", "", "", 0, 400, "target"},
		{"port", "POST", "/elsewhere", "", "{}", 2, 403, "port"},
		{"method", "DELETE", "/plain", "", "", 0, 405, "method"},
		{"streams off", "GET", "/off", upgrade, "", 0, 405, "method"},
		{"password missing", "POST", "/plain", "", "{}", 2, 401, "basic_auth_missing"},
		{"password wrong", "PUT", "/plain", guess(0), "{}", 2, 401, "basic_auth_wrong"},
		{"guess", "POST", "/hashed", guess(1), "{}", 2, 401, "basic_auth_wrong"},
		{"guess too many", "POST", "/hashed", guess(2), "{}", 2, 429, "guess_limit"},
		{"token missing", "POST", "/token", "", "{}", 2, 401, "dg_token_missing"},
		{"token wrong", "POST", "/token", "dg-token: " + wrongSecret, "{}", 2, 401, "dg_token_wrong"},
		{"secret wrong in the query", "POST", "/query", "", "{}", 2, 401, "query_secret_wrong"},
		{"secret missing in the body", "POST", "/body", "", "{}", 2, 401, "callback_secret_missing"},
		{"secret wrong in the body", "POST", "/body", "", metadata, 57, 401, "callback_secret_wrong"},
		{"audio", "POST", "/body", "", "RIFF", 4, 401, "callback_secret_not_json"},
		{"body too slow", "POST", "/body", "Content-Length: 100", `{"metad`, 100, 408, "body_timeout"},
		{"declared length", "POST", "/plain", login, tooLong, 2000, 413, "max_body"},
		{"actual length", "POST", "/plain", chunked, chunkTooLong, -1, 413, "max_body"},
		{"broken chunk", "POST", "/plain", chunked, "ZZ\r\n", -1, 400, "body"},
		{"unwritable", "POST", "/rewrite", "", "{}", 2, 400, "unwritable"},
		{"handshake", "GET", "/plain", login + "\r\n" + upgrade, "", 0, 426, "handshake"},
	} {
		t.Run(test.name, func(t *testing.T) {
			before := time.Now()
			header := test.header
			if header != "" {
				header += "\r\n"
			}
			if !strings.Contains(header, "Content-Length") && !strings.Contains(header, "chunked") {
				header += fmt.Sprintf("Content-Length: %d\r\n", len(test.body))
			}
			target := test.path + "?a=%0d%0a&token=" + wrongSecret
			got := sendRaw(t, g.addr, fmt.Sprintf("%s %s HTTP/1.1\r\nHost: gateway\r\n%s\r\n%s",
				test.method, target, header, test.body))
			require.Equal(t, test.status, got.StatusCode)

			noted := app.ThisProcess().Refusals.List()[0]
			require.WithinRange(t, noted.At, before, time.Now())
			kind := "batch"
			if strings.Contains(test.header, upgrade) {
				kind = "stream"
			}
			path := test.path[strings.LastIndexByte(test.path, '/'):]
			require.Equal(t, app.Refusal{
				At: noted.At, Reason: test.reason, Status: test.status, Kind: kind, Method: test.method,
				Host: "gateway", Path: path, ClientIP: "127.0.0.1", Size: test.size,
			}, noted)
			require.NotEmpty(t, app.Remedy(noted.Reason))
		})
	}
	everything := fmt.Sprint(app.ThisProcess().Refusals.List())
	for _, secret := range append(secrets(), password) {
		require.NotContains(t, everything, secret)
	}
}

func TestRefusalsOfTheInboxAndOfStreamsAreNoted(t *testing.T) {
	site := refusingSite(t)
	g := start(t, site)
	refused := func() bool {
		got := send(t, "POST", g.url+"/spool", noise(200<<10), nil)
		return got.StatusCode == http.StatusServiceUnavailable
	}
	require.Eventually(t, refused, patience, time.Millisecond)
	noted := app.ThisProcess().Refusals.List()[0]
	require.Equal(t, "inbox_full", noted.Reason)
	require.Equal(t, http.StatusServiceUnavailable, noted.Status)

	g.reload(site)
	require.Equal(t, noted, app.ThisProcess().Refusals.List()[0], "a reload forgot it")

	live := newEcho(t)
	g.reload(callback(live.addr, "anonymous\nstream {\nmax_streams 1\n}"))
	only := open(t, g, nil)
	require.Equal(t, http.StatusServiceUnavailable, refusedStream(t, g, nil).StatusCode)
	require.NoError(t, only.Close())
	noted = app.ThisProcess().Refusals.List()[0]
	require.Equal(t, "max_streams", noted.Reason)
	require.Equal(t, "stream", noted.Kind)
}

// The log says nothing else.
func TestARefusalsLogLineHasNoQueryInItsPath(t *testing.T) {
	g := start(t, callback(newService(t, nil).addr, plainAuth))
	require.Equal(t, 401, send(t, "POST", g.url+"/escaped%3Ftoken="+wrongSecret, nil, nil).StatusCode)
	line := g.waitForLog("the refusal", func(line map[string]any) bool {
		return line["msg"] == "callback refused: basic_auth_missing"
	})
	require.Equal(t, "/escaped", line["path"])
	require.Equal(t, "/escaped", app.ThisProcess().Refusals.List()[0].Path)
}

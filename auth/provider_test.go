package auth

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp/caddyauth"
	"github.com/stretchr/testify/require"
)

// authenticated serves what Caddy's own authentication handler lets through, and
// answers with the user and the body that came.
func authenticated(t *testing.T, providers string) http.Handler {
	t.Helper()
	ctx, cancel := caddy.NewContext(caddy.Context{Context: context.Background()})
	t.Cleanup(cancel)
	handler := new(caddyauth.Authentication)
	require.NoError(t, json.Unmarshal([]byte(`{"providers":`+providers+`}`), handler))
	require.NoError(t, handler.Provision(ctx))
	next := caddyhttp.HandlerFunc(func(w http.ResponseWriter, r *http.Request) error {
		repl := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
		user, _ := repl.GetString("http.auth.user.id")
		w.Header().Set("User", user)
		_, err := io.Copy(w, r.Body)
		return err
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r = caddyhttp.PrepareRequest(r, caddy.NewReplacer(), w, &caddyhttp.Server{})
		err := handler.ServeHTTP(w, r, next)
		if refused, ok := errors.AsType[caddyhttp.HandlerError](err); ok {
			w.WriteHeader(refused.StatusCode)
		}
	})
}

type answer struct {
	status int
	header http.Header
	body   string
}

func call(t *testing.T, server *httptest.Server, body string, prepare func(*http.Request)) answer {
	t.Helper()
	r, err := http.NewRequest(http.MethodPost, server.URL, strings.NewReader(body))
	require.NoError(t, err)
	if prepare != nil {
		prepare(r)
	}
	response, err := server.Client().Do(r)
	require.NoError(t, err)
	defer func() { _ = response.Body.Close() }()
	text, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	return answer{status: response.StatusCode, header: response.Header, body: string(text)}
}

func serve(t *testing.T, handler http.Handler) *httptest.Server {
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	return server
}

func TestProviderInCaddysAuthenticationHandler(t *testing.T) {
	server := serve(t,
		authenticated(t, `{"deepgram":{`+plainConfig+`,"callback_secret":["old-secret-of-2025"]}}`))
	body := `{` + filler(300_000) + `"metadata":{"extra":{"callback_secret":"old-secret-of-2025"}}}`
	alice := func(r *http.Request) { r.SetBasicAuth("alice", longPassword) }

	got := call(t, server, body, alice)
	require.Equal(t, http.StatusOK, got.status)
	require.Equal(t, "alice", got.header.Get("User"))
	require.True(t, body == got.body, "the body was changed")

	got = call(t, server, body, nil)
	require.Equal(t, http.StatusUnauthorized, got.status)
	require.Equal(t, []string{`Basic realm="restricted", charset="UTF-8"`,
		`DeepgramCallback realm="restricted"`}, got.header.Values("WWW-Authenticate"))

	got = call(t, server, `{"metadata":{"extra":{"callback_secret":"wrong"}}}`, alice)
	require.Equal(t, http.StatusUnauthorized, got.status)
	require.NotEmpty(t, got.header.Values("WWW-Authenticate"))
	require.Empty(t, got.body)
	require.Eventually(t, func() bool { return bodyRoom.used() == 0 },
		10*time.Second, time.Millisecond)
}

func TestProviderLeavesTheBodyWholeForAnotherProvider(t *testing.T) {
	server := serve(t, authenticated(t, `{
		"deepgram": {"callback_secret": ["old-secret-of-2025"]},
		"http_basic": {"accounts": [{"username": "alice", "password": "`+bcryptHash+`"}]}
	}`))
	alice := func(r *http.Request) { r.SetBasicAuth("alice", "correct horse") }
	for _, body := range []string{
		`{` + filler(300_000) + `"metadata":{"extra":{"callback_secret":"wrong"}}}`,
		strings.Repeat("RIFF", 100_000),
		"",
	} {
		for range 8 { // the handler takes its providers in any order
			got := call(t, server, body, alice)
			require.Equal(t, http.StatusOK, got.status)
			require.Equal(t, "alice", got.header.Get("User"))
			require.True(t, body == got.body, "the body was changed")
		}
	}
	require.Eventually(t, func() bool { return bodyRoom.used() == 0 },
		10*time.Second, time.Millisecond)
}

// A handler that answers without having closed the body must not leave its file
// open.
func TestProviderReleasesTheFileWhenTheRequestEnds(t *testing.T) {
	p := provider(t, `{"callback_secret":["old-secret-of-2025"]}`)
	for _, secret := range []string{"old-secret-of-2025", "wrong"} {
		ctx, cancel := context.WithCancel(context.Background())
		body := `{` + filler(300_000) + `"metadata":{"extra":{"callback_secret":"` + secret + `"}}}`
		r := httptest.NewRequest(http.MethodPost, "/", strings.NewReader(body)).WithContext(ctx)
		_, admitted, err := p.Authenticate(httptest.NewRecorder(), r)
		require.NoError(t, err)
		require.Equal(t, secret == "old-secret-of-2025", admitted)
		require.Positive(t, bodyRoom.used())
		cancel()
		require.Eventually(t, func() bool { return bodyRoom.used() == 0 },
			10*time.Second, time.Millisecond)
	}
}

func provider(t *testing.T, config string) *Provider {
	t.Helper()
	p := new(Provider)
	require.NoError(t, json.Unmarshal([]byte(config), p))
	ctx, cancel := caddy.NewContext(caddy.Context{Context: context.Background()})
	t.Cleanup(cancel)
	require.NoError(t, p.Provision(ctx))
	return p
}

func TestProviderBoundsTheBodyThatItSearches(t *testing.T) {
	require.EqualValues(t, 64<<20, provider(t, `{"callback_secret":["old-secret-of-2025"]}`).MaxBody)

	p := provider(t, `{"callback_secret":["old-secret-of-2025"],"max_body":1000}`)
	body := `{` + filler(1000) + `"metadata":{"extra":{"callback_secret":"old-secret-of-2025"}}}`
	w := httptest.NewRecorder()
	_, admitted, err := p.Authenticate(w,
		httptest.NewRequest(http.MethodPost, "/", strings.NewReader(body)))
	require.False(t, admitted)
	_, tooLarge := errors.AsType[*http.MaxBytesError](err)
	require.True(t, tooLarge, "%v", err)
}

func TestProviderTellsWhenToRetry(t *testing.T) {
	p := provider(t,
		`{"basic_auth":{"accounts":[{"username":"alice","password":"`+bcryptHash+
			`"}]},"guess_limit":{"guesses":1,"window":60000000000}}`)
	for i, want := range []string{"", "60"} {
		w := httptest.NewRecorder()
		r := request(http.MethodPost, "/")
		r.SetBasicAuth("alice", "wrong "+string(bytes.Repeat([]byte{'x'}, i)))
		_, admitted, err := p.Authenticate(w, r)
		require.NoError(t, err, "a refusal is no technical error")
		require.False(t, admitted)
		require.Equal(t, want, w.Header().Get("Retry-After"))
	}
}

func TestProviderRefusesANegativeLimit(t *testing.T) {
	p := Provider{Policy: Policy{Anonymous: true}, MaxBody: -1}
	ctx, cancel := caddy.NewContext(caddy.Context{Context: context.Background()})
	defer cancel()
	require.ErrorContains(t, p.Provision(ctx), "max_body: -1 is negative")
}

package deliver

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/stretchr/testify/require"

	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
)

// of is r as Caddy gives it to a handler.
func of(r *http.Request) *http.Request {
	vars := map[string]any{caddyhttp.ClientIPVarKey: "192.0.2.1"}
	return r.WithContext(context.WithValue(r.Context(), caddyhttp.VarsCtxKey, vars))
}

func TestFieldsOfTheConnectionAreNotStored(t *testing.T) {
	r := httptest.NewRequest("POST", "http://x/", nil)
	r.Header = http.Header{
		"Connection": {"close, x-one", " X-TWO ,,\tx-three"},
		"X-One":      {"1"}, "X-Two": {"2"}, "X-Three": {"3"}, "X-Four": {"4"}, "Keep-Alive": {"5"},
		"Content-Length": {"6"},
	}
	stored := Stored(of(r))
	for _, gone := range []string{"Connection", "X-One", "X-Two", "X-Three", "Keep-Alive",
		"Content-Length"} {
		require.NotContains(t, stored, gone)
	}
	require.Equal(t, []string{"4"}, stored["X-Four"])
	require.Contains(t, r.Header, "X-One", "the request stays as it is")
}

// A service may rely on the fields that the gateway adds.
func TestWhatTheGatewayAddsIsNotTakenFromASender(t *testing.T) {
	r := httptest.NewRequest("POST", "http://x/", nil)
	for _, name := range []string{"webhook-id", "webhook-timestamp", "webhook-signature",
		"deepgram-request-id", "deepgram-stream-id", "deepgram-stream-sequence", "deepgram-stream-end"} {
		r.Header.Set(name, "forged")
	}
	for name, values := range Stored(of(r)) {
		require.NotContains(t, values, "forged", name)
	}
}

// Storing once took time in proportion to the number of fields times that of names in Connection:
// minutes for as many of each as here.
func TestStoringAHeaderLooksAtEachFieldAndNameOnce(t *testing.T) {
	const n = 100_000
	r := httptest.NewRequest("POST", "http://x/", nil)
	names := make([]string, n)
	for i := range n {
		names[i] = fmt.Sprint("y-", i)
		r.Header[fmt.Sprint("X-", i)] = []string{"v"}
	}
	r.Header.Set("Connection", strings.Join(names, ","))
	began := time.Now()
	require.Greater(t, len(Stored(of(r))), n)
	require.Less(t, time.Since(began), 10*time.Second)
}

func TestWhatCannotBeMadeARequestIsUndeliverable(t *testing.T) {
	good := func() *spool.Message {
		return &spool.Message{
			Method: "POST",
			URI:    "/c?x",
			Header: http.Header{"X": {"y"}, ":host": {"example.com"}},
		}
	}
	for name, spoil := range map[string]func(*spool.Message){
		"opaque":          func(m *spool.Message) { m.URI = "x:p0" },
		"asterisk":        func(m *spool.Message) { m.URI = "*" },
		"empty":           func(m *spool.Message) { m.URI = "" },
		"absolute":        func(m *spool.Message) { m.URI = "http://example.com/" },
		"no encoding":     func(m *spool.Message) { m.URI = "/%zz" },
		"control":         func(m *spool.Message) { m.URI = "/\x00" },
		"method":          func(m *spool.Message) { m.Method = "PO ST" },
		"no method":       func(m *spool.Message) { m.Method = "" },
		"host":            func(m *spool.Message) { m.Header[":host"] = []string{"a b\n"} },
		"name of a field": func(m *spool.Message) { m.Header["X Y"] = []string{"z"} },
		"value":           func(m *spool.Message) { m.Header["X"] = []string{"a\r\nb"} },
	} {
		m := good()
		spoil(m)
		result := (&Service{}).Deliver(t.Context(), m, emptyBody{strings.NewReader("")})
		require.Equal(t, spool.OutcomeUndeliverable, result.Outcome(), name)
		require.NotEmpty(t, result.String())
	}
	_, err := (&Service{}).request(t.Context(), good(), emptyBody{strings.NewReader("")},
		httptest.NewRecorder())
	require.NoError(t, err)
}

type emptyBody struct{ *strings.Reader }

func (emptyBody) Close() error { return nil }

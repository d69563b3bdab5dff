package api_test

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

// discarded is an answer that nobody reads.
type discarded struct{ header http.Header }

func (d *discarded) Header() http.Header {
	if d.header == nil {
		d.header = make(http.Header)
	}
	return d.header
}
func (*discarded) Write(b []byte) (int, error) { return len(b), nil }
func (*discarded) WriteHeader(int)             {}

func request(ctx context.Context, method, uri string) *http.Request {
	return httptest.NewRequestWithContext(ctx, method, uri, nil)
}

// FuzzSelection asks for whatever a query selects. A list, a count and a dry run agree on how much
// that is, and nothing that makes no sense is taken for all there is.
func FuzzSelection(f *testing.F) {
	h := newHistory(f)
	h.accept("kept", "/fine", "u", "r-1")
	h.accept("unix//s", "/fine", "v", "r-2")
	h.accept("kept", "/gone", "u", "r-1")
	for _, query := range []string{
		"", "state=dead", "state=delivered&route=unix//s", "request_id=r-1&user=u", "state=x",
		"since=2h&until=1s", "since=2026-11-25T14:00:00+01:00", "since=1h&until=2h", "since=-1h",
		"state=dead&state=delivered", "route=", "path=/none", "limit=1", "%zz", "a;b", "user=%00",
	} {
		f.Add(query)
	}
	f.Fuzz(func(t *testing.T, query string) {
		uri := &url.URL{Path: "/spool/count", RawQuery: query}
		ask := func(method, path string) *httptest.ResponseRecorder {
			w := httptest.NewRecorder()
			r := request(t.Context(), method, "/")
			r.URL = &url.URL{Path: path, RawQuery: uri.RawQuery}
			h.ServeHTTP(w, r)
			return w
		}
		counted := ask(http.MethodGet, "/spool/count")
		listed := ask(http.MethodGet, "/spool/messages")
		for _, w := range []*httptest.ResponseRecorder{counted, listed} {
			require.Contains(t, []int{http.StatusOK, http.StatusBadRequest, http.StatusNotFound}, w.Code)
			require.True(t, json.Valid(w.Body.Bytes()), "%s", w.Body)
		}
		if counted.Code != http.StatusOK {
			return
		}
		var count struct{ Count int }
		require.NoError(t, json.Unmarshal(counted.Body.Bytes(), &count))
		var messages []struct{ State, Route, User string }
		require.NoError(t, json.Unmarshal(listed.Body.Bytes(), &messages))
		require.Len(t, messages, count.Count)

		values, err := url.ParseQuery(query)
		require.NoError(t, err, "a query that cannot be read was taken")
		ended := 0
		for _, m := range messages {
			require.Contains(t, []string{"", m.State}, values.Get("state"))
			require.Contains(t, []string{"", m.Route}, values.Get("route"))
			require.Contains(t, []string{"", m.User}, values.Get("user"))
			if m.State != "pending" {
				ended++
			}
		}
		uri.RawQuery = query + "&dry_run=true"
		dry := ask(http.MethodPost, "/spool/replay")
		if dry.Code == http.StatusBadRequest {
			return
		}
		require.Equal(t, http.StatusOK, dry.Code, "%s", dry.Body)
		require.False(t, slices.Contains([]string{"", "pending"}, values.Get("state")) &&
			values.Get("request_id")+values.Get("since")+values.Get("until") == "",
			"everything was selected without a word")
		var would struct{ Selected int }
		require.NoError(t, json.NewDecoder(bytes.NewReader(dry.Body.Bytes())).Decode(&would))
		require.Equal(t, ended, would.Selected)
	})
}

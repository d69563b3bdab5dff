package admin_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/stretchr/testify/require"

	"github.com/caddy-deepgram/deepgram-callback/admin"
	"github.com/caddy-deepgram/deepgram-callback/app"
	"github.com/caddy-deepgram/deepgram-callback/internal/caddytest"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
)

func keys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

func TestStatusCountsOverAllInboxesAndInEach(t *testing.T) {
	first, second := t.TempDir(), t.TempDir()
	g := start(t, map[string][]string{first: {"hooks", "other"}, second: {"hooks"}}, nil)
	began := time.Now()
	g.refused(first, "hooks")
	g.dead(first, "other")
	g.refused(second, "hooks")

	var got map[string]any
	g.get("/spool", &got)
	require.Equal(t, []string{"dead", "dead_bytes", "delivered", "delivered_bytes", "disk_bytes",
		"in_flight", "inboxes", "oldest_pending", "pending", "pending_bytes", "retrying"}, keys(got))
	require.EqualValues(t, 2, got["pending"])
	require.EqualValues(t, 1, got["dead"])
	require.Positive(t, got["pending_bytes"])
	oldest, err := time.Parse(time.RFC3339Nano, got["oldest_pending"].(string))
	require.NoError(t, err)
	require.WithinRange(t, oldest, began, time.Now())

	inboxes := got["inboxes"].(map[string]any)
	require.Equal(t, slices.Sorted(slices.Values([]string{first, second})), keys(inboxes))
	in := inboxes[first].(map[string]any)
	require.Equal(t, []string{"dead", "dead_bytes", "delivered", "delivered_bytes", "disk_bytes",
		"fingerprints", "in_flight", "max_bytes", "oldest_pending", "pending", "pending_bytes", "retrying", "routes"}, keys(in))
	require.EqualValues(t, 1, in["pending"])
	require.EqualValues(t, 1<<30, in["max_bytes"])
	routes := in["routes"].(map[string]any)
	require.Equal(t, []string{"hooks", "other"}, keys(routes))
	other := routes["other"].(map[string]any)
	require.EqualValues(t, 1, other["dead"])
	require.Equal(t, true, other["configured"])
	require.Equal(t, false, other["down"])

	g.get("/spool?path="+url.QueryEscape(second), &got)
	require.Equal(t, []string{second}, keys(got["inboxes"].(map[string]any)))
}

// messageKeys are what other programs rely on.
var messageKeys = []string{
	"attempts", "content_type", "delivered_at", "died_at", "id", "last_error", "method",
	"next_attempt_at", "path", "received_at", "replayed", "request_id", "route", "size", "state",
	"uri", "user",
}

// detailKeys are what one has beside who is asked for alone.
var detailKeys = slices.Sorted(slices.Values(append([]string{"header", "history", "host"},
	messageKeys...)))

func TestMessagesAreShownWithAllTheirKeys(t *testing.T) {
	g, path := one(t)
	began := time.Now()
	pending := g.accept(path, "hooks", "/refused?a=1",
		strings.NewReader(`{"metadata":{"request_id":"r-1"}}`),
		http.Header{"Content-Type": {"application/json"}})
	g.wait(path, pending, func(m *spool.Message) bool { return m.Tries == 1 })
	dead := g.accept(path, "other", "/gone", strings.NewReader("x"), nil)
	g.wait(path, dead, func(m *spool.Message) bool { return m.State == spool.Dead })

	var messages []map[string]any
	g.get("/spool/messages", &messages)
	require.Len(t, messages, 2)
	for _, m := range messages {
		require.Equal(t, messageKeys, keys(m))
	}
	times := func(m map[string]any, name string) time.Time {
		at, err := time.Parse(time.RFC3339Nano, m[name].(string))
		require.NoError(t, err, name)
		return at
	}
	first := messages[0]
	require.WithinRange(t, times(first, "received_at"), began, time.Now())
	require.WithinRange(t, times(first, "next_attempt_at"), began.Add(48*time.Minute),
		time.Now().Add(72*time.Minute))
	delete(first, "received_at")
	delete(first, "next_attempt_at")
	require.Equal(t, map[string]any{
		"id": pending.String(), "state": "pending", "path": path, "route": "hooks", "method": "POST",
		"uri": "/refused?a=REDACTED", "content_type": "application/json", "size": 33.0,
		"request_id": "r-1", "user": "",
		"attempts": 1.0, "died_at": nil, "last_error": "the service answered 400 Bad Request",
		"delivered_at": nil, "replayed": false,
	}, first)

	second := messages[1]
	require.WithinRange(t, times(second, "received_at"), began, time.Now())
	require.WithinRange(t, times(second, "died_at"), began, time.Now())
	delete(second, "received_at")
	delete(second, "died_at")
	require.Equal(t, map[string]any{
		"id": dead.String(), "state": "dead", "path": path, "route": "other", "method": "POST",
		"uri": "/gone", "content_type": "", "size": 1.0, "request_id": "", "user": "",
		"attempts": 1.0, "next_attempt_at": nil, "last_error": "the service answered 410 Gone",
		"delivered_at": nil, "replayed": false,
	}, second)

	var shown map[string]any
	g.get("/spool/messages/"+dead.String(), &shown)
	require.Equal(t, detailKeys, keys(shown))
	require.Equal(t, dead.String(), shown["id"])
}

func TestURIsAreNotEscapedForHTML(t *testing.T) {
	g, path := one(t)
	id := g.accept(path, "hooks", "/refused?a=1&b=2", body(), nil)
	require.Contains(t, string(g.do(http.MethodGet, "/spool/messages/"+id.String()).body),
		`"uri":"/refused?a=REDACTED&b=REDACTED"`)
}

func TestListsAreSelectedAndPagedOverAllInboxes(t *testing.T) {
	first, second := t.TempDir(), t.TempDir()
	g := start(t, map[string][]string{first: {"hooks", "other"}, second: {"hooks"}}, nil)
	require.Empty(t, g.list(""))

	var all, dead, pending, hooks, inSecond []string
	for i := range 12 {
		path, route := first, "hooks"
		switch i % 3 {
		case 1:
			route = "other"
		case 2:
			path = second
		}
		kind, make := &pending, g.refused
		if i%2 == 0 {
			kind, make = &dead, g.dead
		}
		id := make(path, route).String()
		all = append(all, id)
		*kind = append(*kind, id)
		if route == "hooks" {
			hooks = append(hooks, id)
		}
		if path == second {
			inSecond = append(inSecond, id)
		}
	}
	// Two inboxes give out ids of their own, so they rise, but maybe not in this order.
	for _, ids := range [][]string{all, dead, pending, hooks} {
		slices.Sort(ids)
	}
	require.Equal(t, all, g.list(""))
	require.Equal(t, all, g.list("?state=&route=&limit=&after="))
	require.Equal(t, dead, g.list("?state=dead"))
	require.Equal(t, pending, g.list("?state=pending"))
	require.Equal(t, hooks, g.list("?route=hooks"))
	require.Equal(t, inSecond, g.list("?path="+url.QueryEscape(second)))
	require.Empty(t, g.list("?route=none"))

	for size := 1; size <= len(all)+1; size++ {
		var paged []string
		for after := ""; ; after = paged[len(paged)-1] {
			page := g.list(fmt.Sprintf("?limit=%d&after=%s", size, after))
			require.LessOrEqual(t, len(page), size)
			if len(page) == 0 {
				break
			}
			paged = append(paged, page...)
		}
		require.Equal(t, all, paged, "pages of %d", size)
	}
}

func TestBodiesComeByteForByteAndAreNothingABrowserRuns(t *testing.T) {
	g, path := one(t)
	for _, length := range []int{0, 1, 1500, 64 << 10, 64<<10 + 1, 5 << 20} {
		content := make([]byte, length)
		_, _ = rand.NewChaCha8([32]byte{byte(length)}).Read(content)
		id := g.accept(path, "hooks", fmt.Sprintf("/refused?%d", length), bytes.NewReader(content),
			http.Header{"Content-Type": {"text/html"}})

		for _, method := range []string{http.MethodGet, http.MethodHead} {
			a := g.do(method, "/spool/messages/"+id.String()+"/body")
			require.Equal(t, http.StatusOK, a.StatusCode)
			require.Equal(t, "application/octet-stream", a.Header.Get("Content-Type"))
			require.Equal(t, "nosniff", a.Header.Get("X-Content-Type-Options"))
			require.Equal(t, `attachment; filename="`+id.String()+`"`, a.Header.Get("Content-Disposition"))
			require.EqualValues(t, length, a.ContentLength)
			if method == http.MethodGet {
				require.Equal(t, sha256.Sum256(content), sha256.Sum256(a.body), "%d bytes", length)
			}
		}
	}
}

func TestADamagedBodyIsAnErrorAndNotHalfAnAnswer(t *testing.T) {
	g, path := one(t)
	id := g.accept(path, "hooks", "/refused", strings.NewReader(strings.Repeat("a", 1<<20)), nil)
	files, err := filepath.Glob(filepath.Join(path, "bodies", "*.body"))
	require.NoError(t, err)
	require.Len(t, files, 1)
	g.wait(path, id, func(m *spool.Message) bool { return m.Tries == 1 })
	require.NoError(t, os.WriteFile(files[0], bytes.Repeat([]byte("b"), 1<<20), 0o600))

	a := g.do(http.MethodGet, "/spool/messages/"+id.String()+"/body")
	require.Contains(t, a.refusal(t, http.StatusInternalServerError), "damaged")
	require.NotContains(t, string(a.body), "bbb")
}

func TestAMessageIsReplayed(t *testing.T) {
	g, path := one(t)
	for _, id := range []spool.ID{g.dead(path, "hooks"), g.refused(path, "hooks")} {
		// Still refused: it is tried once more, with a fresh schedule.
		a := g.do(http.MethodPost, "/spool/messages/"+id.String()+"/replay")
		require.Equal(t, http.StatusOK, a.StatusCode)
		require.JSONEq(t, `{"replayed":1}`, string(a.body))
		g.wait(path, id, func(m *spool.Message) bool { return m.Tries == 1 })
	}
	id := g.dead(path, "hooks")
	g.service.mend()
	require.Equal(t, http.StatusOK,
		g.do(http.MethodPost, "/spool/messages/"+id.String()+"/replay").StatusCode)
	g.waitGone(path, id)
	g.do(http.MethodPost, "/spool/messages/"+id.String()+"/replay").refusal(t, http.StatusNotFound)
}

func TestWhatIsBeingDeliveredIsNotReplayed(t *testing.T) {
	g, path := one(t)
	id := g.held(path, "hooks")
	a := g.do(http.MethodPost, "/spool/messages/"+id.String()+"/replay")
	said := a.refusal(t, http.StatusConflict)
	require.Contains(t, said, "being delivered")

	var got struct {
		InFlight int `json:"in_flight"`
	}
	g.get("/spool", &got)
	require.Equal(t, 1, got.InFlight)
}

func TestDeadLettersAreReplayedAllAtOnce(t *testing.T) {
	first, second := t.TempDir(), t.TempDir()
	g := start(t, map[string][]string{first: {"hooks", "other"}, second: {"hooks"}}, nil)
	waiting := g.refused(first, "hooks")
	for range 3 {
		g.dead(first, "hooks")
	}
	g.dead(first, "other")
	g.dead(second, "hooks")
	g.service.mend()
	for _, step := range []struct {
		query    string
		replayed int
		left     int
	}{
		{"?state=dead&route=none", 0, 5},
		{"?state=dead&route=other", 1, 4},
		{"?state=dead&path=" + url.QueryEscape(second), 1, 3},
		{"?state=dead", 3, 0},
		{"?state=dead", 0, 0},
	} {
		a := g.do(http.MethodPost, "/spool/replay"+step.query)
		require.Equal(t, http.StatusOK, a.StatusCode, "%s", a.body)
		var done struct {
			State              string
			Selected, Replayed int
		}
		require.NoError(t, json.Unmarshal(a.body, &done))
		require.Equal(t, step.replayed, done.Replayed, step.query)
		require.Equal(t, step.replayed, done.Selected, step.query)
		require.Equal(t, "done", done.State)
		require.Len(t, g.list("?state=dead"), step.left, step.query)
	}
	require.Eventually(t, func() bool { return len(g.list("")) == 1 }, patience, time.Millisecond)
	require.Equal(t, []string{waiting.String()}, g.list(""),
		"what waits for its next attempt was left alone")
}

func TestAMessageIsDropped(t *testing.T) {
	g, path := one(t)
	for _, id := range []spool.ID{g.dead(path, "hooks"), g.refused(path, "hooks")} {
		uri := "/spool/messages/" + id.String()
		a := g.do(http.MethodDelete, uri)
		require.Equal(t, http.StatusNoContent, a.StatusCode)
		require.Empty(t, a.body)
		g.do(http.MethodDelete, uri).refusal(t, http.StatusNotFound)
		g.do(http.MethodGet, uri).refusal(t, http.StatusNotFound)
		g.do(http.MethodGet, uri+"/body").refusal(t, http.StatusNotFound)
	}
}

func TestWhatIsBeingDeliveredIsDroppedWhenThatEnds(t *testing.T) {
	g, path := one(t)
	id := g.held(path, "hooks")
	require.Equal(t, http.StatusAccepted,
		g.do(http.MethodDelete, "/spool/messages/"+id.String()).StatusCode)
	require.Equal(t, []string{id.String()}, g.list(""))
	g.service.letGo()
	g.waitGone(path, id)
}

func TestDeadLettersAreDroppedAllAtOnce(t *testing.T) {
	first, second := t.TempDir(), t.TempDir()
	g := start(t, map[string][]string{first: {"hooks", "other"}, second: {"hooks"}}, nil)
	waiting := g.refused(first, "hooks")
	for range 3 {
		g.dead(first, "hooks")
	}
	g.dead(first, "other")
	g.dead(second, "hooks")
	for _, step := range []struct {
		query   string
		dropped int
		left    int
	}{
		{"?state=dead&route=none", 0, 5},
		{"?state=dead&route=other", 1, 4},
		{"?state=dead&path=" + url.QueryEscape(second), 1, 3},
		{"?state=dead", 3, 0},
	} {
		a := g.do(http.MethodDelete, "/spool/messages"+step.query)
		require.Equal(t, http.StatusOK, a.StatusCode, "%s", a.body)
		require.JSONEq(t, fmt.Sprintf(`{"dropped":%d}`, step.dropped), string(a.body), step.query)
		require.Len(t, g.list("?state=dead"), step.left, step.query)
	}
	require.Equal(t, []string{waiting.String()}, g.list(""))
}

func TestMoreDeadLettersThanGoAtOnceAreAllDropped(t *testing.T) {
	g, path := one(t)
	const many = 600
	g.acceptMany(path, "hooks", "/gone", many)
	require.Eventually(t, func() bool {
		return caddytest.Stats(t, app.ThisProcess().Inboxes()[path]).Dead == many
	}, patience, 10*time.Millisecond)

	require.JSONEq(t, fmt.Sprintf(`{"dropped":%d}`, many),
		string(g.do(http.MethodDelete, "/spool/messages?state=dead").body))
	require.Empty(t, g.list(""))
}

func TestResourcesSayWhichMethodsTheyAllow(t *testing.T) {
	g, path := one(t)
	id := g.dead(path, "hooks").String()
	for uri, allowed := range map[string]string{
		"/spool":                            "GET, HEAD",
		"/spool/replay":                     "POST",
		"/spool/messages":                   "DELETE, GET, HEAD",
		"/spool/messages/" + id:             "DELETE, GET, HEAD",
		"/spool/messages/" + id + "/body":   "GET, HEAD",
		"/spool/messages/" + id + "/replay": "POST",
		"/streams":                          "DELETE, GET, HEAD",
		"/streams/x":                        "DELETE",
	} {
		for _, method := range []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "TRACE",
			"INVENTED"} {
			if slices.Contains(strings.Split(allowed, ", "), method) {
				continue
			}
			a := g.do(method, uri)
			require.Equal(t, allowed, a.Header.Get("Allow"), "%s %s", method, uri)
			if method == "HEAD" {
				require.Equal(t, http.StatusMethodNotAllowed, a.StatusCode)
				continue
			}
			a.refusal(t, http.StatusMethodNotAllowed)
		}
	}
	require.Equal(t, []string{id}, g.list("?state=dead"), "nothing of it did anything")
}

func TestWhatIsNotThereIsNotFound(t *testing.T) {
	g, path := one(t)
	id := g.dead(path, "hooks").String()
	missing := "0199c0de-0000-7000-8000-000000000000"
	for _, request := range []string{
		"GET /", "GET /spool/", "GET /spool/x", "POST /spool/replay/", "GET /spool/messages/", "GET /x",
		"DELETE /spool/messages/", "GET /spool/messages/" + id + "/", "GET /spool/messages/" + id + "/x",
		"GET /spool/messages/" + missing, "GET /spool/messages/" + missing + "/body",
		"DELETE /spool/messages/" + missing,
		"POST /spool/messages/" + missing + "/replay", "GET /spool/messages/x",
		"GET /spool/messages/" + id + "0",
		"GET /spool/messages/%00", "GET /spool/messages/%2e%2e%2f", "DELETE /streams/x",
		"DELETE /streams/",
		"GET /spool?path=/none", "GET /spool/messages?path=/none",
		"GET /spool/messages/" + id + "?path=/none",
		"POST /spool/replay?state=dead&path=/none", "DELETE /spool/messages?state=dead&path=/none",
	} {
		method, uri, _ := strings.Cut(request, " ")
		t.Run(request, func(t *testing.T) { g.do(method, uri).refusal(t, http.StatusNotFound) })
	}
	require.Equal(t, []string{id}, g.list("?state=dead"))
}

func TestParametersThatCannotBeRightAreRefused(t *testing.T) {
	g, path := one(t)
	id := g.dead(path, "hooks").String()
	for _, request := range []string{
		"GET /spool?x=1", "GET /spool?state=dead", "GET /spool?%zz", "GET /spool?path=a&path=b",
		"GET /spool/messages?state=alive", "GET /spool/messages?state=DEAD",
		"GET /spool/messages?rout=hooks",
		"GET /spool/messages?limit=0", "GET /spool/messages?limit=-1", "GET /spool/messages?limit=1001",
		"GET /spool/messages?limit=ten", "GET /spool/messages?limit=99999999999999999999",
		"GET /spool/messages?limit=1&limit=2",
		"GET /spool/messages?after=x", "GET /spool/messages?after=" + id + "0", "GET /spool/messages?a;b",
		"GET /spool/messages/" + id + "?x", "DELETE /spool/messages/" + id + "?state=dead",
		"POST /spool/messages/" + id + "/replay?all",
		"POST /spool/replay", "POST /spool/replay?state=", "POST /spool/replay?state=pending",
		"POST /spool/replay?state=dead&rout=x",
		"POST /spool/replay?state=dead&route=", "POST /spool/replay?state=dead&path=",
		"POST /spool/replay?state=dead&state=dead",
		"DELETE /spool/messages", "DELETE /spool/messages?state=pending",
		"DELETE /spool/messages?state=dead&rout=x",
		"DELETE /spool/messages?state=dead&route=", "DELETE /spool/messages?state=dead&limit=1",
		"GET /streams?x=1", "DELETE /streams/x?x=1",
	} {
		method, uri, _ := strings.Cut(request, " ")
		t.Run(request, func(t *testing.T) { g.do(method, uri).refusal(t, http.StatusBadRequest) })
	}
	require.Equal(t, []string{id}, g.list("?state=dead"), "nothing of it did anything")
}

func TestWithoutAnInboxTheAPISaysSo(t *testing.T) {
	g := start(t, nil, nil)
	for _, request := range []string{
		"GET /spool", "GET /spool/messages", "GET /spool/messages/x", "GET /spool/messages/x/body",
		"POST /spool/messages/x/replay", "POST /spool/replay?state=dead",
		"DELETE /spool/messages/x", "DELETE /spool/messages?state=dead",
	} {
		method, uri, _ := strings.Cut(request, " ")
		require.Contains(t, g.do(method, uri).refusal(t, http.StatusServiceUnavailable),
			"no inbox is open", request)
	}
	var streams []any
	g.get("/streams", &streams)
	require.NotNil(t, streams)
	require.Empty(t, streams)
}

func TestAnInboxThatIsClosingIsUnavailable(t *testing.T) {
	g, path := one(t)
	id := g.dead(path, "hooks").String()
	require.NoError(t, app.ThisProcess().Inboxes()[path].Close(t.Context()))
	for _, request := range []string{
		"GET /spool/messages", "GET /spool/messages/" + id, "POST /spool/replay?state=dead",
		"DELETE /spool/messages?state=dead",
	} {
		method, uri, _ := strings.Cut(request, " ")
		require.Contains(t, g.do(method, uri).refusal(t, http.StatusServiceUnavailable), "closed",
			request)
	}
}

// endless is a body that has no end.
type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }

func TestABodyThatIsSentIsNotReadThrough(t *testing.T) {
	g, path := one(t)
	g.dead(path, "hooks")
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost,
		"http://127.0.0.1/deepgram_callback/spool/replay?state=dead", io.NopCloser(endless{}))
	require.NoError(t, err)
	response, err := g.http.Do(r)
	require.NoError(t, err)
	require.Equal(t, http.StatusOK, response.StatusCode)
	require.NoError(t, response.Body.Close())
}

// secret stands where credentials may be.
const secret = "TOPSECRET0123456789"

func TestCredentialsAreNotShown(t *testing.T) {
	g, path := one(t)
	for i, uri := range []string{
		"/gone?X-Amz-Signature=" + secret + "&X-Amz-Date=1", "/refused?token=" + secret,
		"/refused?" + secret, "/gone?=" + secret,
	} {
		id := g.accept(path, "hooks", uri,
			strings.NewReader(fmt.Sprintf(
				`{"metadata":{"request_id":"secret-%d","extra":{"callback_secret":"%s"}}}`, i, secret)),
			http.Header{
				"Authorization": {"Basic " + secret}, "Dg-Token": {secret},
				"X-Api-Key": {secret}, "Cookie": {secret},
			})
		g.wait(path, id, func(m *spool.Message) bool { return m.Tries == 1 })
	}
	ids := g.list("")
	require.Len(t, ids, 4)

	uris := []string{"/spool", "/spool/messages", "/streams", "/spool?" + "x=1"}
	commands := [][]string{
		{"spool", "status"}, {"spool", "status", "--json"}, {"spool", "list"},
		{"spool", "list", "--json"},
		{"streams", "list"}, {"streams", "list", "--json"},
	}
	for _, id := range ids {
		uris = append(uris, "/spool/messages/"+id)
		commands = append(commands, []string{"spool", "show", id},
			[]string{"spool", "show", id, "--json"})
	}
	for _, uri := range uris {
		a := g.do(http.MethodGet, uri)
		require.NotContains(t, string(a.body), secret, uri)
		require.NotContains(t, fmt.Sprint(a.Header), secret, uri)
	}
	for _, command := range commands {
		require.NotContains(t, g.ok(command...), secret, command)
	}
	for _, id := range ids {
		uri := "/spool/messages/" + id
		a := g.do(http.MethodGet, uri+"/body")
		require.Contains(t, string(a.body), secret, "the body is as it came")
		require.NotContains(t, fmt.Sprint(a.Header), secret)
		require.NotContains(t, g.ok("spool", "replay", id), secret)
		require.NotContains(t, g.ok("spool", "drop", id), secret)
	}
}

func FuzzRequests(f *testing.F) {
	g, path := one(f)
	id := g.dead(path, "hooks").String()
	mux := http.NewServeMux()
	for _, route := range (admin.API{}).Routes() {
		mux.HandleFunc(route.Pattern, func(w http.ResponseWriter, r *http.Request) {
			err := route.Handler.ServeHTTP(w, r)
			if err == nil {
				return
			}
			var refusal caddy.APIError
			if !errors.As(err, &refusal) {
				refusal.HTTPStatus = http.StatusInternalServerError // as Caddy does
			}
			w.WriteHeader(refusal.HTTPStatus)
			_ = json.NewEncoder(w).Encode(map[string]string{"error": refusal.Error()})
		})
	}
	for _, query := range []string{"", "state=dead", "state=pending&limit=1", "after=" + id,
		"limit=-1", "path=/x", "%", "a=1;b"} {
		f.Add("GET", "/spool/messages", query)
		f.Add("GET", "/spool/messages/"+id, query)
		f.Add("POST", "/spool/messages/"+id+"/replay", query)
		f.Add("POST", "/spool/replay", query)
		f.Add("DELETE", "/streams/"+id, query)
	}
	f.Fuzz(func(t *testing.T, method, resource, query string) {
		if resource != "" && resource[0] != '/' {
			t.Skip() // not below the API's path
		}
		if method == http.MethodDelete && !strings.HasPrefix(resource, "/streams") {
			t.Skip() // the one message is to stay
		}
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.Method = method
		r.URL.Path = "/deepgram_callback" + resource
		r.URL.RawQuery = query
		w := httptest.NewRecorder()
		mux.ServeHTTP(w, r)
		require.Less(t, w.Code, 500)
		switch {
		case w.Code >= 300 && w.Code < 400: // the mux cleans paths
		case strings.HasSuffix(resource, "/body") && w.Code == http.StatusOK:
		case w.Body.Len() > 0:
			require.True(t, json.Valid(w.Body.Bytes()), "%s", w.Body)
		}
		if w.Code == http.StatusMethodNotAllowed {
			require.NotEmpty(t, w.Header().Get("Allow"))
		}
	})
}

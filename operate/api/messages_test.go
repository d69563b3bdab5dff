package api_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-deepgram/deepgram-callback/app"
	"github.com/caddy-deepgram/deepgram-callback/internal/caddytest"
	"github.com/caddy-deepgram/deepgram-callback/operate"
	"github.com/caddy-deepgram/deepgram-callback/operate/api"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
)

// A history is a gateway whose routes kept and unix//s keep what they deliver, and its API.
type history struct {
	*api.Handler
	t         testing.TB
	inbox     *spool.Inbox
	path      string
	delivered atomic.Int64
	waiting   int64 // callbacks of a route that nobody delivers
}

func newHistory(t testing.TB) *history {
	t.Helper()
	process := app.NewProcess()
	configuration := process.NewApp()
	h := &history{t: t, path: t.TempDir()}
	h.Handler = api.New(operate.New(process), api.Options{})
	deliver := func(_ context.Context, m *spool.Message, _ spool.Body) spool.Result {
		if m.URI == "/gone" {
			return spool.Result{Status: http.StatusGone}
		}
		h.delivered.Add(1)
		return spool.Result{Status: http.StatusOK, Upstream: "127.0.0.1:9000"}
	}
	for _, name := range []string{"kept", "unix//s"} {
		require.NoError(t, configuration.AddRoute(&app.Route{
			Store: caddytest.DiskStore(t, h.path), Name: name,
			Config: spool.RouteConfig{Deliver: deliver, Keep: time.Hour},
		}))
	}
	require.NoError(t, configuration.Start())
	t.Cleanup(func() {
		require.NoError(t, configuration.Stop())
		require.NoError(t, configuration.Cleanup())
	})
	h.inbox = process.Inboxes()[h.path]
	return h
}

// bodies counts the bodies, of which no two are the same.
var bodies atomic.Int64

// accept takes a callback in, and returns it once it is as it is going to stay.
func (h *history) accept(route, uri, user, requestID string) *spool.Message {
	h.t.Helper()
	receipt, err := h.inbox.Accept(h.t.Context(), spool.Envelope{
		Route: route, Method: http.MethodPost, URI: uri, User: user,
	}, strings.NewReader(fmt.Sprintf(`{"request_id":%q,"n":%d}`, requestID, bodies.Add(1))))
	require.NoError(h.t, err)
	if route == "nobody" {
		h.waiting++
	}
	// What the index has counts a moment later, when that is safe on disk.
	require.Eventually(h.t, func() bool { return caddytest.Stats(h.t, h.inbox).Pending == h.waiting },
		caddytest.Patience, time.Millisecond)
	m, err := h.inbox.Get(h.t.Context(), receipt.ID)
	require.NoError(h.t, err)
	return m
}

// answer makes a request that has to be answered with a status, and decodes the answer.
func (h *history) answer(status int, method, uri string, value any) {
	h.t.Helper()
	w := ask(h, method, uri)
	require.Equal(h.t, status, w.Code, "%s %s: %s", method, uri, w.Body)
	require.Equal(h.t, "application/json", w.Header().Get("Content-Type"))
	require.NoError(h.t, json.Unmarshal(w.Body.Bytes(), value))
}

// list is the ids that are listed for a query.
func (h *history) list(query string) []string {
	h.t.Helper()
	var messages []struct{ ID string }
	h.answer(http.StatusOK, "GET", "/spool/messages"+query, &messages)
	ids := []string{}
	for _, m := range messages {
		ids = append(ids, m.ID)
	}
	return ids
}

func (h *history) count(query string) (n int) {
	h.t.Helper()
	var counted map[string]int
	h.answer(http.StatusOK, "GET", "/spool/count"+query, &counted)
	require.Len(h.t, counted, 1)
	return counted["count"]
}

func TestAFilterSelectsTheSameWhereverItIsGiven(t *testing.T) {
	h := newHistory(t)
	one := h.accept("kept", "/fine", "a", "r-1")
	two := h.accept("unix//s", "/fine", "b", "r-2")
	dead := h.accept("kept", "/gone", "b", "r-1")
	waiting := h.accept("nobody", "/fine", "", "r-4")
	at := func(m *spool.Message) string {
		return url.QueryEscape(m.ReceivedAt.In(time.FixedZone("", 7200)).Format(time.RFC3339Nano))
	}
	ids := func(messages ...*spool.Message) []string {
		list := []string{}
		for _, m := range messages {
			list = append(list, m.ID.String())
		}
		return list
	}
	for _, test := range []struct {
		query string
		want  []string
	}{
		{"", ids(one, two, dead, waiting)},
		{"?state=delivered", ids(one, two)},
		{"?state=dead", ids(dead)},
		{"?state=pending", ids(waiting)},
		{"?route=unix%2F%2Fs", ids(two)},
		{"?request_id=r-1", ids(one, dead)},
		{"?request_id=r-1&state=delivered", ids(one)},
		{"?user=b", ids(two, dead)},
		{"?since=" + at(two), ids(two, dead, waiting)},
		{"?until=" + at(two), ids(one)},
		{"?since=" + at(two) + "&until=" + at(waiting), ids(two, dead)},
		{"?since=1h", ids(one, two, dead, waiting)},
		{"?since=7d&until=1h", ids()},
		{"?path=" + url.QueryEscape(h.path), ids(one, two, dead, waiting)},
	} {
		require.Equal(t, test.want, h.list(test.query), test.query)
		require.Equal(t, len(test.want), h.count(test.query), test.query)
		and := "&"
		if test.query == "" {
			and = "?"
		}
		require.Equal(t, test.want, h.list(test.query+and+"order=oldest"), test.query)
		newest := h.list(test.query + and + "order=newest")
		slices.Reverse(newest)
		require.Equal(t, test.want, newest, test.query)
	}
	require.Equal(t, ids(waiting, dead), h.list("?order=newest&limit=2"))
	require.Equal(t, ids(two, one), h.list("?order=newest&after="+dead.ID.String()))
}

// replayOf is what is said of a replay.
type replayOf struct {
	ID                 string
	State              app.ReplayState
	Selected, Replayed int
	Began, Ended       *time.Time
	Error              string
	RevokedUsers       []string `json:"revoked_users"`
}

func TestAReplayIsCountedWaitedForAndFollowed(t *testing.T) {
	h := newHistory(t)
	for range 3 {
		h.accept("kept", "/fine", "removed", "r-1")
	}
	h.accept("kept", "/gone", "", "r-1")
	again := func(times int64) {
		t.Helper()
		require.Eventually(t, func() bool {
			return h.delivered.Load() == times && h.count("?state=delivered") == 3
		}, caddytest.Patience, time.Millisecond)
	}

	var dry replayOf
	h.answer(http.StatusOK, "POST", "/spool/replay?state=delivered&dry_run=true", &dry)
	require.Equal(t, replayOf{Selected: 3, RevokedUsers: []string{"removed"}}, dry)
	h.answer(http.StatusOK, "POST", "/spool/replay?request_id=r-1&dry_run=1", &dry)
	require.Equal(t, 4, dry.Selected)
	var jobs []replayOf
	h.answer(http.StatusOK, "GET", "/spool/replays", &jobs)
	require.Empty(t, jobs, "nothing was begun")
	again(3)

	var waited replayOf
	h.answer(http.StatusOK, "POST", "/spool/replay?state=delivered&since=1h&dry_run=false", &waited)
	require.Equal(t, 3, waited.Selected)
	require.Equal(t, 3, waited.Replayed)
	require.Equal(t, app.ReplayDone, waited.State)
	again(6)

	var begun replayOf
	h.answer(http.StatusAccepted, "POST", "/spool/replay?state=delivered&wait=false", &begun)
	require.Equal(t, app.ReplayRunning, begun.State)
	require.Equal(t, 3, begun.Selected)
	require.Nil(t, begun.Ended)
	require.NotEqual(t, waited.ID, begun.ID)
	require.Eventually(t, func() bool {
		h.answer(http.StatusOK, "GET", "/spool/replays", &jobs)
		return jobs[0].State == app.ReplayDone
	}, caddytest.Patience, time.Millisecond)
	require.Len(t, jobs, 2)
	require.Equal(t, []string{begun.ID, waited.ID}, []string{jobs[0].ID, jobs[1].ID})
	require.Equal(t, 3, jobs[0].Replayed)
	require.False(t, jobs[0].Ended.Before(*jobs[0].Began))
	again(9)

	require.Equal(t, http.StatusAccepted, ask(h, "DELETE", "/spool/replays/"+begun.ID).Code)
	refused(t, ask(h, "DELETE", "/spool/replays/none"), http.StatusNotFound)
}

// Whoever waits and goes away has stopped the replay.
func TestAReplayEndsWithItsRequest(t *testing.T) {
	h := newHistory(t)
	h.accept("kept", "/fine", "", "r-1")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.Error(t, h.Serve(new(discarded), request(ctx, "POST", "/spool/replay?state=delivered")))
}

// The route to a socket has slashes in its name.
func TestARouteIsPausedByItsName(t *testing.T) {
	h := newHistory(t)
	paused := func(route string) bool {
		var status operate.Status
		h.answer(http.StatusOK, "GET", "/spool", &status)
		return status.Inboxes[h.path].Routes[route].Paused
	}
	for name, escaped := range map[string]string{"kept": "kept", "unix//s": "unix%2F%2Fs"} {
		uri := "/spool/routes/" + escaped
		require.Equal(t, http.StatusNoContent, ask(h, "POST", uri+"/pause").Code)
		require.True(t, paused(name))
		require.Equal(t, http.StatusNoContent,
			ask(h, "POST", uri+"/resume?path="+url.QueryEscape(h.path)).Code)
		require.False(t, paused(name))
		for _, prefix := range []string{"/api", "/ops/api"} {
			below := http.StripPrefix(prefix, h)
			require.Equal(t, http.StatusNoContent, ask(below, "POST", prefix+uri+"/pause").Code)
			require.True(t, paused(name))
			require.Equal(t, http.StatusNoContent, ask(below, "POST", prefix+uri+"/resume").Code)
		}
	}
	for _, uri := range []string{"/none/pause", "/unix//s/pause", "/kept%2Fpause", "/%2e%2e/pause",
		"/kept/pause?path=/none"} {
		refused(t, ask(h, "POST", "/spool/routes"+uri), http.StatusNotFound)
	}
	require.False(t, paused("kept"))
}

func TestWhatMakesNoSenseIsRefused(t *testing.T) {
	h := newHistory(t)
	h.accept("kept", "/fine", "u", "r-1")
	h.accept("kept", "/gone", "u", "r-1")
	const get, count, replay, drop = "GET /spool/messages?", "GET /spool/count?",
		"POST /spool/replay?", "DELETE /spool/messages?"
	for request, says := range map[string]string{
		get + "order=random":                  "order",
		get + "since=tomorrow":                "since",
		get + "until=-1h":                     "until",
		get + "since=1h&until=2h":             "not before",
		get + "limit=0":                       "limit",
		get + "limit=1001":                    "limit",
		get + "after=x":                       "after",
		get + "state=kept":                    "state",
		get + "dry_run=true":                  "unknown parameter",
		get + "route=a&route=b":               "twice",
		count + "limit=1":                     "unknown parameter",
		count + "state=x":                     "state",
		count + "since=x":                     "since",
		replay:                                "everything is selected",
		replay + "route=kept&user=u":          "everything is selected",
		replay + "state=pending":              "pending",
		replay + "state=":                     "state is empty",
		replay + "state=dead&route=":          "route is empty",
		replay + "request_id=":                "request_id is empty",
		replay + "state=dead&since=":          "since is empty",
		replay + "state=dead&dry_run=perhaps": "dry_run",
		replay + "state=dead&wait=x":          "wait",
		replay + "state=dead&order=newest":    "unknown parameter",
		drop:                                  "state=dead is needed",
		drop + "since=1h":                     "state=dead is needed",
		drop + "state=pending&route=kept":     "state=dead is needed",
		drop + "state=dead&route=":            "route is empty",
		drop + "user=":                        "user is empty",
		drop + "state=delivered&until=x":      "until",
		"POST /spool/routes/kept/pause?x=1":   "unknown parameter",
		"POST /spool/routes/kept/pause?path=": "path is empty",
		"GET /spool/replays?id=1":             "unknown parameter",
	} {
		method, uri, _ := strings.Cut(request, " ")
		require.Contains(t, refused(t, ask(h, method, uri), http.StatusBadRequest), says, request)
	}
	require.Equal(t, 1, h.count("?state=delivered"))
	require.Equal(t, 1, h.count("?state=dead"))
	require.EqualValues(t, 1, h.delivered.Load())
}

func TestDropsAreOfWhatTheFilterSelects(t *testing.T) {
	h := newHistory(t)
	one := h.accept("kept", "/fine", "u", "r-1")
	h.accept("unix//s", "/fine", "u", "r-2")
	h.accept("kept", "/gone", "v", "r-1")
	var dropped struct{ Dropped int }
	drop := func(query string) int {
		h.answer(http.StatusOK, "DELETE", "/spool/messages?"+query, &dropped)
		return dropped.Dropped
	}
	require.Zero(t, drop("state=delivered&until=1h"))
	require.Equal(t, 1, drop("state=delivered&route=unix//s"))
	require.Equal(t, 1, drop("request_id=r-1&user=v"))
	require.Equal(t, []string{one.ID.String()}, h.list(""))
	require.Equal(t, 1, drop("request_id=r-1"))
	require.Zero(t, h.count(""))
}

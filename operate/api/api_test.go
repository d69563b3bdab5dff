package api_test

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-deepgram/deepgram-callback/app"
	"github.com/caddy-deepgram/deepgram-callback/internal/caddytest"
	"github.com/caddy-deepgram/deepgram-callback/operate"
	"github.com/caddy-deepgram/deepgram-callback/operate/api"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
)

// running returns the gateway of a process with one inbox, and the id of a dead letter in it.
func running(t testing.TB) (*operate.Gateway, string) {
	t.Helper()
	process := app.NewProcess()
	configuration := process.NewApp()
	dir := t.TempDir()
	gone := func(context.Context, *spool.Message, spool.Body) spool.Result {
		return spool.Result{Status: http.StatusGone}
	}
	require.NoError(t, configuration.AddRoute(&app.Route{
		Store: caddytest.DiskStore(t, dir), Name: "r", Config: spool.RouteConfig{Deliver: gone},
	}))
	require.NoError(t, configuration.Start())
	t.Cleanup(func() {
		require.NoError(t, configuration.Stop())
		require.NoError(t, configuration.Cleanup())
	})
	in := process.Inboxes()[dir]
	receipt, err := in.Accept(t.Context(),
		spool.Envelope{Route: "r", Method: "POST", URI: "/"}, strings.NewReader("<script>"))
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		return caddytest.Stats(t, in).Dead == 1
	}, caddytest.Patience, time.Millisecond)
	return operate.New(process), receipt.ID.String()
}

func ask(h http.Handler, method, uri string) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(method, uri, nil))
	return w
}

// refused checks that an answer is an error in JSON, and returns its text.
func refused(t *testing.T, w *httptest.ResponseRecorder, status int) string {
	t.Helper()
	require.Equal(t, status, w.Code, w.Body)
	require.Equal(t, "application/json", w.Header().Get("Content-Type"))
	require.Equal(t, "nosniff", w.Header().Get("X-Content-Type-Options"))
	var answer map[string]string
	require.NoError(t, json.Unmarshal(w.Body.Bytes(), &answer))
	require.Len(t, answer, 1)
	require.NotEmpty(t, answer["error"])
	return answer["error"]
}

// everything is a request of each kind to each resource.
func everything(h *api.Handler, id string, do func(method, path string)) {
	for _, pattern := range h.Patterns() {
		for _, method := range []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS",
			"QUERY"} {
			do(method, strings.ReplaceAll(pattern, "{id}", id))
		}
	}
}

func TestWhatIsReadOnlyChangesNothing(t *testing.T) {
	gateway, id := running(t)
	h := api.New(gateway, api.Options{ReadOnly: true})
	forbidden := 0
	everything(h, id, func(method, path string) {
		for _, query := range []string{"", "?state=dead", "?user=x", "?route=r"} {
			w := ask(h, method, path+query)
			switch method {
			case http.MethodGet, http.MethodHead:
				require.NotEqual(t, http.StatusForbidden, w.Code, "%s %s", method, path)
				continue
			}
			require.Contains(t, []int{http.StatusForbidden, http.StatusMethodNotAllowed}, w.Code,
				"%s %s", method, path)
			if w.Code == http.StatusForbidden {
				require.Contains(t, refused(t, w, http.StatusForbidden), "read-only")
				forbidden++
			}
		}
	})
	require.Equal(t, 4*9, forbidden, "all that changes anything was asked for")
	require.Equal(t, http.StatusOK, ask(h, "GET", "/spool/messages/"+id).Code, "it is still there")
	require.Contains(t, ask(h, "GET", "/spool/messages/"+id).Body.String(), `"dead"`)

	h = api.New(gateway, api.Options{})
	require.Equal(t, http.StatusNoContent, ask(h, "DELETE", "/spool/messages/"+id).Code)
}

// A console has the handler below a path of its own, and below whatever a site adds to that.
func TestTheHandlerCanBeMountedBelowAnyPath(t *testing.T) {
	gateway, id := running(t)
	for _, prefix := range []string{"", "/api", "/ops/deepgram/api"} {
		h := http.StripPrefix(prefix, api.New(gateway, api.Options{}))
		require.Equal(t, http.StatusOK, ask(h, "GET", prefix+"/spool").Code)
		require.Equal(t, http.StatusOK, ask(h, "GET", prefix+"/spool/messages/"+id).Code)
		body := ask(h, "GET", prefix+"/spool/messages/"+id+"/body")
		require.Equal(t, "<script>", body.Body.String())
		require.Equal(t, "application/octet-stream", body.Header().Get("Content-Type"))
		require.JSONEq(t, "[]", ask(h, "GET", prefix+"/refusals?since=2h").Body.String())
		for _, path := range []string{
			"/", "/spool/", "//spool", "/spool/../spool", "/spool/messages/", "/spool/messages/..",
			"/spool/messages/%2e%2e/x", "/spool/messages/../../streams", "/x",
		} {
			w := ask(h, "GET", prefix+path)
			require.NotContains(t, refused(t, w, http.StatusNotFound), "<script>", path)
		}
	}
}

func TestErrorsHaveTheirStatus(t *testing.T) {
	gateway, id := running(t)
	h := api.New(gateway, api.Options{})
	none := api.New(operate.New(app.NewProcess()), api.Options{})
	for request, status := range map[string]int{
		"GET /spool/messages/x":            http.StatusNotFound,
		"GET /spool?path=/x":               http.StatusNotFound,
		"DELETE /streams/x":                http.StatusNotFound,
		"DELETE /streams":                  http.StatusBadRequest,
		"DELETE /streams?user=":            http.StatusBadRequest,
		"GET /spool?x=1":                   http.StatusBadRequest,
		"GET /refusals?since=tomorrow":     http.StatusBadRequest,
		"GET /refusals?since=1h&until=2h":  http.StatusBadRequest,
		"GET /refusals?reason=x":           http.StatusBadRequest,
		"POST /spool/messages/" + id:       http.StatusMethodNotAllowed,
		"PUT /refusals":                    http.StatusMethodNotAllowed,
		"DELETE /spool/messages?state=x":   http.StatusBadRequest,
		"POST /spool/replay?state=pending": http.StatusBadRequest,
	} {
		method, uri, _ := strings.Cut(request, " ")
		refused(t, ask(h, method, uri), status)
	}
	refused(t, ask(none, "GET", "/spool"), http.StatusServiceUnavailable)
	require.Equal(t, http.StatusOK, ask(none, "GET", "/streams").Code)
}

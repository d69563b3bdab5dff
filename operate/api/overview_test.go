package api_test

import (
	"encoding/json"
	"net/http"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/caddy-deepgram/deepgram-callback/app"
	"github.com/caddy-deepgram/deepgram-callback/operate"
	"github.com/caddy-deepgram/deepgram-callback/operate/api"
)

func TestTheOverviewHasAllAtAGlance(t *testing.T) {
	gateway, _ := running(t)
	answer := ask(api.New(gateway, api.Options{}), "GET", "/overview")
	require.Equal(t, http.StatusOK, answer.Code)
	require.NotContains(t, answer.Body.String(), "read_only", "which is of the console")
	var overview operate.Overview
	require.NoError(t, json.Unmarshal(answer.Body.Bytes(), &overview))
	require.Len(t, overview.Inboxes, 1)
	require.Len(t, overview.Routes, 1)
	route := overview.Routes[0]
	require.Equal(t, "r", route.Route)
	require.Equal(t, overview.Inboxes[0].Path, route.Path)
	require.EqualValues(t, 1, route.Dead)
	require.True(t, route.Configured)
	require.Len(t, overview.Minutes.Accepted, 60)
	var accepted int64
	for _, n := range overview.Minutes.Accepted {
		accepted += n
	}
	require.EqualValues(t, 1, accepted)

	// What has no inbox has an overview all the same.
	none := ask(api.New(operate.New(app.NewProcess()), api.Options{}), "GET", "/overview")
	require.Equal(t, http.StatusOK, none.Code)
	require.Contains(t, none.Body.String(), `"inboxes":[],"routes":[]`)
}

func TestEventsAreTheConsolesAlone(t *testing.T) {
	gateway, _ := running(t)
	require.Equal(t, http.StatusNotFound,
		ask(api.New(gateway, api.Options{}), "GET", "/events?topic=overview").Code)

	ended := make(chan struct{})
	close(ended)
	console := api.New(gateway, api.Options{ReadOnly: true, Console: &api.Console{
		User: func(*http.Request) string { return "operator" }, Ended: ended,
	}})
	events := ask(console, "GET", "/events?topic=overview")
	require.Equal(t, "text/event-stream", events.Header().Get("Content-Type"))
	require.Contains(t, events.Body.String(), `"read_only":true,"user":"operator"}`+"\n\n")
	require.Equal(t, http.StatusBadRequest, ask(console, "GET", "/events").Code)
}

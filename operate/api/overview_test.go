package api_test

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-deepgram/deepgram-callback/app"
	"github.com/caddy-deepgram/deepgram-callback/operate"
	"github.com/caddy-deepgram/deepgram-callback/operate/api"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/storetest/memory"
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

// A watched store counts how often somebody looks at who shares it, and takes its time to answer.
type watchedStore struct {
	spool.Store
	looks *atomic.Int64
	takes *atomic.Int64
}

func (watchedStore) Identity() string { return "watched" }

func (s watchedStore) Open(context.Context, spool.Limits, spool.StoreEvents) (spool.Store, error) {
	return s, nil
}

func (s watchedStore) Gateways(ctx context.Context) ([]spool.Gateway, error) {
	s.looks.Add(1)
	select {
	case <-time.After(time.Duration(s.takes.Load())):
		return []spool.Gateway{{Name: "one", LastSeen: time.Now()}}, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// followed is a console that can be followed, of a gateway with a watched store.
func followed(t *testing.T) (*api.Handler, watchedStore) {
	t.Helper()
	store := watchedStore{memory.NewPlace().Open(), new(atomic.Int64), new(atomic.Int64)}
	process := app.NewProcess()
	configuration := process.NewApp()
	require.NoError(t, configuration.AddRoute(&app.Route{Store: store, Name: "r"}))
	require.NoError(t, configuration.Start())
	t.Cleanup(func() {
		require.NoError(t, configuration.Stop())
		require.NoError(t, configuration.Cleanup())
	})
	user := func(r *http.Request) string { return r.Header.Get("user") }
	return api.New(operate.New(process), api.Options{Console: &api.Console{User: user}}), store
}

// follow follows a topic as a user until the function that it returns is called, which returns what
// came.
func follow(t *testing.T, h http.Handler, topic, user string) (stop func() []string) {
	ctx, cancel := context.WithCancel(t.Context())
	r := httptest.NewRequestWithContext(ctx, "GET", "/events?topic="+topic, nil)
	r.Header.Set("User", user)
	w := httptest.NewRecorder()
	var following sync.WaitGroup
	following.Go(func() { h.ServeHTTP(w, r) })
	return func() []string {
		cancel()
		following.Wait()
		return strings.SplitAfter(w.Body.String(), "\n\n")
	}
}

func TestWhoFollowsGetsSignsOfLife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, _ := followed(t)
		stop := follow(t, h, "streams", "somebody")
		time.Sleep(47 * time.Second)
		alive := "event: alive\ndata: {}\n\n"
		require.Equal(t, []string{"data: []\n\n", alive, alive, alive, ""}, stop())
	})
}

func TestFollowersLookTogetherAndNobodyElse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, store := followed(t)
		time.Sleep(time.Hour)
		require.Zero(t, store.looks.Load(), "nobody follows")

		alone := follow(t, h, "overview", "alone")
		time.Sleep(time.Minute + time.Second)
		require.Len(t, alone(), 31+1, "every two seconds")
		require.EqualValues(t, 31, store.looks.Swap(0))

		time.Sleep(time.Hour)
		require.Zero(t, store.looks.Load(), "nobody follows any more")

		var stops []func() []string
		for n := range 50 { // at any times
			stops = append(stops, follow(t, h, "overview", strings.Repeat("x", n)))
			time.Sleep(37 * time.Millisecond)
		}
		store.looks.Store(0)
		time.Sleep(time.Minute)
		require.LessOrEqual(t, store.looks.Load(), int64(60), "one of them looks for the others")
		for n, stop := range stops {
			events := stop()
			require.GreaterOrEqual(t, len(events), 30, "each is told what is new")
			for _, event := range events[:len(events)-1] {
				data, ok := strings.CutPrefix(event, "data: ")
				require.True(t, ok, event)
				var overview struct {
					operate.Overview
					User string
				}
				require.NoError(t, json.Unmarshal([]byte(data), &overview))
				require.Len(t, overview.Inboxes[0].Gateways, 1)
				require.Equal(t, strings.Repeat("x", n), overview.User, "and who he is himself")
			}
		}
	})
}

// Whoever looks for others and leaves meanwhile does not take from them what is seen.
func TestAFollowerThatLeavesLeavesTheOthersWhatItSees(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, store := followed(t)
		store.takes.Store(int64(time.Second))
		leave := follow(t, h, "overview", "leaves")
		synctest.Wait()
		leave()
		stop := follow(t, h, "overview", "comes")
		synctest.Wait()
		events := stop()
		require.EqualValues(t, 1, store.looks.Load())
		require.Len(t, events, 1+1)
		require.Contains(t, events[0], `"name":"one"`)
		require.NotContains(t, events[0], `"error"`)
	})
}

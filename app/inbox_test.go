package app

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyevents"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/stretchr/testify/require"

	"github.com/caddy-deepgram/deepgram-callback/internal/caddytest"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
)

const patience = 20 * time.Second

// configuredRoutes stands for the handlers of a configuration: it is an app
// that adds the routes of a test.
type configuredRoutes struct {
	Fail bool `json:"fail,omitempty"`
}

// routesOfTest are added by the configurations that are loaded.
var routesOfTest func() []*Route

func (configuredRoutes) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "callback_test",
		New: func() caddy.Module { return new(configuredRoutes) },
	}
}

func (configuredRoutes) Provision(ctx caddy.Context) error {
	loaded, err := ctx.App("deepgram_callback")
	if err != nil {
		return err
	}
	for _, r := range routesOfTest() {
		if err := loaded.(*App).AddRoute(r); err != nil {
			return err
		}
	}
	return nil
}

func (c configuredRoutes) Start() error {
	if c.Fail {
		return errors.New("told to fail")
	}
	return nil
}

func (configuredRoutes) Stop() error { return nil }

// recordedEvents subscribes to events of the configuration named Name.
type recordedEvents struct {
	Name string `json:"name"`
}

// announced are the events, each with the name of its configuration.
var announced = make(chan announcement, 1000)

type announcement struct {
	to   string
	name string
	data map[string]any
}

func (recordedEvents) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "events.handlers.callback_test",
		New: func() caddy.Module { return new(recordedEvents) },
	}
}

func (e recordedEvents) Handle(_ context.Context, event caddy.Event) error {
	announced <- announcement{e.Name, event.Name(), event.Data}
	return nil
}

func TestMain(m *testing.M) {
	caddy.RegisterModule(new(App))
	caddy.RegisterModule(configuredRoutes{})
	caddy.RegisterModule(recordedEvents{})
	caddytest.Main(m)
}

// load runs a configuration with some routes.
func load(name string, fail bool, routes ...*Route) error {
	routesOfTest = func() []*Route { return routes }
	return caddy.Load(fmt.Appendf(nil, `{
		"admin": {"disabled": true, "config": {"persist": false}},
		"logging": {"logs": {"default": {"writer": {"output": "discard"}}}},
		"apps": {
			"callback_test": {"fail": %v},
			"events": {"subscriptions": [{
				"events": ["deepgram_callback.dead_letter", "deepgram_callback.spool_refusing",
					"deepgram_callback.spool_paused"],
				"handlers": [{"handler": "callback_test", "name": %q}]
			}]}
		}
	}`, fail, name), true)
}

func stopAtEnd(t *testing.T) { t.Cleanup(func() { require.NoError(t, caddy.Stop()) }) }

// nextEvent is the oldest that concerns the inbox in dir and was not looked at yet.
func nextEvent(t *testing.T, dir string) announcement {
	t.Helper()
	deadline := time.After(patience)
	for {
		select {
		case event := <-announced:
			if event.data["path"] == dir {
				return event
			}
		case <-deadline:
			require.Fail(t, "nothing was announced")
		}
	}
}

// answering is a route whose service answers what its callbacks' URI asks for.
func answering(t testing.TB, dir, name string) *Route {
	return &Route{Store: caddytest.DiskStore(t, dir), Name: name, Config: spool.RouteConfig{
		RetryDelays: []time.Duration{time.Millisecond},
		Deliver: func(_ context.Context, msg *spool.Message, _ spool.Body) spool.Result {
			if msg.Tries > 0 && msg.URI != "/none" {
				return spool.Result{Status: http.StatusOK}
			}
			switch msg.URI {
			case "/gone":
				return spool.Result{Status: http.StatusGone}
			case "/rejected":
				return spool.Result{Status: http.StatusBadRequest}
			case "/unavailable":
				return spool.Result{Err: errors.New("no answer")}
			}
			return spool.Result{Status: http.StatusOK}
		},
	}}
}

func accept(t *testing.T, r *Route, uri, body string) (spool.Receipt, error) {
	t.Helper()
	inbox, err := r.Inbox(t.Context())
	require.NoError(t, err)
	return inbox.Accept(t.Context(), spool.Envelope{
		Route: r.Name, Method: "POST", URI: uri, ContentLength: int64(len(body)),
	}, strings.NewReader(body))
}

func TestAnnouncesDeadLettersAndRefusals(t *testing.T) {
	dir := t.TempDir()
	route := answering(t, dir, "announced")
	route.MaxSize = 8 << 20
	require.NoError(t, load("first", false, route))
	stopAtEnd(t)
	receipt, err := accept(t, route, "/gone", `{"metadata":{"request_id":"r"}}`)
	require.NoError(t, err)
	event := nextEvent(t, dir)
	require.Equal(t, "deepgram_callback.dead_letter", event.name)
	require.Contains(t, event.data, "received_at")
	delete(event.data, "received_at")
	require.Equal(t, map[string]any{
		"path": dir, "id": receipt.ID.String(), "route": "announced", "request_id": "r",
		"attempts": 1, "last_error": "the service answered 410 Gone",
	}, event.data)

	small := answering(t, dir, "announced")
	small.MaxSize = 1 // byte: less than an empty inbox takes up
	require.NoError(t, load("first", false, small))
	_, err = accept(t, small, "/small", "x")
	var refused *spool.RefusedError
	require.ErrorAs(t, err, &refused)
	require.Equal(t, spool.ReasonFull, refused.Reason)
	require.Equal(t, announcement{"first", "deepgram_callback.spool_refusing", map[string]any{
		"path": dir, "reason": "inbox_full", "refusing": true,
	}}, nextEvent(t, dir))

	large := answering(t, dir, "announced")
	large.MaxSize = 8 << 20
	require.NoError(t, load("first", false, large))
	_, err = accept(t, large, "/small", "x")
	require.NoError(t, err)
	require.Equal(t, announcement{"first", "deepgram_callback.spool_refusing", map[string]any{
		"path": dir, "reason": "inbox_full", "refusing": false,
	}}, nextEvent(t, dir))
}

func TestStatesAreAnnouncedInTheOrderInWhichTheyWere(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, load("first", false, answering(t, dir, "announced")))
	stopAtEnd(t)
	inbox := ThisProcess().Inboxes()[dir]
	for i := range 100 {
		require.NoError(t, inbox.Pause(t.Context(), "announced", i%2 == 0))
	}
	for i := range 100 {
		require.Equal(t, announcement{"first", "deepgram_callback.spool_paused", map[string]any{
			"path": dir, "route": "announced", "paused": i%2 == 0,
		}}, nextEvent(t, dir))
	}
}

// It is the running configuration that announces what happens in an inbox,
// whichever one opened it, and however many others did not start.
func TestAnnouncesToTheConfigurationThatRuns(t *testing.T) {
	dir := t.TempDir()
	stopAtEnd(t)
	require.NoError(t, load("first", false, answering(t, dir, "r")))
	for i := range 10 { // apps start in any order
		require.Error(t, load("fails", true, answering(t, dir, "r")))
		route := answering(t, dir, "r")
		if i%2 == 0 {
			name := fmt.Sprint("succeeds ", i)
			require.NoError(t, load(name, false, route))
			_, err := accept(t, route, "/gone", name)
			require.NoError(t, err)
			require.Equal(t, name, nextEvent(t, dir).to)
			require.Error(t, load("fails", true, answering(t, dir, "r")))
			_, err = accept(t, route, "/gone", name+" still")
			require.NoError(t, err)
			require.Equal(t, name, nextEvent(t, dir).to)
		}
	}
	require.NoError(t, caddy.Stop())
	require.Nil(t, thisProcess.newest.Load())
	require.Empty(t, thisProcess.apps, "old configurations are kept in memory")
	// Nobody is there for this.
	thisProcess.emit("deepgram_callback.dead_letter", map[string]any{"path": dir})
	thisProcess.logger().Debug("nor for this")
	for len(announced) > 0 {
		require.NotEqual(t, dir, (<-announced).data["path"])
	}
}

func TestFailedConfigurationLeavesSizeAndRoutes(t *testing.T) {
	dir := t.TempDir()
	route := answering(t, dir, "r")
	route.MaxSize = 1 << 30
	require.NoError(t, load("first", false, route))
	stopAtEnd(t)
	for range 10 {
		other := answering(t, dir, "other")
		other.MaxSize = 1 << 20
		require.Error(t, load("fails", true, other))
		stats := caddytest.Stats(t, thisProcess.Inboxes()[dir])
		require.Equal(t, int64(1<<30), stats.MaxBytes)
		require.True(t, stats.Routes["r"].Configured)
	}
}

func TestWaitsUntilItsInboxIsOpen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := NewProcess().NewApp()
		r := &Route{Store: caddytest.DiskStore(t, "inbox")}
		require.NoError(t, a.AddRoute(r))

		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, err := r.Inbox(ctx)
		require.ErrorIs(t, err, context.Canceled)

		began := time.Now()
		_, err = r.Inbox(t.Context())
		require.ErrorIs(t, err, ErrNotOpen)
		require.Equal(t, stopTimeout, time.Since(began))

		var got *spool.Inbox
		go func() { got, err = r.Inbox(t.Context()) }()
		synctest.Wait()
		r.inbox = new(spool.Inbox)
		close(r.opened)
		synctest.Wait()
		require.NoError(t, err)
		require.Same(t, r.inbox, got)
	})
}

func TestStartThatFailsHalfWay(t *testing.T) {
	closed := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(closed, nil, 0o600))
	a := NewProcess().NewApp()
	good, bad := answering(t, t.TempDir(), "good"), answering(t, closed, "bad")
	rest := answering(t, t.TempDir(), "rest")
	for _, r := range []*Route{good, bad, rest} {
		require.NoError(t, a.AddRoute(r))
	}
	require.ErrorContains(t, a.Start(), "spool: inbox "+closed)
	for _, r := range []*Route{good, bad, rest} {
		_, err := r.Inbox(t.Context()) // at once
		require.ErrorIs(t, err, ErrNotOpen)
	}
	require.NoError(t, a.Cleanup())
	require.Empty(t, a.process.Inboxes())
	inbox := caddytest.OpenInbox(t, good.Store.Identity())
	require.NoError(t, inbox.Close(t.Context()))
	require.NoDirExists(t, filepath.Join(rest.Store.Identity(), "segments"))
}

func TestWhatWasNeverStartedCanBeCleanedUp(t *testing.T) {
	require.NoError(t, NewProcess().NewApp().Cleanup())
	a := NewProcess().NewApp()
	require.NoError(t, a.AddRoute(answering(t, t.TempDir(), "r")))
	require.NoError(t, a.Stop())
	require.NoError(t, a.Cleanup())
	require.NoError(t, a.Cleanup())
}

// The order in which apps stop is left open, so there may be servers that
// accept callbacks after Stop.
func TestAcceptsUntilAllAppsHaveStopped(t *testing.T) {
	dir := t.TempDir()
	a := NewProcess().NewApp()
	r := answering(t, dir, "r")
	require.NoError(t, a.AddRoute(r))
	require.NoError(t, a.Start())
	require.NoError(t, a.Stop())
	receipt, err := accept(t, r, "/", "late")
	require.NoError(t, err)
	require.NoError(t, a.Cleanup())
	_, err = accept(t, r, "/", "too late")
	require.ErrorIs(t, err, spool.ErrClosed)

	inbox := caddytest.OpenInbox(t, dir)
	defer func() { require.NoError(t, inbox.Close(context.Background())) }()
	body, err := inbox.Body(t.Context(), receipt.ID)
	require.NoError(t, err)
	content, err := io.ReadAll(body)
	require.NoError(t, err)
	require.NoError(t, body.Close())
	require.Equal(t, "late", string(content))
}

// Callbacks that servers of an old configuration still accept for a service
// that was moved are found when that configuration has ended.
func TestAdoptsWhatAnOldConfigurationAcceptsLast(t *testing.T) {
	dir := t.TempDir()
	process := NewProcess()
	older, newer := process.NewApp(), process.NewApp()
	from, to := answering(t, dir, "from"), answering(t, dir, "to")
	require.NoError(t, older.AddRoute(from))
	require.NoError(t, newer.AddRoute(to))
	require.NoError(t, older.Start())
	require.NoError(t, newer.Start())
	require.NoError(t, older.Stop())
	_, err := accept(t, from, "/", "late")
	require.NoError(t, err)
	require.NoError(t, older.Cleanup())
	require.Eventually(t, func() bool {
		return caddytest.Stats(t, process.Inboxes()[dir]).Pending == 0
	}, patience, time.Millisecond)
	require.NoError(t, newer.Stop())
	require.NoError(t, newer.Cleanup())
	require.Empty(t, process.Inboxes())
}

func TestCountsWhatHappens(t *testing.T) {
	dir := t.TempDir()
	name := "counted in " + dir // the counts are those of the process
	route := answering(t, dir, name)
	route.MaxSize = 8 << 20
	require.NoError(t, load("counting", false, route))
	stopAtEnd(t)
	for _, uri := range []string{"/", "/gone", "/rejected", "/unavailable"} {
		for range 2 { // of which one is a duplicate
			_, err := accept(t, route, uri, `{"request_id":"`+uri+`"}`)
			require.NoError(t, err)
		}
	}
	_, err := accept(t, route, "/", strings.Repeat("x", 9<<20))
	require.Error(t, err)
	require.Eventually(t, func() bool {
		return caddytest.Stats(t, thisProcess.Inboxes()[dir]).Pending == 0
	}, patience, time.Millisecond)
	CountRequest("batch", "admitted")

	require.Equal(t, 4.0, testutil.ToFloat64(spoolAcceptedTotal.WithLabelValues(name)))
	require.Equal(t, 4.0, testutil.ToFloat64(spoolDuplicatesTotal.WithLabelValues(name)))
	require.Equal(t, 3.0, testutil.ToFloat64(spoolDeliveredTotal.WithLabelValues(name)))
	require.Equal(t, 1.0, testutil.ToFloat64(spoolDiedTotal.WithLabelValues(name)))
	require.Equal(t, 1.0, testutil.ToFloat64(spoolRefusedTotal.WithLabelValues(name, "inbox_full")))
	for outcome, times := range map[string]float64{"delivered": 3, "gone": 1, "rejected": 1,
		"unavailable": 1} {
		require.Equal(t, times, testutil.ToFloat64(spoolAttemptsTotal.WithLabelValues(name, outcome)),
			outcome)
	}
	require.NoError(t, testutil.CollectAndCompare(levels{thisProcess}, strings.NewReader(fmt.Sprintf(`
# HELP caddy_deepgram_callback_spool_dead Dead letters.
# TYPE caddy_deepgram_callback_spool_dead gauge
caddy_deepgram_callback_spool_dead{path=%[1]q,route=%[2]q} 1
# HELP caddy_deepgram_callback_spool_max_bytes What the inbox may take up on disk.
# TYPE caddy_deepgram_callback_spool_max_bytes gauge
caddy_deepgram_callback_spool_max_bytes{path=%[1]q} 8.388608e+06
# HELP caddy_deepgram_callback_spool_oldest_pending_seconds Age of the callback that waits longest; zero without one.
# TYPE caddy_deepgram_callback_spool_oldest_pending_seconds gauge
caddy_deepgram_callback_spool_oldest_pending_seconds{path=%[1]q,route=%[2]q} 0
# HELP caddy_deepgram_callback_spool_pending Callbacks that wait for their delivery.
# TYPE caddy_deepgram_callback_spool_pending gauge
caddy_deepgram_callback_spool_pending{path=%[1]q,route=%[2]q} 0
`, dir, name)), "caddy_deepgram_callback_spool_dead", "caddy_deepgram_callback_spool_max_bytes",
		"caddy_deepgram_callback_spool_oldest_pending_seconds", "caddy_deepgram_callback_spool_pending"))

	// names and labels are for others to build on
	running := caddy.ActiveContext()
	registry := running.GetMetricsRegistry()
	families, err := registry.Gather()
	require.NoError(t, err)
	labels := make(map[string]string)
	for _, family := range families {
		metricName, ours := strings.CutPrefix(family.GetName(), "caddy_deepgram_callback_")
		if !ours || !strings.HasPrefix(metricName, "spool") && metricName != "requests_total" {
			continue
		}
		for _, metric := range family.Metric {
			var names []string
			for _, label := range metric.Label {
				names = append(names, label.GetName())
				require.NotContains(t, label.GetValue(), "/gone", "a label has its value from a callback")
			}
			slices.Sort(names)
			labels[metricName] = strings.Join(names, " ")
		}
	}
	require.Equal(t, map[string]string{
		"requests_total":                  "kind outcome",
		"spool_accepted_total":            "route",
		"spool_attempt_duration_seconds":  "route",
		"spool_attempts_total":            "outcome route",
		"spool_dead":                      "path route",
		"spool_delivered_total":           "route",
		"spool_delivery_duration_seconds": "route",
		"spool_died_total":                "route",
		"spool_disk_bytes":                "path",
		"spool_duplicates_total":          "route",
		"spool_max_bytes":                 "path",
		"spool_oldest_pending_seconds":    "path route",
		"spool_pending":                   "path route",
		"spool_pending_bytes":             "path route",
		"spool_refused_total":             "reason route",
		"spool_refusing":                  "path",
		"spool_service_down":              "path route",
		"spool_kept":                      "path route",
		"spool_kept_bytes":                "path route",
		"spool_paused":                    "path route",
		"spool_sync_duration_seconds":     "path",
	}, labels)
	problems, err := testutil.GatherAndLint(registry)
	require.NoError(t, err)
	for _, problem := range problems {
		require.NotContains(t, problem.Metric, "deepgram_callback", problem.Text)
	}
}

// Metrics are asked for while configurations come and go.
func TestMetricsDuringReloads(t *testing.T) {
	dir := t.TempDir()
	closed := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(closed, nil, 0o600))
	done := make(chan struct{})
	var asking sync.WaitGroup
	asking.Go(func() {
		for {
			select {
			case <-done:
				return
			default:
				testutil.CollectAndCount(levels{thisProcess})
			}
		}
	})
	for range 10 {
		require.NoError(t, load("runs", false, answering(t, dir, "r")))
		require.Error(t, load("fails", false, answering(t, dir, "r"), answering(t, closed, "r")))
		require.NoError(t, caddy.Stop())
	}
	close(done)
	asking.Wait()
}

// Interface guards
var (
	_ caddy.App           = (*configuredRoutes)(nil)
	_ caddyevents.Handler = (*recordedEvents)(nil)
)

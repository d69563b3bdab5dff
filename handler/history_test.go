package handler_test

import (
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/stretchr/testify/require"

	"github.com/caddy-deepgram/deepgram-callback/app"
	"github.com/caddy-deepgram/deepgram-callback/operate"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
)

// operator is what an operator has of the running gateway.
func operator() *operate.Gateway { return operate.New(app.ThisProcess()) }

// kept waits until so many callbacks that a selection selects were delivered, and returns them,
// the oldest first.
func kept(t testing.TB, selected operate.Selection, count int) (list []operate.Message) {
	t.Helper()
	selected.State = spool.Delivered
	require.Eventually(t, func() bool {
		var err error
		list, err = operator().List(t.Context(), selected, operate.Page{Limit: operate.MaxPage})
		return err == nil && len(list) == count
	}, patience, 2*time.Millisecond)
	return list
}

// replay sends again what a selection selects.
func replay(t testing.TB, selected operate.Selection) {
	t.Helper()
	id, err := operator().ReplayMany(selected, 0)
	require.NoError(t, err)
	_, err = operator().WaitForReplay(t.Context(), id)
	require.NoError(t, err)
}

func TestWhatWasDeliveredIsFoundAndSentAgain(t *testing.T) {
	book := &ledger{answer: func(_ delivered, try int) int {
		if try == 1 {
			return http.StatusInternalServerError
		}
		return http.StatusOK
	}}
	service := newService(t, nil)
	service.Config.Handler = book
	dir := t.TempDir()
	site := spooled(service.addr, dir, soon+"keep 1h")
	g := start(t, site)
	began := time.Now()
	id := accepted(t, callbackOf(t, g, "call-1", 1))
	accepted(t, callbackOf(t, g, "call-2", 1))
	book.waitFor(t, 2)

	found := kept(t, operate.Selection{RequestID: "call-1"}, 1)[0]
	require.Equal(t, id, found.ID.String())
	require.WithinRange(t, *found.DeliveredAt, began, time.Now())
	details, err := operator().Message(t.Context(), operate.Ref{ID: id})
	require.NoError(t, err)
	require.Len(t, details.History, 2)
	for i, status := range []int{http.StatusInternalServerError, http.StatusOK} {
		attempt := details.History[i]
		require.Equal(t, status, attempt.Status)
		require.Equal(t, service.addr, attempt.Upstream)
		require.Positive(t, attempt.TookSeconds)
		require.WithinRange(t, attempt.At, began, time.Now())
	}
	require.Equal(t, "the service answered 500 Internal Server Error", details.History[0].Error)
	require.Empty(t, details.History[1].Error)
	require.Equal(t, g.addr, details.Host)

	// One by its id, and after a restart all of a request.
	_, err = operator().Replay(t.Context(), operate.Ref{ID: id})
	require.NoError(t, err)
	book.waitFor(t, 3)
	kept(t, operate.Selection{RequestID: "call-1"}, 1)
	require.NoError(t, caddy.Stop())
	g.reload(site)
	replay(t, operate.Selection{RequestID: "call-1"})
	var again []delivered
	for _, d := range book.waitFor(t, 4) {
		if d.id == id {
			again = append(again, d)
		}
	}
	require.Len(t, again, 3, "under the same webhook-id")
	for _, d := range again {
		require.Equal(t, again[0].body, d.body)
		require.Equal(t, "call-1", d.header.Get("Deepgram-Request-Id"))
	}
	kept(t, operate.Selection{}, 2)
}

// A paced delivery may begin some milliseconds late, and the one after it in time.
const late = 15 * time.Millisecond

func TestDeliveriesKeepTheRateAlsoInAReplay(t *testing.T) {
	const many, interval = 8, 50 * time.Millisecond
	service := newSwitchable(t, &ledger{})
	dir := t.TempDir()
	g := start(t, spooled(service.addr, dir, soon+"keep 1h\nrate 20/s"))
	for n := range many { // an outage, after which all of them wait
		accepted(t, callbackOf(t, g, "call-"+strconv.Itoa(n), 1))
	}
	service.up()
	began := func() []time.Time {
		var times []time.Time
		for _, m := range kept(t, operate.Selection{}, many) {
			details, err := operator().Message(t.Context(), operate.Ref{ID: m.ID.String()})
			require.NoError(t, err)
			times = append(times, details.History[len(details.History)-1].At)
		}
		slices.SortFunc(times, time.Time.Compare)
		return times
	}
	require.GreaterOrEqual(t, spread(began()), (many-1)*interval-late)

	start := time.Now()
	replay(t, operate.Selection{State: spool.Delivered})
	require.Eventually(t, func() bool {
		done := kept(t, operate.Selection{}, many)
		return !slices.ContainsFunc(done, func(m operate.Message) bool {
			return m.DeliveredAt.Before(start)
		})
	}, patience, 2*time.Millisecond)
	require.GreaterOrEqual(t, spread(began()), (many-1)*interval-late)
}

// spread is how far the first and the last of some times are apart.
func spread(times []time.Time) time.Duration { return times[len(times)-1].Sub(times[0]) }

// Another route has its callbacks meanwhile, so the paused one would have had its own.
func TestAPausedRouteStaysPausedOverReloadsAndRestarts(t *testing.T) {
	paused, other := &ledger{}, &ledger{}
	first, second := newSwitchable(t, paused), newSwitchable(t, other)
	first.up()
	second.up()
	dir := t.TempDir()
	site := "handle /one {\n" + spooled(first.addr, dir, soon) + "}\nhandle {\n" +
		spooled(second.addr, dir, soon) + "}\n"
	g := start(t, site)
	require.NoError(t, operator().Pause(t.Context(), "", first.addr, true))
	again := []func(){
		func() {},
		func() { g.reload(site) },
		func() {
			require.NoError(t, caddy.Stop())
			g.reload(site)
		},
	}
	for i, again := range again {
		again()
		n := strconv.Itoa(i + 1)
		accepted(t, send(t, "POST", g.url+"/one?key=1&n="+n, strings.NewReader(n), nil))
		accepted(t, send(t, "POST", g.url+"/two?key=2&n="+n, strings.NewReader(n), nil))
		other.waitFor(t, i+1)
		status, err := operator().Status(t.Context(), dir)
		require.NoError(t, err)
		route := status.Inboxes[dir].Routes[first.addr]
		require.True(t, route.Paused)
		require.EqualValues(t, i+1, route.Pending)
		require.False(t, status.Inboxes[dir].Routes[second.addr].Paused)
	}
	require.Empty(t, paused.deliveries())
	require.NoError(t, operator().Pause(t.Context(), "", first.addr, false))
	paused.waitFor(t, len(again))
	waitUntilEmpty(t, dir)
}

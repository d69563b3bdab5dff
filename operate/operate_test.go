package operate_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/stretchr/testify/require"

	"github.com/caddy-deepgram/deepgram-callback/app"
	"github.com/caddy-deepgram/deepgram-callback/internal/caddytest"
	"github.com/caddy-deepgram/deepgram-callback/operate"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/postgres"
)

// A place is an inbox of a gateway that no service takes anything from: what goes to /gone
// dies, everything else is tried again in an hour.
type place struct {
	t    testing.TB
	path string
	in   *spool.Inbox
}

// running returns a gateway with inboxes, each with a route r, that runs until the test ends.
func running(t testing.TB, inboxes int) (*operate.Gateway, []place) {
	t.Helper()
	process := app.NewProcess()
	configuration := process.NewApp()
	places := make([]place, inboxes)
	for i := range places {
		places[i].t, places[i].path = t, t.TempDir()
		require.NoError(t, configuration.AddRoute(&app.Route{
			Store:   caddytest.DiskStore(t, places[i].path),
			Name:    "r",
			MaxSize: 1 << 30,
			Users:   map[string]bool{"known": true},
			Config:  spool.RouteConfig{Deliver: refuse, RetryDelays: []time.Duration{time.Hour}},
		}))
	}
	require.NoError(t, configuration.Start())
	t.Cleanup(func() {
		require.NoError(t, configuration.Stop())
		require.NoError(t, configuration.Cleanup())
	})
	for i := range places {
		places[i].in = process.Inboxes()[places[i].path]
	}
	return operate.New(process), places
}

func refuse(_ context.Context, msg *spool.Message, _ spool.Body) spool.Result {
	if msg.URI == "/gone" {
		return spool.Result{Status: http.StatusGone}
	}
	return spool.Result{Status: http.StatusBadRequest}
}

// accept takes a callback in and waits until it was tried.
func (p place) accept(user, uri string) spool.ID {
	p.t.Helper()
	receipt, err := p.in.Accept(p.t.Context(),
		spool.Envelope{Route: "r", Method: http.MethodPost, URI: uri, User: user},
		strings.NewReader("body"))
	require.NoError(p.t, err)
	require.Eventually(p.t, func() bool {
		m, err := p.in.Get(p.t.Context(), receipt.ID)
		return err == nil && m.Tries == 1
	}, caddytest.Patience, time.Millisecond)
	return receipt.ID
}

func TestMessagesAreFoundInWhateverInboxTheyAre(t *testing.T) {
	g, places := running(t, 3)
	for _, p := range places {
		id := p.accept("", "/x?secret=1").String()
		m, err := g.Message(t.Context(), operate.Ref{ID: id})
		require.NoError(t, err)
		require.Equal(t, p.path, m.Path)
		require.Equal(t, "/x?secret=REDACTED", m.URI)

		body, err := g.Body(t.Context(), operate.Ref{ID: id, Path: p.path})
		require.NoError(t, err)
		content, err := io.ReadAll(body)
		require.NoError(t, err)
		require.NoError(t, body.Close())
		require.Equal(t, "body", string(content))
		require.Equal(t, id, body.ID.String())

		later, err := g.Drop(t.Context(), operate.Ref{ID: id})
		require.NoError(t, err)
		require.False(t, later)
		_, err = g.Message(t.Context(), operate.Ref{ID: id})
		require.Equal(t, operate.NotFound, operate.KindOf(err))
	}
}

// That the database is away is what an operator looks at the overview for.
func TestTheOverviewSaysThatAnInboxRefusesWhoseDatabaseIsAway(t *testing.T) {
	ctx, err := caddy.ProvisionContext(&caddy.Config{Admin: &caddy.AdminConfig{Disabled: true}})
	require.NoError(t, err)
	process := app.NewProcess()
	configuration := process.NewApp()
	require.NoError(t, configuration.Provision(ctx))
	store := &postgres.Module{
		DSN: "postgres://gateway:secret-word@" + caddytest.FreeAddr(t) + "/inbox?sslmode=disable",
	}
	require.NoError(t, store.Provision(ctx))
	require.NoError(t, configuration.AddRoute(&app.Route{
		Store: store, Name: "r", Config: spool.RouteConfig{Deliver: refuse},
	}))
	require.NoError(t, configuration.Start())
	t.Cleanup(func() {
		require.NoError(t, configuration.Stop())
		_ = configuration.Cleanup() // which says that the database is away
	})
	overview := operate.New(process).Overview(t.Context())
	require.Len(t, overview.Inboxes, 1)
	in := overview.Inboxes[0]
	require.Equal(t, store.Identity(), in.Path)
	require.Equal(t, spool.ReasonUnavailable, in.Refusing)
	require.False(t, in.RefusingSince.IsZero())
	require.Equal(t, app.Remedy(string(spool.ReasonUnavailable)), in.Remedy)
	require.NotEmpty(t, in.Error)
	require.NotContains(t, in.Error, "secret-word")
	require.Equal(t, []spool.Gateway{}, in.Gateways)
	require.Empty(t, overview.Routes)
}

func TestErrorsAreToldApart(t *testing.T) {
	g, places := running(t, 1)
	id := places[0].accept("", "/x").String()
	ctx := t.Context()
	_, missing := g.Message(ctx, operate.Ref{ID: "0199c0de-0000-7000-8000-000000000000"})
	_, noID := g.Replay(ctx, operate.Ref{ID: "x"})
	_, elsewhere := g.Body(ctx, operate.Ref{ID: id, Path: "/elsewhere"})
	_, noInbox := g.Status(ctx, "/elsewhere")
	_, noState := g.List(ctx, operate.Selection{State: "alive"}, operate.Page{Limit: 1})
	_, noDrop := g.DropMany(ctx, operate.Selection{State: "alive"})
	_, all := g.KillStreams(operate.StreamFilter{})
	_, noReason := g.Refusals(operate.RefusalFilter{Reason: "x"}, 0)
	for err, kind := range map[error]operate.Kind{
		missing: operate.NotFound, noID: operate.NotFound, elsewhere: operate.NotFound,
		noInbox: operate.NotFound, g.KillStream("x"): operate.NotFound,
		noState: operate.Invalid, noDrop: operate.Invalid, all: operate.Invalid,
		noReason: operate.Invalid,
	} {
		require.Error(t, err)
		require.Equal(t, kind, operate.KindOf(err), err)
		require.Equal(t, kind, operate.KindOf(fmt.Errorf("wrapped: %w", err)), err)
	}

	_, err := operate.New(app.NewProcess()).Status(ctx, "")
	require.Equal(t, operate.Unavailable, operate.KindOf(err))
	require.Equal(t, operate.Unavailable,
		operate.KindOf(&spool.RefusedError{Reason: spool.ReasonFull}))
	require.Equal(t, operate.InFlight, operate.KindOf(fmt.Errorf("x: %w", spool.ErrInFlight)))
	require.Equal(t, operate.Internal, operate.KindOf(errors.New("x")))

	require.NoError(t, places[0].in.Close(ctx))
	_, err = g.Message(ctx, operate.Ref{ID: id})
	require.Equal(t, operate.Unavailable, operate.KindOf(err), err)
}

func TestAReplayNamesTheUsersThatAreGone(t *testing.T) {
	g, places := running(t, 2)
	for i, user := range []string{"known", "b-gone", "a-gone", "b-gone", ""} {
		places[i%2].accept(user, "/gone")
	}
	dead := operate.Selection{State: spool.Dead}
	var n int64
	var revoked []string
	require.Eventually(t, func() (ok bool) { // totals come a moment later
		var err error
		n, revoked, err = g.Replayable(t.Context(), dead)
		require.NoError(t, err)
		return n == 5
	}, caddytest.Patience, time.Millisecond)
	require.Equal(t, []string{"a-gone", "b-gone"}, revoked)
	id, err := g.ReplayMany(dead, n)
	require.NoError(t, err)
	done, err := g.WaitForReplay(t.Context(), id)
	require.NoError(t, err)
	require.Equal(t, 5, done.Replayed)
	require.Equal(t, app.ReplayDone, done.State)
	require.Equal(t, []app.Replay{done}, g.Replays())
}

func TestManyAreDroppedByStateAndByUser(t *testing.T) {
	g, places := running(t, 2)
	for _, p := range places {
		for _, user := range []string{"known", "other"} {
			p.accept(user, "/gone")
			p.accept(user, "/x")
		}
	}
	dropped, err := g.DropMany(t.Context(), operate.Selection{User: "other", State: spool.Pending})
	require.NoError(t, err)
	require.Equal(t, 2, dropped.Dropped)
	dropped, err = g.DropMany(t.Context(), operate.Selection{Path: places[0].path, State: spool.Dead})
	require.NoError(t, err)
	require.Equal(t, 2, dropped.Dropped)
	status, err := g.Status(t.Context(), "")
	require.NoError(t, err)
	require.Equal(t, int64(2), status.Pending)
	require.Equal(t, int64(2), status.Dead)
	require.Zero(t, status.Inboxes[places[0].path].Dead)
}

func TestRefusalsAreSelectedByTimeAndReason(t *testing.T) {
	process := app.NewProcess()
	g := operate.New(process)
	now := time.Now()
	for i, reason := range []string{app.ReasonPort, app.ReasonMethod, app.ReasonPort} {
		process.Refusals.Note(app.Refusal{
			At: now.Add(time.Duration(i-3) * time.Hour), Reason: reason, Kind: "batch", Size: -1,
		})
	}
	for _, test := range []struct {
		filter operate.RefusalFilter
		limit  int
		want   int
	}{
		{want: 3},
		{limit: 2, want: 2},
		{filter: operate.RefusalFilter{Reason: app.ReasonPort}, want: 2},
		{filter: operate.RefusalFilter{Period: operate.Period{Since: now.Add(-2 * time.Hour)}}, want: 2},
		{filter: operate.RefusalFilter{Period: operate.Period{Until: now.Add(-2 * time.Hour)}}, want: 1},
	} {
		found, err := g.Refusals(test.filter, test.limit)
		require.NoError(t, err)
		require.Len(t, found, test.want, "%+v", test)
		for _, r := range found {
			require.Nil(t, r.Size)
		}
	}
}

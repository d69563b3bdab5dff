package admin_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/caddy-deepgram/deepgram-callback/app"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
)

// from takes a callback of a user in.
func (g *gateway) from(user, path, route, uri string) spool.ID {
	g.t.Helper()
	receipt, err := app.ThisProcess().Inboxes()[path].Accept(g.t.Context(), spool.Envelope{
		Route: route, Method: http.MethodPost, URI: uri, User: user, ContentLength: -1,
	}, body())
	require.NoError(g.t, err)
	return receipt.ID
}

// A leaked credential brought callbacks in of every state; those of others stay.
func TestWhatAUserBroughtInCanBeDropped(t *testing.T) {
	g, path := one(t)
	for range 300 {
		g.from("leaked", path, "unconfigured", "/x")
	}
	dead := g.from("leaked", path, "hooks", "/gone")
	g.wait(path, dead, func(m *spool.Message) bool { return m.State == spool.Dead })
	refused := g.from("leaked", path, "hooks", "/refused")
	g.wait(path, refused, func(m *spool.Message) bool { return m.Tries == 1 })
	stays := g.from("other", path, "hooks", "/refused")
	nobody := g.refused(path, "other")

	require.Contains(t, g.ok("spool", "list", "--user", "leaked", "--state", "dead"), dead.String())
	require.NotContains(t, g.ok("spool", "list", "--user", "leaked"), stays.String())
	require.Equal(t, http.StatusBadRequest,
		g.do(http.MethodDelete, "/spool/messages?user=").StatusCode)
	require.Equal(t, http.StatusBadRequest,
		g.do(http.MethodDelete, "/spool/messages?user=leaked&state=x").StatusCode)

	require.Equal(t, "dropped 2 of the user leaked\n",
		g.ok("spool", "drop", "--user", "leaked", "--route", "hooks"))
	require.Equal(t, `{"dropped":300}`,
		strings.TrimSpace(g.ok("spool", "drop", "--user", "leaked", "--json")))
	require.Equal(t, "dropped 0 of the user nobody\n", g.ok("spool", "drop", "--user", "nobody"))
	left, err := app.ThisProcess().Inboxes()[path].List(t.Context(), spool.Filter{})
	require.NoError(t, err)
	require.Len(t, left, 2)
	require.Equal(t, stays, left[0].ID)
	require.Equal(t, nobody, left[1].ID)
	for _, args := range [][]string{{"--user", "x", "--all"}, {"--user", "x", stays.String()}} {
		require.Error(t, g.run(append([]string{"spool", "drop"}, args...)...).err)
	}
}

// No account of this gateway's configuration is called so, as that of the harness has none at all.
func TestAReplaySaysThatItsUserWasRemoved(t *testing.T) {
	g, path := one(t)
	dead := g.from("removed", path, "hooks", "/gone")
	g.wait(path, dead, func(m *spool.Message) bool { return m.State == spool.Dead })
	require.Contains(t, g.ok("spool", "replay", dead.String()),
		"accepted for the user removed, of whom the configuration has no account any more")
	g.wait(path, dead, func(m *spool.Message) bool { return m.State == spool.Dead })
	require.Contains(t, g.ok("spool", "replay", "--all"), "accepted for the user removed")
	g.wait(path, dead, func(m *spool.Message) bool { return m.State == spool.Dead })
	require.JSONEq(t, `{"replayed":1,"revoked_users":["removed"]}`,
		g.ok("spool", "replay", "--all", "--json"))

	anonymous := g.dead(path, "other")
	require.Equal(t, "replayed "+anonymous.String()+"\n", g.ok("spool", "replay", anonymous.String()))
}

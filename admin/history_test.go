package admin_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-deepgram/deepgram-callback/app"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
)

// history runs a gateway whose routes kept and kept-too keep what they delivered.
func history(t testing.TB) (*gateway, string) {
	path := t.TempDir()
	return start(t, map[string][]string{path: {"hooks", "kept", "kept-too"}}, nil), path
}

// listed is the ids that `spool list` shows.
func (g *gateway) listed(args ...string) []string {
	g.t.Helper()
	var messages []struct{ ID string }
	out := g.ok(append([]string{"spool", "list", "--json"}, args...)...)
	require.NoError(g.t, json.Unmarshal([]byte(out), &messages))
	ids := []string{}
	for _, m := range messages {
		ids = append(ids, m.ID)
	}
	return ids
}

// message is one as it is in its inbox.
func (g *gateway) message(path string, id spool.ID) *spool.Message {
	g.t.Helper()
	m, err := app.ThisProcess().Inboxes()[path].Get(g.t.Context(), id)
	require.NoError(g.t, err)
	return m
}

func texts(ids ...spool.ID) []string {
	list := []string{}
	for _, id := range ids {
		list = append(list, id.String())
	}
	return list
}

func TestListFindsWhatWasDelivered(t *testing.T) {
	g, path := history(t)
	first := g.accept(path, "kept", "/fine", strings.NewReader(`{"request_id":"r-1"}`), nil)
	g.wait(path, first, func(m *spool.Message) bool { return m.State == spool.Delivered })
	second := g.delivered(path, "kept-too")
	third := g.from("somebody", path, "kept", "/fine")
	g.wait(path, third, func(m *spool.Message) bool { return m.State == spool.Delivered })
	dead := g.dead(path, "kept")
	came := func(id spool.ID) string {
		return g.message(path, id).ReceivedAt.Format(time.RFC3339Nano)
	}

	for _, test := range []struct {
		args string
		want []string
	}{
		{"", texts(first, second, third, dead)},
		{"--newest", texts(dead, third, second, first)},
		{"--state delivered", texts(first, second, third)},
		{"--state delivered --newest --limit 2", texts(third, second)},
		{"--state delivered --route kept", texts(first, third)},
		{"--request-id r-1", texts(first)},
		{"--request-id r-1 --state dead", nil},
		{"--user somebody", texts(third)},
		{"--since " + came(second), texts(second, third, dead)},
		{"--until " + came(second), texts(first)},
		{"--since " + came(second) + " --until " + came(dead), texts(second, third)},
		{"--since 2h", texts(first, second, third, dead)},
		{"--until 2h", nil},
		{"--since 7d --until 1s --state dead", nil},
		{"--after " + second.String(), texts(third, dead)},
		{"--newest --after " + second.String(), texts(first)},
	} {
		require.ElementsMatch(t, test.want, g.listed(strings.Fields(test.args)...), test.args)
		require.Equal(t, append([]string{}, test.want...), g.listed(strings.Fields(test.args)...),
			test.args)
	}
	for _, args := range []string{"--since tomorrow", "--since 1h --until 2h", "--until -1h",
		"--after x", "--state kept"} {
		o := g.run(append([]string{"spool", "list"}, strings.Fields(args)...)...)
		require.Equal(t, 1, o.code, args)
		require.Empty(t, strings.TrimSpace(o.out), args)
	}

	lines := strings.Split(g.ok("spool", "list", "--state", "delivered", "--limit", "1"), "\n")
	column := strings.Index(lines[0], "DELIVERED")
	require.Equal(t, "now", strings.Fields(lines[1][column:])[0])
	require.Equal(t, "-", strings.Fields(lines[1][strings.Index(lines[0], "NEXT"):])[0])
	var shown []map[string]any
	require.NoError(t, json.Unmarshal([]byte(g.ok("spool", "list", "--json")), &shown))
	require.NotNil(t, shown[0]["delivered_at"])
	require.Nil(t, shown[3]["delivered_at"])
}

// A page is the same whatever came and went since the page before, over two inboxes, each of
// which gives out ids of its own.
func TestPagesAreStableOverTwoInboxes(t *testing.T) {
	first, second := t.TempDir(), t.TempDir()
	g := start(t, map[string][]string{first: {"kept"}, second: {"kept"}}, nil)
	var ids []string
	for i := range 20 {
		ids = append(ids, g.delivered([]string{first, second}[i%2], "kept").String())
	}
	slices.Sort(ids)
	for _, order := range []string{"oldest", "newest"} {
		t.Run(order, func(t *testing.T) {
			want := slices.Clone(ids)
			if order == "newest" {
				slices.Reverse(want)
			}
			var paged []string
			for after := ""; ; after = paged[len(paged)-1] {
				page := g.list(fmt.Sprintf("?state=delivered&order=%s&limit=3&after=%s", order, after))
				if len(page) == 0 {
					break
				}
				require.LessOrEqual(t, len(page), 3)
				paged = append(paged, page...)
				// What comes is newer than all, so it is no part of pages of the newest first.
				ids = append(ids, g.delivered(second, "kept").String())
				if order == "oldest" {
					want = append(want, ids[len(ids)-1])
				}
				if len(paged) >= 15 {
					break
				}
				// What was shown already goes.
				require.Equal(t, http.StatusNoContent,
					g.do(http.MethodDelete, "/spool/messages/"+page[0]).StatusCode)
				ids = slices.DeleteFunc(ids, func(id string) bool { return id == page[0] })
			}
			require.Equal(t, want[:len(paged)], paged)
			require.GreaterOrEqual(t, len(paged), 15)
		})
	}
}

func TestShowHasTheAttemptsAndTheHeader(t *testing.T) {
	g, path := history(t)
	id := g.accept(path, "kept", "/refused", body(), http.Header{
		"Content-Type": {"application/json"}, "Dg-Token": {"a-secret"}, "X-Several": {"a", "b\x1b[2J"},
	})
	g.wait(path, id, func(m *spool.Message) bool { return m.Tries == 1 })
	g.service.mend()
	require.Equal(t, "replayed "+id.String()+"\n", g.ok("spool", "replay", id.String()))
	g.wait(path, id, func(m *spool.Message) bool { return m.State == spool.Delivered })

	out := g.ok("spool", "show", id.String())
	require.Regexp(t, `(?m)^state: +delivered$`, out)
	require.Regexp(t, `(?m)^delivered: +20\d\d-.*Z \(now\)$`, out)
	require.NotContains(t, out, "next attempt")
	require.NotContains(t, out, "a-secret")
	require.Regexp(t, `(?m)^FIELD +VALUE
Content-Type +application/json
Dg-Token +REDACTED
X-Several +a
X-Several +b\\x1b\[2J

ATTEMPT +TOOK +STATUS +UPSTREAM +ERROR
20\d\d-\S+Z \(now\) +\d+m?s +400 +- +the service answered 400 Bad Request
20\d\d-\S+Z \(now\) +\d+m?s +200 +127\.0\.0\.1:9000 +-
`, out)

	var shown struct{ History []map[string]any }
	require.NoError(t, json.Unmarshal([]byte(g.ok("spool", "show", "--json", id.String())), &shown))
	require.Len(t, shown.History, 2)
	require.EqualValues(t, http.StatusBadRequest, shown.History[0]["status"])
	require.Equal(t, "127.0.0.1:9000", shown.History[1]["upstream"])

	waiting := g.accept(path, "nobody", "/x", body(), nil)
	require.NotContains(t, g.ok("spool", "show", waiting.String()), "ATTEMPT ")
}

func TestReplaySelects(t *testing.T) {
	g, path := history(t)
	delivered, other := g.delivered(path, "kept"), g.delivered(path, "kept-too")
	one := g.accept(path, "kept", "/fine", strings.NewReader(`{"request_id":"r-1"}`), nil)
	g.wait(path, one, func(m *spool.Message) bool { return m.State == spool.Delivered })
	dead := g.dead(path, "kept")
	waiting := g.refused(path, "kept")
	replay := func(args string) string {
		t.Helper()
		return g.ok(append([]string{"spool", "replay"}, strings.Fields(args)...)...)
	}

	for args, says := range map[string]string{
		"--all":                             "1 dead letter would be replayed\n",
		"--state dead --route kept-too":     "0 dead letters would be replayed\n",
		"--state delivered":                 "3 delivered callbacks would be replayed\n",
		"--state delivered --since 24h":     "3 delivered callbacks would be replayed\n",
		"--state delivered --until 24h":     "0 delivered callbacks would be replayed\n",
		"--state delivered --route kept":    "2 delivered callbacks would be replayed\n",
		"--since 24h":                       "4 callbacks would be replayed\n",
		"--request-id r-1":                  "1 callback would be replayed\n",
		"--since 24h --user nobody":         "0 of the user nobody would be replayed\n",
		"--state delivered --user nobody":   "0 delivered callbacks of the user nobody would be replayed\n",
		"--state delivered --json":          `{"selected":3}` + "\n",
		"--all --route kept --path " + path: "1 dead letter would be replayed\n",
	} {
		require.Equal(t, says, replay("--dry-run "+args), args)
	}
	require.Equal(t, 1, g.service.took(delivered), "a dry run sends nothing")
	require.Equal(t, texts(delivered, other, one), g.listed("--state", "delivered"))

	require.Equal(t, "replayed 1 callback\n", replay("--request-id r-1"))
	g.wait(path, one, func(m *spool.Message) bool { return m.State == spool.Delivered && m.Replayed })
	require.Regexp(t, `(?m)^state: +delivered, sent again$`, g.ok("spool", "show", one.String()))
	require.Equal(t, "replayed 2 delivered callbacks\n",
		replay("--state delivered --since 1h --route kept"))
	require.Equal(t, `{"replayed":1}`+"\n", replay("--state delivered --route kept-too --json"))
	for id, times := range map[spool.ID]int{delivered: 2, other: 2, one: 3} {
		require.Eventually(t, func() bool { return g.service.took(id) == times }, patience,
			time.Millisecond)
		g.wait(path, id, func(m *spool.Message) bool { return m.State == spool.Delivered && m.Replayed })
	}
	g.service.mend()
	require.Equal(t, "replayed 1 dead letter\n", replay("--all"))
	g.wait(path, dead, func(m *spool.Message) bool { return m.State == spool.Delivered })
	require.Equal(t, spool.Pending, g.message(path, waiting).State, "it was not selected")

	for args, says := range map[string]string{
		"":                                "ids are needed, or --all",
		"--route kept":                    "more is needed",
		"--user somebody":                 "more is needed",
		"--state pending":                 "only what is dead or was delivered",
		"--state delivered --route=":      "route is empty",
		"--state= --since 1h":             "state is empty",
		"--since x":                       "neither a time",
		"--dry-run":                       "--dry-run goes with flags",
		"--dry-run " + dead.String():      "--dry-run goes with flags",
		"--since 1h " + dead.String():     "not both",
		"--all --state delivered":         "--all means all dead letters",
		"--all --user somebody":           "--state dead --user",
		"--all --path /none":              "no inbox is open at",
		"--state delivered --request-id=": "request_id is empty",
	} {
		o := g.run(append([]string{"spool", "replay"}, strings.Fields(args)...)...)
		require.ErrorContains(t, o.err, says, args)
		require.Empty(t, o.out, args)
	}
}

func TestDropSelects(t *testing.T) {
	g, path := history(t)
	delivered, other := g.delivered(path, "kept"), g.delivered(path, "kept-too")
	one := g.accept(path, "nobody", "/x", strings.NewReader(`{"request_id":"r-1"}`), nil)
	dead, waiting := g.dead(path, "kept"), g.refused(path, "kept")
	drop := func(args string) string {
		t.Helper()
		return g.ok(append([]string{"spool", "drop"}, strings.Fields(args)...)...)
	}
	require.Equal(t, "2 delivered callbacks would be dropped\n", drop("--state delivered --dry-run"))
	require.Equal(t, `{"selected":1}`+"\n", drop("--all --dry-run --json"))
	require.Equal(t, texts(delivered, other, one, dead, waiting), g.listed())

	require.Equal(t, "dropped 1 delivered callback\n", drop("--state delivered --route kept-too"))
	require.Equal(t, "dropped 1 callback\n", drop("--request-id r-1"))
	require.Equal(t, "dropped 0 dead letters\n", drop("--state dead --until 1h"))
	require.Equal(t, "dropped 1 dead letter\n", drop("--all --since 1h"))
	require.Equal(t, texts(delivered, waiting), g.listed())

	for args, says := range map[string]string{
		"--since 1h":                      "cannot be dropped all at once",
		"--state pending":                 "cannot be dropped all at once",
		"--route kept --dry-run":          "cannot be dropped all at once",
		"--state dead --route=":           "route is empty",
		"--state dead --dry-run --route=": "route is empty",
		"--user= --dry-run":               "user is empty",
		"--request-id=":                   "request_id is empty",
		"--all --state delivered":         "--all means all dead letters",
	} {
		o := g.run(append([]string{"spool", "drop"}, strings.Fields(args)...)...)
		require.ErrorContains(t, o.err, says, args)
	}
	require.Equal(t, texts(delivered, waiting), g.listed(), "nothing of it dropped anything")
}

// The route to a socket has slashes in its name.
func TestARouteIsPausedAndResumed(t *testing.T) {
	const socket = "kept unix//run/a b/../service.sock?%2F"
	path := t.TempDir()
	g := start(t, map[string][]string{path: {socket, "hooks", ".."}}, nil)
	paused := func(route string) bool {
		var status struct {
			Inboxes map[string]struct {
				Routes map[string]struct{ Paused bool }
			}
		}
		g.get("/spool", &status)
		return status.Inboxes[path].Routes[route].Paused
	}
	for _, route := range []string{socket, "hooks", ".."} {
		require.Equal(t, "paused "+route+"\n", g.ok("spool", "pause", route))
		require.True(t, paused(route), route)
	}
	require.Regexp(t, `(?m)^hooks .* paused$`, g.ok("spool", "status"))
	id := g.accept(path, socket, "/fine", body(), nil)
	require.Equal(t, "paused hooks\n", g.ok("spool", "pause", "hooks"), "twice is once")
	require.Equal(t, spool.Pending, g.message(path, id).State)
	require.Zero(t, g.service.took(id))

	require.JSONEq(t, fmt.Sprintf(`{"route":%q,"paused":false}`, socket),
		g.ok("spool", "resume", "--json", socket, "--path", path))
	g.wait(path, id, func(m *spool.Message) bool { return m.State == spool.Delivered })
	require.False(t, paused(socket))
	require.True(t, paused("hooks"), "another one stays paused")

	for _, args := range [][]string{{"none"}, {""}, {"hooks/.."}, {"hooks", "--path", "/none"}} {
		require.Equal(t, 5, g.run(append([]string{"spool", "pause"}, args...)...).code, args)
	}
	require.Equal(t, 1, g.run("spool", "pause").code)
}

func TestShellsCompleteStatesAndRoutes(t *testing.T) {
	g, path := history(t)
	g.accept(path, "old\x1b", "/x", body(), nil)
	complete := func(args ...string) []string {
		args = append([]string{"__complete", "deepgram-callback", "spool"}, args...)
		lines := strings.Fields(execute(t.Context(), args...).out)
		require.Equal(t, ":4", lines[len(lines)-1], "no files are offered")
		return lines[:len(lines)-1]
	}
	for _, command := range []string{"list", "replay", "drop"} {
		require.Equal(t, []string{"pending", "dead", "delivered"}, complete(command, "--state", ""))
		require.Equal(t, []string{"hooks", "kept", "kept-too"},
			complete(command, "--address", g.admin, "--route", ""))
	}
	for _, command := range []string{"pause", "resume"} {
		require.Equal(t, []string{"hooks", "kept", "kept-too"},
			complete(command, "--address", g.admin, ""))
		require.Empty(t, complete(command, "--address", g.admin, "hooks", ""))
		require.Empty(t, complete(command, "--address", "unix//none", ""))
	}
}

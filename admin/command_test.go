package admin_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-deepgram/deepgram-callback/app"
	"github.com/caddy-deepgram/deepgram-callback/internal/caddytest"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
)

func TestListIsATableForPeople(t *testing.T) {
	g, path := one(t)
	dead := g.dead(path, "other")
	id := g.accept(path, "hooks", "/refused?"+strings.Repeat("a=1&", 100),
		strings.NewReader(`{"metadata":{"request_id":"r-1"}}`), nil)
	g.wait(path, id, func(m *spool.Message) bool { return m.Tries == 1 })

	lines := strings.Split(strings.TrimSuffix(g.ok("spool", "list"), "\n"), "\n")
	require.Len(t, lines, 3)
	require.Equal(t, []string{"ID", "STATE", "RECEIVED", "DELIVERED", "SIZE", "ATTEMPTS", "NEXT",
		"ROUTE", "CALLBACK", "USER", "REQUEST", "ID", "LAST", "ERROR"}, strings.Fields(lines[0]))
	require.Contains(t, lines[1], dead.String()+"  dead ")
	require.Contains(t, lines[2], id.String()+"  pending  now ")
	for _, part := range []string{" 33 B ", " hooks ", " POST /refused?… ", " r-1 ",
		" the service answered 400 Bad Request", " from now "} {
		require.Contains(t, lines[2], part)
	}
	// Columns begin where their headings do.
	for _, heading := range []string{"STATE", "ROUTE", "CALLBACK", "LAST ERROR"} {
		column := strings.Index(lines[0], heading)
		for _, line := range lines[1:] {
			runes := []rune(line)
			require.Equal(t, ' ', runes[column-1], heading)
			require.NotEqual(t, ' ', runes[column], heading)
		}
	}
}

func TestListSelects(t *testing.T) {
	g, path := one(t)
	dead, pending := g.dead(path, "hooks").String(), g.refused(path, "other").String()
	ids := func(args ...string) []string {
		var messages []struct{ ID string }
		out := g.ok(append([]string{"spool", "list", "--json"}, args...)...)
		require.NoError(t, json.Unmarshal([]byte(out), &messages))
		ids := []string{}
		for _, m := range messages {
			ids = append(ids, m.ID)
		}
		return ids
	}
	require.Equal(t, []string{dead, pending}, ids())
	require.Equal(t, []string{dead}, ids("--state", "dead"))
	require.Equal(t, []string{pending}, ids("--state", "pending"))
	require.Equal(t, []string{pending}, ids("--route", "other"))
	require.Equal(t, []string{dead}, ids("--limit", "1"))
	require.Equal(t, []string{dead, pending}, ids("--path", path))
	require.Empty(t, ids("--state", "dead", "--route", "other"))
}

func TestListGoesThroughAllPages(t *testing.T) {
	g, path := one(t)
	const many = 2100
	g.acceptMany(path, "unconfigured", "/x", many)
	for _, limit := range []int{0, 1, 999, 1000, 1001, 2000, 2099, 2100, 2101} {
		want := limit
		if limit == 0 || limit > many {
			want = many
		}
		out := g.ok("spool", "list", "--json", "--limit", strconv.Itoa(limit))
		var messages []struct{ ID string }
		require.NoError(t, json.Unmarshal([]byte(out), &messages))
		require.Len(t, messages, want)
		require.Equal(t, want+2, strings.Count(out, "\n"), "one line for each, and the brackets")
		for i := range messages[1:] {
			require.Less(t, messages[i].ID, messages[i+1].ID)
		}
	}
	require.Equal(t, many+1, strings.Count(g.ok("spool", "list"), "\n"))
}

func TestAShortPageIsNotTakenForTheLast(t *testing.T) {
	const first = "0199c0de-0000-7000-8000-000000000001"
	const second = "0199c0de-0000-7000-8000-000000000002"
	var mu sync.Mutex
	open := map[net.Conn]bool{}
	answer := func(w http.ResponseWriter, r *http.Request) {
		switch r.FormValue("after") {
		case "":
			_, _ = fmt.Fprintf(w, `[{"id":%q}]`, first)
		case first:
			_, _ = fmt.Fprintf(w, `[{"id":%q}]`, second)
		default:
			_, _ = w.Write([]byte("[]"))
		}
	}
	server := httptest.NewUnstartedServer(http.HandlerFunc(answer))
	server.Config.ConnState = func(c net.Conn, state http.ConnState) {
		mu.Lock()
		defer mu.Unlock()
		open[c] = state != http.StateClosed
	}
	server.Start()
	defer server.Close()
	o := run(t, "spool", "list", "--json", "--address", server.Listener.Addr().String())
	require.NoError(t, o.err)
	require.JSONEq(t, fmt.Sprintf(`[{"id":%q},{"id":%q}]`, first, second), o.out)

	require.Eventually(t, func() bool {
		mu.Lock()
		defer mu.Unlock()
		return len(open) == 3 && !slices.Contains(slices.Collect(maps.Values(open)), true)
	}, patience, time.Millisecond, "connections stay open")
}

func TestShowTellsAllOfOneCallback(t *testing.T) {
	g, path := one(t)
	id := g.accept(path, "hooks", "/gone?sig=1",
		strings.NewReader(`{"metadata":{"request_id":"r-1\u001b[2J"}}`),
		http.Header{"Content-Type": {"application/json"}})
	g.wait(path, id, func(m *spool.Message) bool { return m.State == spool.Dead })
	out := g.ok("spool", "show", id.String())
	for _, line := range []string{
		"id: " + id.String(), "state: dead", "inbox: " + path, "route: hooks",
		"callback: POST /gone?sig=REDACTED",
		"content type: application/json", "size: 42 B (42 bytes)", `request id: r-1\x1b[2J`,
		"attempts: 1",
		"last error: the service answered 410 Gone",
	} {
		name, value, _ := strings.Cut(line, ": ")
		require.Regexp(t, `(?m)^`+name+`: +\Q`+value+`\E$`, out)
	}
	require.Regexp(t, `(?m)^died: +20\d\d-.*Z \(now\)$`, out)
	require.NotContains(t, out, "next attempt")

	var m map[string]any
	require.NoError(t, json.Unmarshal([]byte(g.ok("spool", "show", "--json", id.String())), &m))
	require.Equal(t, detailKeys, keys(m))

	waiting := g.refused(path, "hooks")
	require.Regexp(t, `(?m)^next attempt: +20\d\d-.*Z \(.* from now\)$`,
		g.ok("spool", "show", waiting.String()))
}

func TestStatusShowsRoutesAndTheirServices(t *testing.T) {
	first, second := t.TempDir(), t.TempDir()
	g := start(t, map[string][]string{first: {"hooks", "other"}, second: {"hooks"}}, nil)
	g.dead(first, "hooks")
	g.accept(first, "lost", "/x", body(), nil)

	out := g.ok("spool", "status")
	require.Regexp(t, `(?m)^inbox: +\Q`+first+`\E$`, out)
	require.Regexp(t, `(?m)^inbox: +\Q`+second+`\E$`, out)
	require.Regexp(t, `(?m)^on disk: +\S+ \S+ of 1\.0 GiB$`, out)
	require.Regexp(t, `(?m)^accepts: +yes$`, out)
	require.Regexp(t, `(?m)^hooks +0 +0 B +0 +- +1 +\d+ B +0 +0 B +up$`, out)
	require.Regexp(t, `(?m)^lost +1 +\d+ B +0 +now +0 +0 B +0 +0 B +not configured$`, out)
	require.NotContains(t, g.ok("spool", "status", "--path", second), first)

	var got map[string]any
	require.NoError(t, json.Unmarshal([]byte(g.ok("spool", "status", "--json")), &got))
	require.EqualValues(t, 1, got["dead"])
}

func TestBodyIsWrittenByteForByte(t *testing.T) {
	g, path := one(t)
	content := strings.Repeat("\x00\xff\r\n", 1<<18)
	id := g.accept(path, "hooks", "/refused", strings.NewReader(content), nil).String()
	require.True(t, g.ok("spool", "body", id) == content)

	file := filepath.Join(t.TempDir(), "body")
	for range 2 { // new, and there already
		require.Empty(t, g.ok("spool", "body", id, "--output", file))
		written, err := os.ReadFile(file)
		require.NoError(t, err)
		require.True(t, string(written) == content)
	}
	info, err := os.Stat(file)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode())

	none := filepath.Join(t.TempDir(), "none")
	require.Equal(t, 5, g.run("spool", "body", "x", "-o", none).code)
	require.NoFileExists(t, none)
	require.Equal(t, 1, g.run("spool", "body", id, "-o", filepath.Join(none, "none")).code)
}

func TestABodyThatBreaksOffIsAFailure(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "1000")
		_, _ = w.Write(make([]byte, 10))
	}))
	defer server.Close()
	o := run(t, "spool", "body", "x", "--address", server.Listener.Addr().String())
	require.Equal(t, 1, o.code)
	require.ErrorContains(t, o.err, "only 10 of 1000 bytes")
}

func TestReplayByIDAndOfAllDeadLetters(t *testing.T) {
	g, path := one(t)
	a, b := g.dead(path, "hooks").String(), g.refused(path, "hooks").String()
	c, d := g.dead(path, "hooks").String(), g.dead(path, "other").String()
	e := g.dead(path, "other").String()
	g.service.mend()
	require.Equal(t, "replayed "+a+"\nreplayed "+b+"\n", g.ok("spool", "replay", a, b))
	require.Equal(t, "replayed 1 dead letter\n", g.ok("spool", "replay", "--all", "--route", "hooks"))
	require.Equal(t, []string{d, e}, g.list("?state=dead"))
	require.JSONEq(t, `{"replayed":1}`, g.ok("spool", "replay", "--json", d))
	require.JSONEq(t, `{"replayed":1}`, g.ok("spool", "replay", "--json", "--all", "--path", path))
	require.Equal(t, "replayed 0 dead letters\n", g.ok("spool", "replay", "--all"))
	for _, id := range []string{a, b, c, d, e} {
		parsed, err := spool.ParseID(id)
		require.NoError(t, err)
		g.waitGone(path, parsed)
	}
}

func TestDropByIDAndOfAllDeadLetters(t *testing.T) {
	g, path := one(t)
	a, b := g.dead(path, "hooks").String(), g.refused(path, "hooks").String()
	g.dead(path, "hooks")
	c, d := g.dead(path, "other").String(), g.dead(path, "other").String()
	waiting := g.refused(path, "other").String()
	require.Equal(t, "dropped "+a+"\ndropped "+b+"\n", g.ok("spool", "drop", a, b))
	require.Equal(t, "dropped 1 dead letter\n", g.ok("spool", "drop", "--all", "--route", "hooks"))
	require.Equal(t, []string{c, d, waiting}, g.list(""))
	require.JSONEq(t, `{"dropped":1}`, g.ok("spool", "drop", "--json", c))
	require.JSONEq(t, `{"dropped":1}`, g.ok("spool", "drop", "--json", "--all"))
	require.Equal(t, []string{waiting}, g.list(""))

	held := g.held(path, "hooks")
	require.Contains(t, g.ok("spool", "drop", held.String()), "is dropped when that has ended")
	g.service.letGo()
	g.waitGone(path, held)
}

func TestOneIDThatFailsDoesNotKeepTheOthers(t *testing.T) {
	g, path := one(t)
	a, b := g.dead(path, "hooks").String(), g.dead(path, "hooks").String()
	o := g.run("spool", "drop", a, "no\x1bne", b)
	require.Equal(t, 5, o.code)
	require.Equal(t, "dropped "+a+"\ndropped "+b+"\n", o.out)
	require.Equal(t, `no\x1bne: not an id: "no\x1bne"`+"\n", o.notes)
	require.Empty(t, g.list(""))

	o = g.run("spool", "drop", "--json", a, b)
	require.Equal(t, 5, o.code)
	require.JSONEq(t, `{"dropped":0}`, o.out)
}

func TestExitCodesTellFailuresApart(t *testing.T) {
	g, path := one(t)
	id, held := g.dead(path, "hooks").String(), g.held(path, "hooks").String()
	for code, commands := range map[int][]string{
		0: {"", "spool", "streams", "spool list", "spool status", "streams list", "spool show " + id,
			"spool replay --all"},
		1: {
			"x", "spool x", "streams x", "spool list x", "spool list --state x", "spool list --limit -1",
			"spool list --limit x",
			"spool list --x", "spool show", "spool show " + id + " " + id, "spool body", "spool replay",
			"spool drop", "spool drop --route hooks",
			"spool drop --all " + id, "spool drop --all --route=", "spool replay --route hooks " + id,
			"streams kill", "spool list --config /none",
		},
		5: {
			"spool show x", "spool body x", "spool replay x", "spool drop x", "streams kill x",
			"spool list --path /none",
			"spool drop .", "spool drop ..", "spool show ..", "spool drop ../messages?state=dead",
			"spool show %2e", "spool show " + id + "/body",
			"streams kill ..",
		},
		6: {"spool replay " + held},
	} {
		for _, command := range commands {
			args := strings.Fields(command)
			if strings.Contains(command, "--config") {
				require.Equal(t, code, run(t, args...).code, command)
				continue
			}
			require.Equal(t, code, g.run(args...).code, command)
		}
	}
	require.Equal(t, 5, g.run("spool", "drop", "").code)
	require.NotEmpty(t, g.list(""), "nothing of it dropped anything")
}

func TestWhatIsUnavailableHasAnExitCode(t *testing.T) {
	g := start(t, nil, nil)
	o := g.run("spool", "list")
	require.Equal(t, 4, o.code)
	require.ErrorContains(t, o.err, "no inbox is open")

	o = run(t, "spool", "list", "--address", "unix/"+filepath.Join(t.TempDir(), "none"))
	require.Equal(t, 4, o.code)
	require.ErrorContains(t, o.err, "none")

	other := httptest.NewServer(http.NotFoundHandler())
	defer other.Close()
	o = run(t, "spool", "list", "--address", other.Listener.Addr().String())
	require.Equal(t, 4, o.code)
	require.ErrorContains(t, o.err, "has no /deepgram_callback API")

	broken := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte("{"))
	}))
	defer broken.Close()
	for _, command := range []string{"spool list", "spool list --json", "spool show x", "spool status",
		"streams list", "spool replay --all"} {
		o = run(t, append(strings.Fields(command), "--address", broken.Listener.Addr().String())...)
		require.Equal(t, 1, o.code, command)
	}
}

func TestTheAddressComesFromAConfiguration(t *testing.T) {
	g, path := one(t)
	g.dead(path, "hooks")
	dir := t.TempDir()
	asJSON, caddyfile := filepath.Join(dir, "caddy.json"), filepath.Join(dir, "config")
	require.NoError(t, os.WriteFile(asJSON, fmt.Appendf(nil, `{"admin":{"listen":%q}}`, g.admin),
		0o600))
	require.NoError(t, os.WriteFile(caddyfile, fmt.Appendf(nil, "{\n\tadmin %s\n}\n", g.admin), 0o600))
	for _, args := range [][]string{
		{"--config", asJSON}, {"-c", asJSON}, {"--config", caddyfile, "--adapter", "caddyfile"},
		{"--config", "/none", "--address", g.admin},
	} {
		o := run(t, append([]string{"spool", "list", "--state", "dead"}, args...)...)
		require.NoError(t, o.err)
		require.Contains(t, o.out, "/gone")
	}
}

func TestHelpTellsTheExitCodes(t *testing.T) {
	o := run(t, "--help")
	require.NoError(t, o.err)
	for _, text := range []string{"Exit codes:", "4  the admin API cannot be reached",
		"5  no such message", "6  the message is being delivered"} {
		require.Contains(t, o.out, text)
	}
}

// caddyProcess runs this test's binary as Caddy.
func caddyProcess(t *testing.T, args ...string) (code int, out, notes string) {
	t.Helper()
	cmd := caddytest.Command(t, args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		require.NoError(t, err)
	}
	return cmd.ProcessState.ExitCode(), stdout.String(), stderr.String()
}

func TestProcessesEndWithTheExitCodes(t *testing.T) {
	g, path := one(t)
	dead, held := g.dead(path, "hooks").String(), g.held(path, "hooks").String()
	code, out, notes := caddyProcess(t, "deepgram-callback", "spool", "list", "--address", g.admin)
	require.Zero(t, code, notes)
	require.Empty(t, notes)
	require.Contains(t, out, dead)
	for _, test := range []struct {
		code    int
		command string
		says    string
	}{
		{1, "spool lsit", "unknown command"},
		{1, "spool list --state alive", "neither pending, dead nor delivered"},
		{5, "spool show x", "no such message"},
		{6, "spool replay " + held, "is being delivered"},
		{4, "spool list --address unix//none", "admin API at unix//none"},
	} {
		args := append([]string{"deepgram-callback"}, strings.Fields(test.command)...)
		if !strings.Contains(test.command, "--address") {
			args = append(args, "--address", g.admin)
		}
		code, out, notes := caddyProcess(t, args...)
		require.Equal(t, test.code, code, test.command)
		require.Empty(t, out)
		require.Contains(t, notes, test.says)
		require.NotContains(t, notes, "caddy responded", "what the API says is enough")
	}
}

func TestTheAPIIsServedOverTCPToo(t *testing.T) {
	path := t.TempDir()
	free, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	address := free.Addr().String()
	require.NoError(t, free.Close())
	g := startAt(t, address, map[string][]string{path: {"hooks"}}, nil)
	id := g.dead(path, "hooks")
	require.Contains(t, g.ok("spool", "list"), id.String())
	require.Len(t, app.ThisProcess().Inboxes(), 1)
}

package admin_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/stretchr/testify/require"

	"github.com/caddy-deepgram/deepgram-callback/app"
	"github.com/caddy-deepgram/deepgram-callback/internal/caddytest"
)

// A refusing gateway lets nobody in without a password.
type refusing struct {
	*gateway
	url string
}

func newRefusing(t *testing.T) *refusing {
	t.Helper()
	port := caddytest.FreePort(t)
	adapted, _, err := caddyconfig.GetAdapter("caddyfile").Adapt(fmt.Appendf(nil, `
http://:%d {
	bind 127.0.0.1
	deepgram_callback 127.0.0.1:1 {
		basic_auth plain {
			one `+password+`
		}
		max_body 1KiB
		ports %[1]d
	}
}`, port), nil)
	require.NoError(t, err)
	var config struct {
		Apps map[string]json.RawMessage `json:"apps"`
	}
	require.NoError(t, json.Unmarshal(adapted, &config))
	return &refusing{start(t, nil, config.Apps), "http://" + caddytest.Addr(port)}
}

// call sends a callback with a secret in its query, and returns its status.
func (g *refusing) call(method, path, password string, body io.Reader) int {
	g.t.Helper()
	r, err := http.NewRequest(method, g.url+path+"?token="+secret, body)
	require.NoError(g.t, err)
	r.Host = "callbacks.example"
	if password != "" {
		r.SetBasicAuth("one", password)
	}
	response, err := http.DefaultClient.Do(r)
	require.NoError(g.t, err)
	require.NoError(g.t, response.Body.Close())
	return response.StatusCode
}

// everyKind is refused for several reasons, one after the other.
func (g *refusing) everyKind() {
	g.t.Helper()
	require.Equal(g.t, 405, g.call("DELETE", "/a", password, nil))
	require.Equal(g.t, 401, g.call("POST", "/b", "", strings.NewReader("{}")))
	require.Equal(g.t, 401, g.call("PUT", "/c%1b[2J", "guess-"+secret, strings.NewReader("{}")))
	chunked := io.MultiReader(strings.NewReader(strings.Repeat("x", 2000)))
	require.Equal(g.t, 413, g.call("POST", "/d", password, chunked))
}

func TestRefusedCallbacksAreListed(t *testing.T) {
	g := newRefusing(t)
	began := time.Now()
	g.everyKind()

	var refusals []map[string]any
	g.get("/refusals?limit=4", &refusals)
	require.Len(t, refusals, 4)
	last := began
	for _, r := range slices.Backward(refusals) {
		at, err := time.Parse(time.RFC3339Nano, r["at"].(string))
		require.NoError(t, err)
		require.WithinRange(t, at, last.Round(0), time.Now())
		last = at
		delete(r, "at")
	}
	row := func(reason string, status int, method, path string) map[string]any {
		return map[string]any{
			"reason": reason, "status": float64(status), "kind": "batch", "method": method, "path": path,
			"host": "callbacks.example", "client_ip": "127.0.0.1", "remedy": app.Remedy(reason),
		}
	}
	want := []map[string]any{
		row("max_body", 413, "POST", "/d"), // of a size that nobody declared
		row("basic_auth_wrong", 401, "PUT", `/c\x1b[2J`),
		row("basic_auth_missing", 401, "POST", "/b"),
		row("method", 405, "DELETE", "/a"),
	}
	want[1]["size"], want[2]["size"], want[3]["size"] = 2.0, 2.0, 0.0
	require.Equal(t, want, refusals)

	for _, query := range []string{
		"?reason=basic_auth_wrong&limit=1", "?limit=&reason=basic_auth_wrong",
	} {
		g.get("/refusals"+query, &refusals)
		require.NotEmpty(t, refusals)
		for _, r := range refusals {
			require.Equal(t, "basic_auth_wrong", r["reason"])
		}
	}
	g.get("/refusals?limit=1000", &refusals)
	require.LessOrEqual(t, len(refusals), 200)
	for _, query := range []string{
		"?reason=wrong", "?limit=0", "?limit=-1", "?limit=x", "?limit=1&limit=2", "?state=dead",
		"?limit=99999999999999999999",
	} {
		g.do(http.MethodGet, "/refusals"+query).refusal(t, http.StatusBadRequest)
	}
	require.Equal(t, http.StatusMethodNotAllowed, g.do(http.MethodDelete, "/refusals").StatusCode)
}

func TestRefusalsSayWhatToDo(t *testing.T) {
	g := newRefusing(t)
	g.everyKind()
	out := g.ok("refusals", "--limit", "4")
	lines := strings.Split(strings.TrimSuffix(out, "\n"), "\n")
	require.Len(t, lines, 5+1+5)
	cells := func(line string) string { return strings.Join(strings.Fields(line), " ") }
	require.Equal(t, "REFUSED REASON STATUS KIND METHOD HOST PATH SIZE CLIENT", cells(lines[0]))
	require.Regexp(t, " max_body 413 batch POST callbacks.example /d - 127.0.0.1$", cells(lines[1]))
	require.Contains(t, lines[2], `/c\x1b[2J`)
	require.Empty(t, lines[5])
	for i, reason := range []string{"max_body", "basic_auth_wrong", "basic_auth_missing", "method"} {
		require.Equal(t, reason, strings.Fields(lines[7+i])[0])
		require.True(t, strings.HasSuffix(lines[7+i], "  "+app.Remedy(reason)))
	}
	require.Contains(t, out, "the password is wrong: ")

	some := g.ok("refusals", "--reason", "method", "--json", "--limit", "1")
	var refusals []struct{ Path string }
	require.NoError(t, json.Unmarshal([]byte(some), &refusals))
	require.Equal(t, "/a", refusals[0].Path)
	require.NotContains(t, g.ok("refusals", "--reason", "method"), "password")
	require.Contains(t, g.ok("refusals", "--reason", "disk_full"), "no callback was refused")
	require.Equal(t, "[]\n", g.ok("refusals", "--reason", "disk_full", "--json"))
	require.Contains(t, g.ok("refusals", "--since", "1h"), "method")
	require.Equal(t, "[]\n", g.ok("refusals", "--until", "1h", "--json"))
	require.Equal(t, "[]\n", g.ok("refusals", "--since", "2999-01-01T00:00:00+01:00", "--json"))
	for _, out := range []string{out, g.ok("refusals", "--json"), g.ok("refusals")} {
		require.NotContains(t, out, secret)
		require.NotContains(t, out, password)
	}
	for _, args := range [][]string{{"--reason", "wrong"}, {"--limit", "-1"}, {"x"}, {"--since", "soon"}} {
		require.Equal(t, 1, g.run(append([]string{"refusals"}, args...)...).code, args)
	}
}

// Why a callback was turned away is asked after the reload that was to mend it.
func TestRefusalsOutliveAReload(t *testing.T) {
	g := newRefusing(t)
	g.everyKind()
	before := g.ok("refusals", "--json")
	response, err := g.http.Get("http://127.0.0.1/config/")
	require.NoError(t, err)
	defer func() { _ = response.Body.Close() }()
	current, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	require.NoError(t, caddy.Load(current, true))
	require.Equal(t, before, g.ok("refusals", "--json"))
}

// heap is what is in use.
func heap() int64 {
	runtime.GC()
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return int64(stats.HeapAlloc)
}

func TestAFloodOfRefusalsTakesNoMemory(t *testing.T) {
	g := newRefusing(t)
	require.Equal(t, 401, g.call("POST", "/", "", nil))
	before := heap()
	conn, err := net.Dial("tcp", strings.TrimPrefix(g.url, "http://"))
	require.NoError(t, err)
	defer func() { _ = conn.Close() }()
	const flood = 10_000
	sent := make(chan error, 1)
	go func() {
		path := "/" + strings.Repeat("%c2%9b", 8<<10/6)
		var err error
		for i := 0; i < flood && err == nil; i++ {
			_, err = fmt.Fprintf(conn, "POST %s%d HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n", path, i)
		}
		sent <- err
	}()
	answers := bufio.NewReader(conn)
	for range flood {
		response, err := http.ReadResponse(answers, nil)
		require.NoError(t, err)
		require.Equal(t, 401, response.StatusCode)
		require.NoError(t, response.Body.Close())
	}
	require.NoError(t, <-sent)
	require.Less(t, heap()-before, int64(4<<20))
	var refusals []map[string]any
	g.get("/refusals", &refusals)
	require.Len(t, refusals, 200)
}

package handler_test

import (
	"fmt"
	"os"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/gorilla/websocket"
	"github.com/stretchr/testify/require"

	"github.com/caddy-deepgram/deepgram-callback/handler"

	"github.com/caddy-deepgram/deepgram-callback/internal/caddytest"
)

// runningHandler is the handler in the running configuration.
func runningHandler(t *testing.T) *handler.Handler {
	t.Helper()
	app, err := caddy.ActiveContext().App("http")
	require.NoError(t, err)
	for _, server := range app.(*caddyhttp.App).Servers {
		for _, route := range server.Routes {
			for _, h := range route.Handlers {
				if h, ok := h.(*handler.Handler); ok {
					return h
				}
			}
		}
	}
	require.Fail(t, "no handler is running")
	return nil
}

func TestReloadLeavesStreamsAlone(t *testing.T) {
	live := newEcho(t)
	for name, site := range map[string]string{"access log off": "", "access log on": "log\n"} {
		t.Run(name, func(t *testing.T) {
			g := start(t, site+callback(live.addr, plainAuth))
			conn := open(t, g, withPassword())
			server := live.next(t)
			talk(t, conn, "before")
			oldLog := g.log

			// The new configuration's credentials would not let the stream in.
			g.reload(site + callback(deadAddr(t), "query_secret token other-0123456789"))
			talk(t, conn, "after")
			require.Equal(t, 401, refusedStream(t, g, withPassword()).StatusCode)
			talk(t, conn, "still")

			require.NoError(t, server.WriteControl(websocket.CloseMessage,
				websocket.FormatCloseMessage(1000, ""), time.Now().Add(patience)))
			requireClose(t, conn, 1000)
			require.NoError(t, conn.Close())
			line := g.waitForEnd(live.addr)
			require.Equal(t, "backend", line["ended_by"])
			require.EqualValues(t, 3, line["messages_from_caller"])
			content, err := os.ReadFile(oldLog)
			require.NoError(t, err)
			require.NotContains(t, string(content), "stream ended")
		})
	}
}

// A stream lives for hours, and each reload makes a new configuration. The one that
// a stream was opened with must not stay in memory as long.
func TestStreamKeepsNoOldConfigurationInMemory(t *testing.T) {
	live := newEcho(t)
	for name, site := range map[string]string{"access log off": "", "access log on": "log\n"} {
		t.Run(name, func(t *testing.T) {
			g := start(t, site+callback(live.addr, plainAuth+"stream {\nproxy {\nheader_up X-Y z\n}\n}"))
			conn := open(t, g, withPassword())
			talk(t, conn, "before")
			collected := make(chan struct{})
			runtime.AddCleanup(runningHandler(t), func(done chan struct{}) { close(done) }, collected)

			g.reload(site + callback(deadAddr(t), plainAuth))
			require.Eventually(t, func() bool {
				runtime.GC()
				select {
				case <-collected:
					return true
				default:
					return false
				}
			}, patience, 10*time.Millisecond, "the old handler is still in memory")
			talk(t, conn, "after")
		})
	}
}

func TestReloadThatFailsChangesNothing(t *testing.T) {
	live := newEcho(t)
	g := start(t, callback(live.addr, plainAuth))
	conn := open(t, g, withPassword())
	talk(t, conn, "before")
	log := g.log
	require.ErrorContains(t, g.load(callback(live.addr, "callback_secret {env.NOT_SET_ANYWHERE}"),
		options{}), "callback_secret")
	require.Error(t,
		g.load(callback(live.addr,
			"anonymous\nrelay {\ntransport http {\ntls_trust_pool file /nowhere\n}\n}"), options{}))
	g.log = log
	talk(t, conn, "after")
	talk(t, open(t, g, withPassword()), "another")
}

// configured is a configuration whose only handler is deepgram_callback with these members.
func configured(members string) string {
	return `{"admin":{"disabled":true},"apps":{"http":{"servers":{"s":{"listen":["127.0.0.1:0"],` +
		`"routes":[{"handle":[{"handler":"deepgram_callback",` + members + `}]}]}}}}}`
}

func TestConfigurationsThatCannotBeProvisioned(t *testing.T) {
	const (
		upstream = `"relay":{"upstreams":[{"dial":"127.0.0.1:9"}]}`
		right    = `"anonymous":true,` + upstream + `,`
	)
	for members, want := range map[string]string{
		upstream:                                 "no credential is configured",
		`"anonymous":true`:                       "no upstreams",
		`"anonymous":true,"relay":{}`:            "no upstreams",
		`"anonymous":true,"stream":{"off":true}`: "no upstreams",
		`"anonymous":true,"stream":{"proxy":{}}`: "no upstreams",
		right + `"ports":[0]`:                    "0 is no port",
		right + `"ports":[70000]`:                "70000 is no port",
		right + `"max_body":-1`:                  "max_body",
		right + `"methods":["post"]`:             `"post" is no method`,
		right + `"methods":["CONNECT"]`:          "CONNECT cannot carry a callback",
		right + `"stream":{"max_message":-1}`:    "stream: max_message",
		right + `"stream":{"max_streams":-1}`:    "stream: max_streams",
		right + `"stream":{"drain":-1}`:          "stream: drain",
		right +
			`"stream":{"off":true,"proxy":{"upstreams":[{"dial":"127.0.0.1:9"}]}}`: "one or the other",
		`"anonymous":true,"relay":{"upstreams":[{"dial":"127.0.0.1:9"}],` +
			`"transport":{"protocol":"none"}}`: "transport",
	} {
		require.ErrorContains(t, caddy.Validate(parse(t, configured(members))), want, members)
	}
}

// No number can be configured that is so large that a sum with it overflows.
func TestConfiguredSizesAndDurationsAreBounded(t *testing.T) {
	const upstream = `"anonymous":true,"relay":{"upstreams":[{"dial":"127.0.0.1:9"}]},`
	// The keys are the names in errors, and %s is the value.
	settings := map[string]string{
		"max_body":                `"max_body":%s`,
		"guess_limit":             `"guess_limit":{"guesses":1,"window":%s}`,
		"stream: max_message":     `"stream":{"max_message":%s}`,
		"stream: ping_interval":   `"stream":{"ping_interval":%s}`,
		"stream: pong_timeout":    `"stream":{"pong_timeout":%s}`,
		"stream: write_timeout":   `"stream":{"write_timeout":%s}`,
		"stream: close_timeout":   `"stream":{"close_timeout":%s}`,
		"stream: drain":           `"stream":{"drain":%s}`,
		"spool: max_size":         `"spool":{"max_size":%s}`,
		"spool: retry_for":        `"spool":{"retry_for":%s}`,
		"spool: retry_delays":     `"spool":{"retry_delays":[%s]}`,
		"spool: dedupe_window":    `"spool":{"dedupe_window":%s}`,
		"spool: dead_letter_keep": `"spool":{"dead_letter_keep":%s}`,
	}
	for name, setting := range settings {
		for _, value := range []string{"-1000", "9223372036854774784", "4611686018427387904"} {
			t.Run(name+" "+value, func(t *testing.T) {
				err := caddy.Validate(parse(t, configured(upstream+fmt.Sprintf(setting, value))))
				require.ErrorContains(t, err, name)
			})
		}
	}
}

// A process that is told to end sends 1001 to both ends of its streams, and waits for
// them no longer than drain.
func TestShutdownOfTheProcess(t *testing.T) {
	live := newEcho(t)
	for name, test := range map[string]struct {
		drain   string
		answers bool // whether the ends answer the Close frame
	}{
		"ends that answer":        {"1m", true},
		"ends that do not answer": {"300ms", false},
	} {
		t.Run(name, func(t *testing.T) {
			g := &gateway{t: t, port: freePort(t)}
			g.addr = fmt.Sprintf("127.0.0.1:%d", g.port)
			g.url = "http://" + g.addr
			g.log = string(caddytest.NewLog(t))
			site := callback(live.addr, "anonymous\nstream {\ndrain "+test.drain+"\n}")
			child := caddytest.StartProcess(t, []byte(g.caddyfile(site, options{})), nil)

			var conn *websocket.Conn
			require.Eventually(t, func() bool {
				var err error
				conn, _, err = dial(g, nil)
				return err == nil
			}, patience, 10*time.Millisecond, "the child does not listen")
			defer func() { _ = conn.Close() }()
			server := live.next(t)
			talk(t, conn, "hello")
			if !test.answers {
				conn.SetCloseHandler(func(int, string) error { return nil })
			}

			require.NoError(t, child.Process.Signal(syscall.SIGTERM))
			require.Equal(t, "gateway shutting down", requireClose(t, conn, websocket.CloseGoingAway))
			require.True(t, websocket.IsCloseError(server.end(t), websocket.CloseGoingAway))
			if test.answers {
				require.NoError(t, conn.Close())
			}
			select {
			case <-child.Ended():
				require.NoError(t, child.Err())
			case <-time.After(patience):
				require.Fail(t, "the process does not end")
			}
			line := g.waitForEnd(live.addr)
			require.Equal(t, "shutdown", line["reason"])
			require.Equal(t, "gateway", line["ended_by"])
		})
	}
}

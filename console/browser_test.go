package console_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	cdplog "github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/cdproto/tracing"
	"github.com/chromedp/chromedp"
	"github.com/gorilla/websocket"
	"github.com/stretchr/testify/require"

	"github.com/caddy-deepgram/deepgram-callback/internal/caddytest"
)

// A browser is one tab of a Chromium, which shows the console. It notes what must never be: an
// error on the browser's console, and so what the Content-Security-Policy has kept from happening;
// a request to another origin.
type browser struct {
	t   testing.TB
	ctx context.Context
	at  string // the console's address, with who uses it

	mu       sync.Mutex
	requests []string
	errors   []string
}

// chromium is the program, or the test is skipped; where it has to be there, the test fails.
func chromium(t testing.TB) string {
	t.Helper()
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome", "chrome"} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	if os.Getenv("CI_REQUIRE_CHROMIUM") != "" {
		require.FailNow(t, "there is no chromium, and CI_REQUIRE_CHROMIUM is set")
	}
	t.Skip("there is no chromium; Debian's package of that name has it")
	return ""
}

func browse(t testing.TB, g *gateway) *browser {
	t.Helper()
	options := append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(chromium(t)),
		chromedp.UserDataDir(t.TempDir()),
		chromedp.NoSandbox, // which needs rights that a container may not have
		chromedp.DisableGPU,
		chromedp.Flag("disable-features", "Translate,MediaRouter"),
	)
	allocator, stop := chromedp.NewExecAllocator(context.Background(), options...)
	ctx, closeTab := chromedp.NewContext(allocator)
	t.Cleanup(func() {
		_ = chromedp.Cancel(ctx) // it ends the program, and waits for that
		closeTab()
		stop()
	})
	u, err := url.Parse(g.base)
	require.NoError(t, err)
	u.User = url.UserPassword("operator", password)
	b := &browser{t: t, ctx: ctx, at: u.String()}
	require.NoError(t, chromedp.Listen(ctx, b.note))
	_, err = chromedp.Call(ctx, network.Enable, network.EnableParams{})
	require.NoError(t, err)
	_, err = chromedp.Call(ctx, runtime.Enable, cdp.Empty{})
	require.NoError(t, err)
	_, err = chromedp.Call(ctx, cdplog.Enable, cdp.Empty{})
	require.NoError(t, err)
	b.looks(1280, "light")
	return b
}

func (b *browser) note(event any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch event := event.(type) {
	case *network.EventRequestWillBeSent:
		b.requests = append(b.requests, event.Request.URL)
	case *runtime.EventExceptionThrown:
		b.errors = append(b.errors, fmt.Sprintf("%+v", event.ExceptionDetails))
	case *runtime.EventConsoleAPICalled:
		if event.Type == "error" || event.Type == "warning" {
			text, _ := json.Marshal(event.Args)
			b.errors = append(b.errors, string(text))
		}
	case *cdplog.EventEntryAdded:
		if event.Entry.Level == "error" || event.Entry.Level == "warning" {
			b.errors = append(b.errors, event.Entry.Text+" "+event.Entry.URL)
		}
	}
}

// clean requires that nothing has happened that must never be.
func (b *browser) clean() {
	b.t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	require.Empty(b.t, b.errors)
	u, err := url.Parse(b.at)
	require.NoError(b.t, err)
	for _, request := range b.requests {
		to, err := url.Parse(request)
		require.NoError(b.t, err)
		if to.Scheme != "blob" && to.Scheme != "data" { // which go nowhere
			require.Equal(b.t, u.Host, to.Host, request)
		}
	}
	require.NotEmpty(b.t, b.requests)
}

func (b *browser) run(actions ...chromedp.Action[chromedp.Void]) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, caddytest.Patience)
	defer cancel()
	require.NoError(b.t, chromedp.Do(ctx, actions...))
}

// open shows a page of the console, which is what stands behind the hash.
func (b *browser) open(hash string) {
	b.t.Helper()
	b.run(chromedp.Navigate(b.at + hash))
}

// eval is what an expression is in the page. It does not go through the page's policy.
func eval[Value any](b *browser, expression string) Value {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, caddytest.Patience)
	defer cancel()
	value, err := chromedp.Run(ctx, chromedp.Evaluate[Value](expression))
	require.NoError(b.t, err, expression)
	return value
}

// until waits until an expression is true.
func (b *browser) until(expression string) {
	b.t.Helper()
	for deadline := time.Now().Add(caddytest.Patience); ; time.Sleep(30 * time.Millisecond) {
		is, err := chromedp.Run(b.ctx, chromedp.Evaluate[bool]("Boolean("+expression+")"))
		if err == nil && is {
			return
		}
		if time.Now().After(deadline) {
			text, _ := chromedp.Run(b.ctx, chromedp.Evaluate[string]("document.body.innerText"))
			require.FailNow(b.t, "not so: "+expression, "%v\nthe page:\n%s", err, text)
		}
	}
}

// quote is a text as JavaScript has it.
func quote(text string) string {
	quoted, _ := json.Marshal(text)
	return string(quoted)
}

// sees waits until the page has a text that can be seen.
func (b *browser) sees(text string) {
	b.t.Helper()
	b.until("document.body.innerText.includes(" + quote(text) + ")")
}

func (b *browser) has(text string) bool {
	b.t.Helper()
	return eval[bool](b, "document.body.innerText.includes("+quote(text)+")")
}

// press clicks on the first button or link whose text begins so, once it is there. It is looked for
// and clicked on at once, as a page that has something new to show may replace it in between.
func (b *browser) press(text string) {
	b.t.Helper()
	const found = `[...(document.querySelector('dialog[open]') ?? document).querySelectorAll('button, a, summary')]` +
		`.find((e) => !e.disabled && e.innerText.trim().startsWith(TEXT))`
	element := strings.Replace(found, "TEXT", quote(text), 1)
	b.until("((e) => { e?.click(); return e; })(" + element + ")")
}

// longestTask does something and returns how much of a processor's time the longest task took that
// the page had to do meanwhile: until it ends, the page answers nobody.
func (b *browser) longestTask(do func()) time.Duration {
	b.t.Helper()
	type thread struct{ PID, TID int }
	type event struct {
		thread
		Name string
		Args struct{ Name string }
		TDur int64 // microseconds on a processor
	}
	var events []event
	complete := make(chan struct{})
	ctx, cancel := context.WithCancel(b.ctx)
	defer cancel()
	require.NoError(b.t, chromedp.Listen(ctx, func(of any) {
		switch of := of.(type) {
		case *tracing.EventDataCollected:
			for _, text := range of.Value {
				var one event
				if err := json.Unmarshal(text, &one); err == nil {
					events = append(events, one)
				}
			}
		case *tracing.EventTracingComplete:
			close(complete)
		}
	}))
	_, err := chromedp.Call(ctx, tracing.Start, tracing.StartParams{TraceConfig: &tracing.TraceConfig{
		IncludedCategories: []string{"disabled-by-default-devtools.timeline"}, ExcludedCategories: []string{"*"},
	}})
	require.NoError(b.t, err)
	do()
	_, err = chromedp.Call(ctx, tracing.End, cdp.Empty{})
	require.NoError(b.t, err)
	select {
	case <-complete:
	case <-time.After(caddytest.Patience):
		require.FailNow(b.t, "the trace does not end")
	}

	pages := make(map[thread]bool)
	for _, event := range events {
		if event.Name == "thread_name" && event.Args.Name == "CrRendererMain" {
			pages[event.thread] = true
		}
	}
	var longest int64
	for _, event := range events {
		if event.Name == "RunTask" && pages[event.thread] {
			longest = max(longest, event.TDur)
		}
	}
	require.Positive(b.t, longest, "a trace of the page's tasks")
	return time.Duration(longest) * time.Microsecond
}

// confirm says yes to what an open dialog asks, and closes it when that is done.
func (b *browser) confirm(action, outcome string) {
	b.t.Helper()
	b.until("document.querySelector('dialog[open]')")
	b.press(action)
	b.sees(outcome)
	b.press("Close")
	b.until("!document.querySelector('dialog[open]')")
}

// fits requires that no page is wider than the window.
func (b *browser) fits(what string) {
	b.t.Helper()
	wide := eval[string](b, `[...document.querySelectorAll('body, body *')]
		.filter((e) => e.getBoundingClientRect().right > innerWidth + 1 && !e.closest('.scroll') && !e.closest('.hidden') && !e.closest('.skip'))
		.map((e) => e.tagName + '.' + e.className + ': ' + e.innerText?.slice(0, 60)).slice(0, 5).join('; ')`)
	require.Empty(b.t, wide, what)
	require.LessOrEqual(b.t, eval[int](b, "document.documentElement.scrollWidth"),
		eval[int](b, "innerWidth"), what)
}

// shot writes a picture of the page into the directory that SCREENSHOTS names.
func (b *browser) shot(name string) {
	b.t.Helper()
	dir := os.Getenv("SCREENSHOTS")
	if dir == "" {
		return
	}
	picture, err := chromedp.Run(b.ctx, chromedp.CaptureScreenshot())
	require.NoError(b.t, err)
	require.NoError(b.t, os.WriteFile(filepath.Join(dir, name+".png"), picture, 0o600))
}

// looks has the page as a device of this width shows it, light or dark.
func (b *browser) looks(width int64, scheme string) {
	b.t.Helper()
	b.run(chromedp.EmulateViewport(width, 900))
	_, err := chromedp.Call(b.ctx, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
		Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}},
	})
	require.NoError(b.t, err)
}

// A service is what is behind the gateway: it answers callbacks as it is told, and takes streams.
type service struct {
	*httptest.Server
	mu     sync.Mutex
	status int
	bodies []string
}

func newService(t testing.TB, status int) *service {
	s := &service{status: status}
	upgrader := websocket.Upgrader{}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if websocket.IsWebSocketUpgrade(r) {
			conn, err := upgrader.Upgrade(w, r, nil)
			if err != nil {
				return
			}
			defer conn.Close()
			for {
				if _, _, err := conn.ReadMessage(); err != nil {
					return
				}
			}
		}
		body, _ := io.ReadAll(r.Body)
		s.mu.Lock()
		defer s.mu.Unlock()
		w.WriteHeader(s.status)
		if s.status == http.StatusOK {
			s.bodies = append(s.bodies, string(body))
		}
	}))
	t.Cleanup(s.Close)
	return s
}

func (s *service) address() string { return s.Listener.Addr().String() }

func (s *service) answer(status int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.status = status
}

// took waits until the service has taken so many callbacks.
func (s *service) took(t testing.TB, n int) {
	t.Helper()
	require.Eventually(t, func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return len(s.bodies) == n
	}, caddytest.Patience, 10*time.Millisecond, "%d callbacks", n)
}

//go:build unix

package console_test

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// TestAMillionBehindThePages measures what the pages ask for where an inbox has many callbacks, and
// what one open page costs; it takes minutes, so only
//
//	CONSOLE_CALLBACKS=1000000 go test -run AMillionBehindThePages -v -timeout 1h ./console
//
// runs it, with so many.
func TestAMillionBehindThePages(t *testing.T) {
	million, _ := strconv.Atoi(os.Getenv("CONSOLE_CALLBACKS"))
	if million == 0 {
		t.Skip("set CONSOLE_CALLBACKS to run it")
	}
	g := start(t, "", account, nobody)
	g.perseveres()
	idOf := func(n int) string { return fmt.Sprintf("00000000-0000-4000-8000-%012d", n) }
	began := time.Now()
	var senders sync.WaitGroup
	const side = 32
	transport := &http.Transport{MaxIdleConnsPerHost: side}
	for sender := range side {
		senders.Go(func() {
			for n := sender; n < million; n += side {
				body := `{"metadata":{"request_id":"` + idOf(n) + `"},"padding":"` + strings.Repeat("x", 1000) + `"}`
				request, _ := http.NewRequestWithContext(t.Context(), "POST", g.callbacks+"/hook", strings.NewReader(body))
				request.Header.Set("Content-Type", "application/json")
				response, err := transport.RoundTrip(request)
				if err != nil {
					t.Error(err)
					return
				}
				_, _ = io.Copy(io.Discard, response.Body)
				_ = response.Body.Close()
				if response.StatusCode != http.StatusAccepted {
					t.Error(response.Status)
					return
				}
			}
		})
	}
	senders.Wait()
	t.Logf("%d accepted in %s", million, time.Since(began))

	for _, look := range []struct{ what, path, has string }{
		{"overview", "api/overview", `"routes"`},
		{"search by request id", "api/spool/messages?request_id=" + idOf(million/2), idOf(million / 2)},
		{"search for what is not there", "api/spool/messages?request_id=none", "[]"},
		{"newest 100", "api/spool/messages?order=newest&limit=100", idOf(million - 1)[:20]},
		{"newest 100 of a state", "api/spool/messages?order=newest&limit=100&state=pending", `"pending"`},
		{"newest 100 of an hour", "api/spool/messages?order=newest&limit=100&since=1h", `"request_id"`},
	} {
		var took []time.Duration
		for range 21 {
			began := time.Now()
			response, body := g.ask("GET", look.path, "Deepgram-Console", "1")
			took = append(took, time.Since(began))
			require.Equal(t, http.StatusOK, response.StatusCode, body)
			require.Contains(t, body, look.has)
		}
		slices.Sort(took)
		t.Logf("%s: median %s, slowest %s", look.what, took[len(took)/2], took[len(took)-1])
	}

	const watch = time.Minute
	cpu := func(f func()) time.Duration {
		var before, after syscall.Rusage
		require.NoError(t, syscall.Getrusage(syscall.RUSAGE_SELF, &before))
		f()
		require.NoError(t, syscall.Getrusage(syscall.RUSAGE_SELF, &after))
		return time.Duration(after.Utime.Nano() + after.Stime.Nano() - before.Utime.Nano() - before.Stime.Nano())
	}
	alone := cpu(func() { time.Sleep(watch) })
	request, err := http.NewRequestWithContext(t.Context(), "GET", g.base+"api/events?topic=overview", nil)
	require.NoError(t, err)
	request.SetBasicAuth("operator", password)
	response, err := transport.RoundTrip(request)
	require.NoError(t, err)
	defer response.Body.Close()
	require.Equal(t, http.StatusOK, response.StatusCode)
	go func() { _, _ = io.Copy(io.Discard, response.Body) }()
	followed := cpu(func() { time.Sleep(watch) })
	t.Logf("CPU of a core: %.2f %% with nobody, %.2f %% with an overview that is open",
		100*alone.Seconds()/watch.Seconds(), 100*followed.Seconds()/watch.Seconds())
}

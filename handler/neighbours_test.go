package handler_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// The schedule of deliveries is tested in relay/spool, with a clock of the test's own. Here some of
// the same cases go over sockets, where a bad service can do more to a connection.
func TestGoodCallbacksPassTheirBadNeighbours(t *testing.T) {
	for name, bad := range map[string]struct {
		answer func(net.Conn)
		within time.Duration
	}{
		"503": {says("HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"), 15 * time.Second},
		"429 for an hour": {
			says("HTTP/1.1 429 Too Many Requests\r\nRetry-After: 3600\r\nContent-Length: 0\r\n\r\n"),
			15 * time.Second,
		},
		"a reset":         {func(c net.Conn) { _ = c.(*net.TCPConn).SetLinger(0) }, 15 * time.Second},
		"no answer":       {func(c net.Conn) { _, _ = io.Copy(io.Discard, c) }, time.Minute},
		"a broken answer": {says("HTTP/1.1 two hundred\r\n\r\n"), 15 * time.Second},
	} {
		for _, many := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, many URIs %v", name, many), func(t *testing.T) {
				if testing.Short() && name == "no answer" {
					t.Skip("takes its time")
				}
				var mu sync.Mutex
				taken := make(map[string]time.Time)
				addr := byHand(t, func(c net.Conn) {
					reader := bufio.NewReader(c)
					for {
						r, err := http.ReadRequest(reader)
						if err != nil {
							return
						}
						body, err := io.ReadAll(r.Body)
						if err != nil {
							return
						}
						if strings.HasPrefix(string(body), "bad") {
							bad.answer(c)
							return
						}
						mu.Lock()
						taken[string(body)] = time.Now()
						mu.Unlock()
						_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
					}
				})
				g := start(t, spooled(addr, t.TempDir(), ""))
				came := make(map[string]time.Time)
				good := func(uri, text string) {
					came[text] = time.Now()
					accepted(t, send(t, "POST", g.url+uri, strings.NewReader(text), nil))
				}
				for n := range 30 {
					uri := "/bad"
					if many {
						uri = fmt.Sprint("/bad/", n)
					}
					accepted(t, send(t, "POST", g.url+uri, strings.NewReader(fmt.Sprint("bad ", n)), nil))
					if n == 15 {
						good("/good", "good in the middle")
						good("/bad", "good in the middle of them")
					}
				}
				good("/good", "good at the end")
				require.Eventually(t, func() bool {
					mu.Lock()
					defer mu.Unlock()
					return len(taken) == len(came)
				}, bad.within+5*time.Second, 20*time.Millisecond, "%v", taken)
				good("/bad", "good while the others wait")
				require.Eventually(t, func() bool {
					mu.Lock()
					defer mu.Unlock()
					return len(taken) == len(came)
				}, bad.within+5*time.Second, 20*time.Millisecond, "%v", taken)
				for text, at := range came {
					require.LessOrEqual(t, taken[text].Sub(at), bad.within, text)
				}
			})
		}
	}
}

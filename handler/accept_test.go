package handler_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/stretchr/testify/require"

	"github.com/caddy-deepgram/deepgram-callback/internal/caddytest"
)

// A request with such a target could be stored, but never be sent on; and relayed at once, it would
// reach the service with another target.
func TestTargetsThatNoCallbackIsForAreBadRequests(t *testing.T) {
	backend := newService(t, nil)
	spoolDir := t.TempDir()
	for kind, block := range map[string]string{
		"relayed": "anonymous",
		"spooled": "anonymous\nmethods POST OPTIONS\n" + inbox(spoolDir, ""),
	} {
		t.Run(kind, func(t *testing.T) {
			g := start(t, callback(backend.addr, block))
			for _, target := range []string{
				"x:p0", "*", "https://" + g.addr + "/x", "ftp://" + g.addr + "/x",
				"http://user:word@" + g.addr + "/x",
				"http:opaque", "mailto:a@b.c", "urn:x:y?z=1",
			} {
				for _, request := range []string{
					"POST " + target + " HTTP/1.1\r\nHost: " + g.addr + "\r\nContent-Length: 2\r\n\r\n{}",
					"OPTIONS " + target + " HTTP/1.1\r\nHost: " + g.addr + "\r\nContent-Length: 0\r\n\r\n",
					"GET " + target + " HTTP/1.1\r\nHost: " + g.addr +
						"\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" +
						"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
				} {
					if strings.HasPrefix(request, "OPTIONS * ") {
						continue // which net/http answers by itself
					}
					got := sendRaw(t, g.addr, request)
					require.Equal(t, http.StatusBadRequest, got.StatusCode, request)
				}
			}
			require.Empty(t, backend.requests)
			for _, target := range []string{"/", "//x:p0", "/*", "http://" + g.addr,
				"http://" + g.addr + "/x?y", "HTTP://" + g.addr + "/x"} {
				got := sendRaw(t, g.addr,
					"POST "+target+" HTTP/1.1\r\nHost: "+g.addr+"\r\nContent-Length: 2\r\n\r\n{}")
				require.Less(t, got.StatusCode, 300, target)
				backend.next(t)
			}
		})
	}
}

// The target is checked before the credentials, so that a bad one costs nothing.
func TestBadTargetsAreRefusedBeforeAnythingElse(t *testing.T) {
	g := start(t, callback("127.0.0.1:1", plainAuth))
	require.Equal(t, 400,
		sendRaw(t, g.addr, "POST x:p0 HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n").StatusCode)
}

// A sender may shut its sending half once it has sent its request (RFC 9112, section 9.6). net/http
// then cancels the request's context.
func TestASenderThatShutsItsSendingHalfIsToldThatItsCallbackWasAccepted(t *testing.T) {
	backend := newService(t, nil)
	dir := t.TempDir()
	g := start(t, measured(spooled(backend.addr, dir, "")))
	admitted, refused := requestsTotal(t, g, "admitted"), requestsTotal(t, g, "body")
	const senders = 20
	for n := range senders {
		conn, err := net.Dial("tcp", g.addr)
		require.NoError(t, err)
		require.NoError(t, conn.SetDeadline(time.Now().Add(patience)))
		body := fmt.Sprintf(`{"request_id":"half-closed %d"}`, n)
		_, err = fmt.Fprintf(conn, "POST /c HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s",
			len(body), body)
		require.NoError(t, err)
		require.NoError(t, conn.(*net.TCPConn).CloseWrite())
		got := readAnswer(t, bufio.NewReader(conn))
		require.Equal(t, http.StatusAccepted, got.StatusCode, got.body)
		require.NoError(t, conn.Close())
		backend.next(t)
	}
	require.Equal(t, admitted+senders, requestsTotal(t, g, "admitted"))
	require.Equal(t, refused, requestsTotal(t, g, "body"))
}

// A callback is counted once, whatever its outcome.
func TestARefusalOfTheInboxIsNoAdmission(t *testing.T) {
	service := newSwitchable(t, nil)
	dir := t.TempDir()
	g := start(t,
		measured(callback(service.addr, "anonymous\nmax_body 1MiB\n"+inbox(dir, "max_size 1MiB"))))
	admitted, full := requestsTotal(t, g, "admitted"), requestsTotal(t, g, "inbox_full")
	took, refused := 0.0, 0.0
	for range 12 {
		if send(t, "POST", g.url, noise(200<<10), nil).StatusCode == http.StatusAccepted {
			took++
		} else {
			refused++
		}
	}
	require.Positive(t, took)
	require.Positive(t, refused)
	require.Equal(t, admitted+took, requestsTotal(t, g, "admitted"))
	require.Equal(t, full+refused, requestsTotal(t, g, "inbox_full"))
}

func TestAnInboxSmallerThanOneBodyIsRefusedWhenTheConfigurationIsLoaded(t *testing.T) {
	g := start(t, callback("127.0.0.1:1", "anonymous"))
	for block, wrong := range map[string]bool{
		"max_body 2MiB\n" + inbox(t.TempDir(), "max_size 1MiB"):     true,
		inbox(t.TempDir(), "max_size 10MiB"):                        true, // max_body's default is 64 MiB
		"max_body 11GiB\n" + inbox(t.TempDir(), ""):                 true, // and max_size's 10 GiB
		"max_body 10MiB\n" + inbox(t.TempDir(), "max_size 10MiB\n"): false,
	} {
		var config caddy.Config
		require.NoError(t,
			caddy.StrictUnmarshalJSON(caddytest.Adapt(t,
				g.caddyfile(callback("127.0.0.1:1", "anonymous\n"+block), options{})), &config))
		err := caddy.Validate(&config)
		if !wrong {
			require.NoError(t, err, block)
			continue
		}
		require.ErrorContains(t, err, "max_size", block)
		require.ErrorContains(t, err, "max_body", block)
	}
}

// Only a callback with a request id can be a duplicate, and only of one that is the same in
// everything by which callbacks of different senders differ.
func TestDuplicatesAreToldByEverythingThatTellsCallbacksApart(t *testing.T) {
	backend := newService(t, nil)
	g := start(t, callback(backend.addr, "basic_auth plain {\n"+
		"one "+strings.Repeat("1", 32)+"\ntwo "+strings.Repeat("2", 32)+"\n}\n"+inbox(t.TempDir(), "")))
	type variant struct{ user, host, uri, contentType, method, body string }
	base := variant{"one", "a.example", "/c", "application/json", "POST",
		`{"metadata":{"request_id":"r"},"n":1}`}
	post := func(v variant) string {
		r, err := http.NewRequest(v.method, g.url+v.uri, strings.NewReader(v.body))
		require.NoError(t, err)
		r.Host = v.host
		r.SetBasicAuth(v.user, strings.Repeat(map[string]string{"one": "1", "two": "2"}[v.user], 32))
		r.Header.Set("Content-Type", v.contentType)
		return accepted(t, do(t, r))
	}
	first := post(base)
	backend.next(t)
	require.Equal(t, first, post(base), "the same again is a duplicate")
	same := base
	same.host = "A.EXAMPLE"
	require.Equal(t, first, post(same), "a host is the same in capitals")
	require.Empty(t, backend.requests)
	for what, change := range map[string]func(*variant){
		"user":         func(v *variant) { v.user = "two" },
		"host":         func(v *variant) { v.host = "b.example" },
		"uri":          func(v *variant) { v.uri = "/c?x" },
		"content type": func(v *variant) { v.contentType = "text/plain" },
		"method":       func(v *variant) { v.method = "PUT" },
		"body":         func(v *variant) { v.body = `{"metadata":{"request_id":"r"},"n":2}` },
	} {
		other := base
		change(&other)
		require.NotEqual(t, first, post(other), "another %s is another callback", what)
		backend.next(t)
	}
	for _, body := range []string{
		`{"type":"UtteranceEnd","channel":[0,1],"last_word_end":1.175}`,
		`{"type":"SpeechStarted","channel":[0],"timestamp":0.1}`,
		"RIFF the audio of a text that is spoken twice", "", `{"request_id":""}`,
	} {
		event := base
		event.body = body
		ids := map[string]bool{post(event): true, post(event): true, post(event): true}
		require.Len(t, ids, 3, body)
		for range 3 {
			require.Equal(t, body, string(backend.next(t).body))
		}
	}
}

func TestDedupeWindowOffDeliversEverything(t *testing.T) {
	backend := newService(t, nil)
	g := start(t, spooled(backend.addr, t.TempDir(), "dedupe_window off"))
	for range 3 {
		accepted(t, callbackOf(t, g, "a", 1))
		backend.next(t)
	}
}

// The head of an answer with 2xx is a delivery, whatever becomes of the answer's body.
func TestTheHeadOfA2xxIsADelivery(t *testing.T) {
	const head = "HTTP/1.1 200 OK\r\n"
	answers := map[string]func(net.Conn){
		"breaks-off":           says(head + "Content-Length: 100\r\n\r\nshort"),
		"breaks-off-in-chunks": says(head + "Transfer-Encoding: chunked\r\n\r\n5\r\nshort\r\n"),
		"is-not-chunks":        says(head + "Transfer-Encoding: chunked\r\n\r\nzzz\r\n"),
		"never-comes": says(head+"Content-Length: 100\r\n\r\n", func(c net.Conn) {
			_, _ = io.Copy(io.Discard, c)
		}),
		"never-ends": says(head+"\r\n", endless),
		"is-large":   says(head+"Content-Length: 1000000000\r\n\r\n", endless),
		"drips":      says(head+"\r\n", drip),
		"is-reset": says(head+"Content-Length: 100\r\n\r\nx", func(c net.Conn) {
			_ = c.(*net.TCPConn).SetLinger(0)
		}),
		"204-with-a-body": says("HTTP/1.1 204 No Content\r\nContent-Length: 5\r\n\r\nshort"),
		"after-an-interim-one": says("HTTP/1.1 103 Early Hints\r\n\r\n" + head +
			"Content-Length: 100\r\n\r\nshort"),
	}
	var requests atomic.Int32
	addr := byHand(t, func(c net.Conn) {
		r, err := http.ReadRequest(bufio.NewReader(c))
		if err != nil {
			return
		}
		_, _ = io.Copy(io.Discard, r.Body)
		requests.Add(1)
		answers[strings.TrimPrefix(r.URL.Path, "/")](c)
	})
	dir := t.TempDir()
	g := start(t, spooled(addr, dir, soon+"concurrency 40"))
	for name := range answers {
		// A small body is sent at once, a large one while the answer is read.
		for _, body := range []string{"small", strings.Repeat("x", 200<<10)} {
			accepted(t, send(t, "POST", g.url+"/"+name, strings.NewReader(body), nil))
		}
	}
	began := time.Now()
	waitUntilEmpty(t, dir)
	require.Less(t, time.Since(began), 10*time.Second)
	require.Equal(t, int32(2*len(answers)), requests.Load(), "each is delivered once")
	require.Zero(t, caddytest.Stats(t, openAt(t, dir)).Dead)
}

// says answers with a text, and then does what after says.
func says(text string, then ...func(net.Conn)) func(net.Conn) {
	return func(c net.Conn) {
		_, _ = io.WriteString(c, text)
		for _, f := range then {
			f(c)
		}
	}
}

// endless writes for as long as somebody reads.
func endless(c net.Conn) {
	for {
		if _, err := c.Write(make([]byte, 16<<10)); err != nil {
			return
		}
	}
}

// drip writes a byte now and then, for as long as somebody reads.
func drip(c net.Conn) {
	for ticker := time.NewTicker(50 * time.Millisecond); ; <-ticker.C {
		if _, err := c.Write([]byte("x")); err != nil {
			return
		}
	}
}

// byHand runs a service that is a function from a connection to what happens on it.
func byHand(t testing.TB, serve func(net.Conn)) (addr string) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	var conns sync.WaitGroup
	var mu sync.Mutex
	var open []net.Conn
	conns.Go(func() {
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			open = append(open, c)
			mu.Unlock()
			conns.Go(func() {
				defer func() { _ = c.Close() }()
				serve(c)
			})
		}
	})
	t.Cleanup(func() {
		_ = listener.Close()
		mu.Lock()
		for _, c := range open {
			_ = c.Close()
		}
		mu.Unlock()
		conns.Wait()
	})
	return listener.Addr().String()
}

// A delivery has the request id of its body in a header field.
func TestDeliveriesCarryTheirRequestID(t *testing.T) {
	backend := newService(t, nil)
	g := start(t, spooled(backend.addr, t.TempDir(), ""))
	for body, want := range map[string]string{
		`{"metadata":{"request_id":"r-1"}}`:     "r-1",
		`{"request_id":"r-2","err_code":"E"}`:   "r-2",
		`{"request_id":"no\nvalue of a field"}`: "",
		`{"type":"UtteranceEnd"}`:               "",
	} {
		accepted(t, send(t, "POST", g.url, strings.NewReader(body), nil))
		require.Equal(t, want, backend.next(t).Header.Get("Deepgram-Request-Id"), body)
	}
}

// requestsTotal is how many batch callbacks the metrics count with an outcome.
func requestsTotal(t testing.TB, g *gateway, outcome string) float64 {
	t.Helper()
	all := send(t, "GET", g.url+"/metrics", nil, nil).body
	line := `caddy_deepgram_callback_requests_total{kind="batch",outcome="` + outcome + `"} `
	_, after, found := strings.Cut(all, line)
	if !found {
		return 0
	}
	text, _, _ := strings.Cut(after, "\n")
	n, err := strconv.ParseFloat(text, 64)
	require.NoError(t, err)
	return n
}

// measured adds Caddy's metrics to a site.
func measured(directive string) string {
	return "handle /metrics {\nmetrics\n}\nhandle {\n" + directive + "}\n"
}

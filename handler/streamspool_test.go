package handler_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/gorilla/websocket"
	"github.com/stretchr/testify/require"

	"github.com/caddy-deepgram/deepgram-callback/app"
	"github.com/caddy-deepgram/deepgram-callback/internal/caddytest"
)

// streamed is the directive deepgram_callback whose streams go into an inbox in dir.
func streamed(upstreams, dir, inStream, inSpool string) string {
	return callback(upstreams, plainAuth+"stream {\nspool\n"+inStream+"\n}\n"+inbox(dir, inSpool))
}

// message is the nth message of a live stream.
func message(n int) string {
	return fmt.Sprintf(`{"type":"Results","metadata":{"request_id":"r1"},"n":%d}`, n)
}

func sendText(t testing.TB, conn *websocket.Conn, text string) {
	t.Helper()
	require.NoError(t, conn.WriteMessage(websocket.TextMessage, []byte(text)))
}

// requireStream requires that what came is one stream: messages in order, and their end.
func requireStream(t testing.TB, came []delivered, messages int, reason string) (id string) {
	t.Helper()
	seen := make(map[string]bool) // webhook-ids: an attempt whose answer broke off is repeated
	n := 0
	for _, d := range came {
		if seen[d.id] {
			continue
		}
		seen[d.id] = true
		n++
		id = d.header.Get("Deepgram-Stream-Id")
		require.Equal(t, came[0].header.Get("Deepgram-Stream-Id"), id)
		require.Equal(t, strconv.Itoa(n), d.header.Get("Deepgram-Stream-Sequence"))
		if n <= messages {
			require.JSONEq(t, message(n), string(d.body))
			require.Equal(t, "application/json", d.header.Get("Content-Type"))
			require.Equal(t, "r1", d.header.Get("Deepgram-Request-Id"))
			require.Empty(t, d.header.Get("Deepgram-Stream-End"))
		}
	}
	require.Equal(t, messages+1, n)
	last := came[len(came)-1]
	require.Equal(t, reason, last.header.Get("Deepgram-Stream-End"))
	require.Empty(t, last.body)
	return id
}

func TestStreamGoesIntoTheInboxWhileItsServiceIsRestarted(t *testing.T) {
	book := &ledger{}
	service := newSwitchable(t, book)
	dir := t.TempDir()
	g := start(t, streamed(service.addr, dir, "", soon+"order_by none"), options{global: "metrics"})
	header := withPassword()
	header.Set("X-Tenant", "one")
	header.Set("Sec-Websocket-Protocol", "chat")
	conn, res, err := dial(g, header)
	require.NoError(t, err)
	require.Empty(t, res.Header.Get("Sec-Websocket-Protocol"))
	for n := 1; n <= 60; n++ {
		switch n % 20 {
		case 5:
			service.up()
		case 15:
			book.waitFor(t, len(book.deliveries())+1)
			service.down()
		}
		sendText(t, conn, message(n))
	}
	live := app.ThisProcess().Streams.List()
	require.Len(t, live, 1)
	require.Equal(t, "spool", live[0].Upstream)
	require.Equal(t, service.addr, live[0].Route)
	require.Equal(t, "deepgram", live[0].User)

	require.NoError(t, conn.WriteControl(websocket.CloseMessage,
		websocket.FormatCloseMessage(1000, "done"), time.Now().Add(patience)))
	require.Equal(t, "done", requireClose(t, conn, 1000))
	require.NoError(t, conn.Close())
	line := g.waitForEnd("spool")
	require.Equal(t, "closed", line["reason"])
	require.Equal(t, "caller", line["ended_by"])
	require.EqualValues(t, 60, line["messages_from_caller"])
	require.Equal(t, live[0].ID, line["id"])

	service.down()
	service.up()
	waitUntilEmpty(t, dir)
	came := book.deliveries()
	require.Equal(t, live[0].ID, requireStream(t, came, 60, "closed"))
	for _, d := range came {
		require.Equal(t, "/live?a=1-0123456789abcd", d.uri)
		require.Equal(t, "one", d.header.Get("X-Tenant"))
		for name := range d.header {
			require.NotContains(t, name, "Sec-Websocket")
			require.NotEqual(t, "Upgrade", name)
			require.NotEqual(t, "Authorization", name)
		}
	}
	stats := caddytest.Stats(t, openAt(t, dir))
	require.Zero(t, stats.Dead)
}

func TestAStreamIntoAFullInboxIsToldToTryAgainLater(t *testing.T) {
	book := &ledger{}
	service := newSwitchable(t, book)
	dir := t.TempDir()
	site := callback(service.addr, plainAuth+"max_body 64KiB\nstream {\nspool\nmax_message 64KiB\n}\n"+
		inbox(dir, soon+"max_size 2MiB"))
	g := start(t, site)
	conn := open(t, g, withPassword())
	text := []byte(`{"type":"Results","filler":"` + strings.Repeat("x", 60_000) + `"}`)
	go func() { // until the gateway has closed the connection
		for conn.WriteMessage(websocket.TextMessage, text) == nil {
		}
	}()
	requireClose(t, conn, websocket.CloseTryAgainLater)
	_ = conn.Close()
	line := g.waitForEnd("spool")
	require.Equal(t, "spool", line["reason"])
	require.Equal(t, "gateway", line["ended_by"])
	require.EqualValues(t, websocket.CloseTryAgainLater, line["close_code"])
	require.Equal(t, "warn", line["level"])

	for _, size := range []int{60_000, 5000} { // fills what is left
		full := func() bool {
			body := strings.NewReader(strings.Repeat("x", size))
			got := send(t, "POST", g.url+"/filler", body, withPassword())
			return got.StatusCode == http.StatusServiceUnavailable
		}
		require.Eventually(t, full, patience, time.Millisecond)
	}
	refused := refusedStream(t, g, withPassword())
	require.Equal(t, http.StatusServiceUnavailable, refused.StatusCode)
	require.NotEmpty(t, refused.Header.Get("Retry-After"))

	service.up()
	waitUntilEmpty(t, dir)
	var last delivered
	require.Eventually(t, func() bool { // its end comes once there is room for it
		came := book.deliveries()
		last = came[len(came)-1]
		return last.header.Get("Deepgram-Stream-End") != ""
	}, 2*patience, 5*time.Millisecond)
	require.Equal(t, "spool", last.header.Get("Deepgram-Stream-End"))
}

// A shutdown, a reload and an operator end a stream as they end a pair.
func TestStreamsIntoTheInboxOverReloadsAndToTheEnd(t *testing.T) {
	book := &ledger{}
	service := newSwitchable(t, book)
	service.up()
	dir := t.TempDir()
	g := start(t, streamed(service.addr, dir, "", soon))
	conn := open(t, g, withPassword())
	sendText(t, conn, message(1))
	g.reload(streamed(service.addr, dir, "max_streams 5", soon))
	sendText(t, conn, message(2))
	book.waitFor(t, 2)

	// Where the inbox is closed, its streams are told first, and their end is safe in it.
	g.reload(streamed(service.addr, t.TempDir(), "", soon))
	require.Equal(t, "the inbox is closed", requireClose(t, conn, websocket.CloseGoingAway))
	g.reload(streamed(service.addr, dir, "", soon))
	requireStream(t, book.waitFor(t, 3), 2, "shutdown")

	conn = open(t, g, withPassword())
	sendText(t, conn, message(1))
	book.waitFor(t, 4)
	require.True(t, app.ThisProcess().Streams.Kill(app.ThisProcess().Streams.List()[0].ID))
	require.Equal(t, "ended by the operator", requireClose(t, conn, websocket.CloseGoingAway))
	requireStream(t, book.waitFor(t, 5)[3:], 1, "shutdown")
}

// The process is killed in the middle of streams: what it accepted is delivered by the next one,
// and last, that nobody knows how they ended.
func TestKilledProcessLosesNoMessageOfAStream(t *testing.T) {
	book := &ledger{}
	service := newSwitchable(t, book)
	dir := t.TempDir()
	site := streamed(service.addr, dir, "", soon)
	port := freePort(t)
	c := startChild(t, port, site, "")
	g := &gateway{t: t, port: port, addr: caddytest.Addr(port), url: c.url}
	conn := open(t, g, withPassword())
	for n := 1; n <= 20; n++ {
		sendText(t, conn, message(n))
	}
	// A pong comes when everything before the ping was taken.
	pong := make(chan struct{})
	conn.SetPongHandler(func(string) error { close(pong); return nil })
	require.NoError(t, conn.WriteControl(websocket.PingMessage, nil, time.Now().Add(patience)))
	go func() { _, _, _ = conn.ReadMessage() }()
	<-pong
	c.Kill()
	_ = conn.Close()

	require.NoError(t, g.load(site, options{}))
	defer func() { require.NoError(t, caddy.Stop()) }()
	service.up()
	came := book.waitFor(t, 21)
	waitUntilEmpty(t, dir)
	for i, d := range came[:20] {
		require.JSONEq(t, message(i+1), string(d.body))
		require.Equal(t, strconv.Itoa(i+1), d.header.Get("Deepgram-Stream-Sequence"))
	}
	last := came[20]
	require.Equal(t, "lost", last.header.Get("Deepgram-Stream-End"))
	require.Equal(t, came[0].header.Get("Deepgram-Stream-Id"), last.header.Get("Deepgram-Stream-Id"))
	require.Empty(t, last.header.Get("Deepgram-Stream-Sequence"))
	require.Empty(t, last.body)
	require.Len(t, book.deliveries(), 21)
}

func TestLimitsOfStreamsIntoTheInbox(t *testing.T) {
	service := newSwitchable(t, &ledger{})
	dir := t.TempDir()
	g := start(t, streamed(service.addr, dir, "max_message 100\nmax_streams 1", soon))
	for name, test := range map[string]struct {
		kind int
		text string
		code int
	}{
		"binary":    {websocket.BinaryMessage, "{}", websocket.CloseUnsupportedData},
		"too large": {websocket.TextMessage, strings.Repeat("x", 101), websocket.CloseMessageTooBig},
		"no UTF-8":  {websocket.TextMessage, "\xff", websocket.CloseInvalidFramePayloadData},
	} {
		t.Run(name, func(t *testing.T) {
			conn := open(t, g, withPassword())
			require.Equal(t, http.StatusServiceUnavailable, refusedStream(t, g, withPassword()).StatusCode,
				"max_streams")
			require.NoError(t, conn.WriteMessage(test.kind, []byte(test.text)))
			requireClose(t, conn, test.code)
			_ = conn.Close()
			require.Eventually(t, func() bool { return len(app.ThisProcess().Streams.List()) == 0 },
				patience, time.Millisecond)
		})
	}
	require.Equal(t, http.StatusUnauthorized, refusedStream(t, g, nil).StatusCode)
}

func TestStreamIntoAnInboxThatIsNotConfigured(t *testing.T) {
	for name, test := range map[string]struct{ site, want string }{
		"no inbox":       {callback("127.0.0.1:9", "anonymous\nstream {\nspool\n}"), "stream: spool: there is no inbox"},
		"with upstreams": {callback("127.0.0.1:9", "anonymous\nstream 127.0.0.1:9 {\nspool\n}\nspool"), "one or the other"},
		"too small": {callback("127.0.0.1:9", "anonymous\nmax_body 1KiB\nstream {\nspool\n}\nspool {\nmax_size 100KiB\n}"),
			"max_message: 1048576 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			g := &gateway{t: t, port: freePort(t)}
			require.ErrorContains(t, g.load(test.site, options{}), test.want)
		})
	}
}

// What a handshake with a secret in its messages brings is held back until one carries it.
func TestSecretInTheMessagesOfAStreamIntoTheInbox(t *testing.T) {
	book := &ledger{}
	service := newSwitchable(t, book)
	service.up()
	dir := t.TempDir()
	g := start(t, callback(service.addr, plainAuth+"callback_secret a-secret-of-tests\nstream {\nspool\n}\n"+
		inbox(dir, soon)))
	conn := open(t, g, withPassword())
	sendText(t, conn, `{"type":"SpeechStarted"}`)
	secret, err := json.Marshal(map[string]any{"type": "Results", "metadata": map[string]any{
		"extra": map[string]any{"callback_secret": "a-secret-of-tests"}}})
	require.NoError(t, err)
	sendText(t, conn, string(secret))
	came := book.waitFor(t, 2)
	require.JSONEq(t, `{"type":"SpeechStarted"}`, string(came[0].body))
	require.JSONEq(t, string(secret), string(came[1].body))
	require.NoError(t, conn.Close())
	require.Equal(t, "dropped", book.waitFor(t, 3)[2].header.Get("Deepgram-Stream-End"))
}

// Many streams go on while their service is restarted three times: nothing of them is missing, and
// all of it is in order. With DEEPGRAM_CALLBACK_TEST_STREAMS=200 and
// DEEPGRAM_CALLBACK_TEST_STREAMS_FOR=60s it is a measurement: see what it logs.
func TestManyStreamsIntoTheInboxThroughRestarts(t *testing.T) {
	streams, last := 20, 2*time.Second
	if text := os.Getenv("DEEPGRAM_CALLBACK_TEST_STREAMS"); text != "" {
		var err error
		streams, err = strconv.Atoi(text)
		require.NoError(t, err)
		last, err = time.ParseDuration(os.Getenv("DEEPGRAM_CALLBACK_TEST_STREAMS_FOR"))
		require.NoError(t, err)
	}
	book := &ledger{}
	service := newSwitchable(t, book)
	service.up()
	dir := t.TempDir()
	g := start(t, streamed(service.addr, dir, "", soon+"concurrency 32"))

	var said atomic.Int64
	var mu sync.Mutex
	var safe []time.Duration // from a message to the pong of a ping behind it
	var speakers sync.WaitGroup
	until := time.Now().Add(last)
	for range streams {
		conn := open(t, g, withPassword())
		pongs := make(chan struct{}, 1)
		conn.SetPongHandler(func(string) error { pongs <- struct{}{}; return nil })
		go func() {
			for {
				if _, _, err := conn.ReadMessage(); err != nil {
					return
				}
			}
		}()
		speakers.Go(func() {
			time.Sleep(rand.N(250 * time.Millisecond)) // not all at the same moment
			ticker := time.NewTicker(250 * time.Millisecond)
			defer ticker.Stop()
			for n := 1; time.Now().Before(until); n++ {
				began := time.Now()
				err := conn.WriteMessage(websocket.TextMessage, []byte(message(n)))
				if err == nil {
					err = conn.WriteControl(websocket.PingMessage, nil, began.Add(patience))
				}
				if err != nil {
					t.Errorf("a stream broke: %v", err)
					return
				}
				<-pongs
				mu.Lock()
				safe = append(safe, time.Since(began))
				mu.Unlock()
				said.Add(1)
				<-ticker.C
			}
			_ = conn.WriteControl(websocket.CloseMessage,
				websocket.FormatCloseMessage(websocket.CloseNormalClosure, ""), time.Now().Add(patience))
		})
	}
	for range 3 {
		time.Sleep(last / 6)
		service.down()
		time.Sleep(last / 9)
		service.up()
	}
	speakers.Wait()
	want := int(said.Load()) + streams
	require.Eventually(t, func() bool { return len(book.ids()) >= want }, 4*patience, 10*time.Millisecond)
	waitUntilEmpty(t, dir)

	came := make(map[string][]delivered)
	seen := make(map[string]bool)
	for _, d := range book.deliveries() {
		if !seen[d.id] {
			seen[d.id] = true
			id := d.header.Get("Deepgram-Stream-Id")
			came[id] = append(came[id], d)
		}
	}
	require.Len(t, seen, want)
	require.Len(t, came, streams)
	for _, of := range came {
		requireStream(t, of, len(of)-1, "closed")
	}
	slices.Sort(safe)
	t.Logf("%d streams, %d messages; from receipt to safe: median %s, p99 %s, most %s", streams,
		len(safe), safe[len(safe)/2], safe[len(safe)*99/100], safe[len(safe)-1])
}

package handler_test

import (
	"bufio"
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/stretchr/testify/require"

	"github.com/caddy-deepgram/deepgram-callback/app"
	"github.com/caddy-deepgram/deepgram-callback/internal/caddytest"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/disk"
)

// spooled is the directive deepgram_callback with an inbox in dir, and no
// credentials.
func TestAStoreOnDiskIsTheInboxOfItsPath(t *testing.T) {
	service := newService(t, nil)
	dir := t.TempDir()
	g := start(t, callback(service.addr, "anonymous\nspool {\nstore disk "+dir+"\n}\n"))
	accepted(t, send(t, "POST", g.url+"/a", strings.NewReader("a"), nil))
	service.next(t)

	g.reload(spooled(service.addr, dir, ""))
	require.Len(t, app.ThisProcess().Inboxes(), 1)
	accepted(t, send(t, "POST", g.url+"/b", strings.NewReader("b"), nil))
	service.next(t)
}

func spooled(upstreams, dir, inSpool string) string {
	return callback(upstreams, "anonymous\n"+inbox(dir, inSpool))
}

func inbox(dir, inSpool string) string {
	return "spool {\npath " + dir + "\n" + inSpool + "\n}\n"
}

// soon makes the wait before another attempt so short that no test notices it.
const soon = "retry_delays 10ms\n"

// A switchable service can go down and come up again at the same address, which is
// a socket in the file system: nobody else can get that meanwhile.
type switchable struct {
	t      testing.TB
	addr   string // as an upstream
	path   string
	serve  http.Handler
	server *http.Server
}

func newSwitchable(t testing.TB, serve http.Handler) *switchable {
	t.Helper()
	// The name is short: the path of a socket may have a hundred characters or so.
	dir, err := os.MkdirTemp("", "service-*")
	require.NoError(t, err)
	s := &switchable{t: t, path: filepath.Join(dir, "s"), serve: serve}
	s.addr = "unix/" + s.path
	t.Cleanup(func() {
		s.down()
		_ = os.RemoveAll(dir)
	})
	return s
}

func (s *switchable) up() {
	s.t.Helper()
	listener, err := net.Listen("unix", s.path)
	require.NoError(s.t, err)
	s.server = &http.Server{Handler: s.serve, ErrorLog: discardLog}
	go func(server *http.Server) { _ = server.Serve(listener) }(s.server)
}

func (s *switchable) down() {
	if s.server != nil {
		_ = s.server.Close()
		s.server = nil
	}
}

// A ledger is a service that keeps a list of what came, and of what it took.
type ledger struct {
	mu       sync.Mutex
	taken    []delivered
	attempts map[string]int // by webhook-id
	// answer returns the status for a callback at its nth attempt; nil: always 200.
	answer func(d delivered, try int) int
}

type delivered struct {
	id, key string // webhook-id; the query's key
	n       int    // the query's n
	header  http.Header
	uri     string
	body    []byte
}

func (l *ledger) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	query := r.URL.Query()
	n, _ := strconv.Atoi(query.Get("n"))
	d := delivered{
		id:     r.Header.Get("Webhook-Id"),
		key:    query.Get("key"),
		n:      n,
		header: r.Header,
		uri:    r.RequestURI,
		body:   body,
	}
	l.mu.Lock()
	if l.attempts == nil {
		l.attempts = make(map[string]int)
	}
	l.attempts[d.id]++
	try := l.attempts[d.id]
	l.mu.Unlock()

	status := http.StatusOK
	if l.answer != nil {
		status = l.answer(d, try)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if status >= 200 && status <= 299 {
		l.taken = append(l.taken, d)
	}
	w.WriteHeader(status)
}

func (l *ledger) deliveries() []delivered {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]delivered(nil), l.taken...)
}

// ids are the webhook-ids of what was taken.
func (l *ledger) ids() map[string]bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	ids := make(map[string]bool, len(l.taken))
	for _, d := range l.taken {
		ids[d.id] = true
	}
	return ids
}

// waitFor waits until so many callbacks were taken, and returns them.
func (l *ledger) waitFor(t testing.TB, count int) []delivered {
	t.Helper()
	require.Eventually(t, func() bool { return len(l.deliveries()) >= count },
		patience, 2*time.Millisecond)
	return l.deliveries()
}

// requireOrder requires that all callbacks of each key came, in the order of n, and
// that none was taken more than so many times.
func requireOrder(t testing.TB, taken []delivered, want map[string]int, most int) {
	t.Helper()
	last, times := make(map[string]int), make(map[string]int)
	for _, d := range taken {
		name := d.key + "/" + strconv.Itoa(d.n)
		times[name]++
		require.LessOrEqual(t, times[name], most, name)
		if times[name] == 1 {
			require.Equal(t, last[d.key]+1, d.n, "of %s after %d", d.key, last[d.key])
			last[d.key] = d.n
		}
	}
	require.Equal(t, want, last)
}

// result is a body with a request id.
func result(id string, n int) io.Reader {
	return strings.NewReader(fmt.Sprintf(`{"metadata":{"request_id":%q},"n":%d}`, id, n))
}

// callbackOf sends the n-th callback of a key; the key is the request id.
func callbackOf(t testing.TB, g *gateway, key string, n int) answer {
	t.Helper()
	return send(t, "POST", fmt.Sprintf("%s/c?key=%s&n=%d", g.url, key, n), result(key, n), nil)
}

// accepted requires that a callback was accepted, and returns its webhook-id.
func accepted(t testing.TB, got answer) string {
	t.Helper()
	require.Equal(t, http.StatusAccepted, got.StatusCode, got.body)
	return got.Header.Get("Webhook-Id")
}

// openAt is the open inbox at a path.
func openAt(t testing.TB, dir string) *spool.Inbox {
	t.Helper()
	in := app.ThisProcess().Inboxes()[dir]
	require.NotNil(t, in, "no inbox is open at %s", dir)
	return in
}

func waitForStats(t testing.TB, dir string, what string, right func(spool.Stats) bool) {
	t.Helper()
	inbox := openAt(t, dir)
	require.Eventually(t, func() bool { return right(caddytest.Stats(t, inbox)) },
		patience, 2*time.Millisecond, "%s", what)
}

func waitUntilEmpty(t testing.TB, dir string) {
	t.Helper()
	waitForStats(t, dir, "callbacks still wait", func(s spool.Stats) bool { return s.Pending == 0 })
}

var uuid7 = regexp.MustCompile(
	`^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`,
)

// A machine that loses its power has what a copy of the directory has that is made
// as soon as the answer is there.
func TestAnsweredOnlyOnceOnDisk(t *testing.T) {
	service := newSwitchable(t, nil)
	dir := t.TempDir()
	g := start(t, spooled(service.addr, dir, ""))
	small, large := strings.Repeat("s", 100), strings.Repeat("l", 300<<10)
	ids := []string{
		accepted(t, send(t, "POST", g.url+"/a", strings.NewReader(small), nil)),
		accepted(t, send(t, "PUT", g.url+"/b?x=1", unsized(strings.NewReader(large)), nil)),
	}
	lost := t.TempDir()
	require.NoError(t, os.CopyFS(lost, os.DirFS(dir)))

	store, err := disk.Open(lost, disk.Options{})
	require.NoError(t, err)
	defer func() { require.NoError(t, store.Close(t.Context())) }()
	messages, err := store.List(t.Context(), spool.Filter{})
	require.NoError(t, err)
	require.Len(t, messages, 2)
	for i, want := range []string{small, large} {
		require.Regexp(t, uuid7, ids[i])
		require.Equal(t, ids[i], messages[i].ID.String())
		body, err := store.Body(t.Context(), messages[i].ID)
		require.NoError(t, err)
		content, err := io.ReadAll(body)
		require.NoError(t, err)
		require.NoError(t, body.Close())
		require.Equal(t, want, string(content))
	}
	require.Equal(t, "/b?x=1", messages[1].URI)
	require.Equal(t, "PUT", messages[1].Method)
}

func TestStoppedServiceGetsCallbacksWhenItIsBack(t *testing.T) {
	book := &ledger{answer: func(_ delivered, try int) int {
		if try == 1 {
			return http.StatusInternalServerError
		}
		return http.StatusNoContent
	}}
	service := newSwitchable(t, book)
	dir := t.TempDir()
	g := start(t, spooled(service.addr, dir, soon))
	want := make(map[string]int)
	ids := make(map[string]string)
	for _, key := range []string{"a", "b"} {
		for n := 1; n <= 3; n++ {
			ids[key+strconv.Itoa(n)] = accepted(t, callbackOf(t, g, key, n))
			want[key] = n
		}
	}
	waitForStats(t, dir, "the service is not found to be down", func(s spool.Stats) bool {
		return s.Routes[service.addr].Down
	})
	require.Equal(t, int64(6), caddytest.Stats(t, openAt(t, dir)).Pending)

	service.up()
	taken := book.waitFor(t, 6)
	waitUntilEmpty(t, dir)
	requireOrder(t, taken, want, 1)
	for _, d := range taken {
		require.Equal(t, ids[d.key+strconv.Itoa(d.n)], d.id)
		require.Equal(t, 2, book.attempts[d.id], "the id of a callback changes from try to try")
		sent, err := strconv.ParseInt(d.header.Get("Webhook-Timestamp"), 10, 64)
		require.NoError(t, err)
		require.WithinDuration(t, time.Now(), time.Unix(sent, 0), time.Minute)
		require.NotContains(t, d.header, "Webhook-Signature")
	}
}

func TestDeliveriesAreSigned(t *testing.T) {
	key := func(fill byte) []byte { return bytes.Repeat([]byte{fill}, 32) }
	secret := func(fill byte) string { return "whsec_" + base64.StdEncoding.EncodeToString(key(fill)) }
	t.Setenv("TEST_SIGNING_SECRET", secret(2))
	backend := newService(t, nil)
	g := start(t, spooled(backend.addr, t.TempDir(), "sign "+secret(1)+" {env.TEST_SIGNING_SECRET}"))
	for _, body := range []string{"", `{"a":1}`, strings.Repeat("x", 200<<10)} {
		// The gateway replaces these fields if a sender sends them.
		id := accepted(t, send(t, "POST", g.url, strings.NewReader(body),
			http.Header{"Webhook-Signature": {"v1,x"}, "Webhook-Id": {"x"}}))
		seen := backend.next(t)
		require.Equal(t, body, string(seen.body))
		require.Equal(t, []string{id}, seen.Header["Webhook-Id"])
		require.Len(t, seen.Header["Webhook-Signature"], 1)
		signatures := strings.Fields(seen.Header.Get("Webhook-Signature"))
		require.Len(t, signatures, 2)
		for i, signature := range signatures {
			mac := hmac.New(sha256.New, key(byte(i+1)))
			_, _ = io.WriteString(mac, id+"."+seen.Header.Get("Webhook-Timestamp")+"."+body)
			require.Equal(t, "v1,"+base64.StdEncoding.EncodeToString(mac.Sum(nil)), signature)
		}
	}
}

// Everything of a request arrives as it does without an inbox, except for what
// belongs to its time and its connection.
func TestDeliveredAsItWouldHaveBeenForwarded(t *testing.T) {
	const presigned = "X-Amz-Algorithm=AWS4-HMAC-SHA256&" +
		"X-Amz-Credential=AKIAIOSFODNN7EXAMPLE%2F20261122%2Fus-east-1%2Fs3%2Faws4_request" +
		"&X-Amz-Expires=86400&X-Amz-SignedHeaders=host&" +
		"X-Amz-Signature=fe5f80f77d5fa3beca038a248ff027d0445342fe2855ddc963176630326f1024"
	backend := newService(t, nil)
	t.Setenv("TEST_QUERY", secretQuery)
	block := plainAuth +
		"query_secret token {env.TEST_QUERY}\ndg_token key-id {\nif_present\n}\nrelay {\n" +
		"header_up X-Client {client_ip}\n}\n"
	for name, site := range map[string]options{
		"plain":           {},
		"trusted proxies": {global: "servers {\ntrusted_proxies static 127.0.0.1/32\n}"},
		"https":           {site: "https://bucket.example.com:PORT"},
	} {
		t.Run(name, func(t *testing.T) {
			head, scheme := "@spooled header X-Spool yes\n", "http"
			if name == "https" {
				scheme = "https"
				head += "tls internal\n"
				site.global = "local_certs\nskip_install_trust"
			}
			g := start(t,
				head+callback("@spooled "+backend.addr, block+inbox(t.TempDir(), ""))+
					callback(backend.addr, block), site)
			for _, target := range []string{
				"/bucket/key.json?" + presigned + "&token=" + secretQuery,
				"/k?z=1&token=" + secretQuery + "&a=2",
				"/k?a=1;b=2&&&x=&=y&token=" + secretQuery + "&",
				"/k?bad=%zz&token=" + secretQuery,
				"/k?a=%7e%7E+%20%2B'\"|[]{}&token=" + secretQuery,
				"/a%2Fb//c/./d/%2e%2e/x%20y+z?token=" + secretQuery,
				"//two//slashes?token=" + secretQuery,
				"/%C3%A9%e2%82%ac;v=1?q=%C3%a9&token=" + secretQuery,
				"/?token=" + secretQuery,
				scheme + "://bucket.example.com/absolute?a=b&token=" + secretQuery,
			} {
				request := func(spool string) *received {
					got := sendOver(t, g, scheme == "https",
						"PUT "+target+" HTTP/1.1\r\nHost: bucket.example.com\r\n"+
							"Authorization: "+withPassword().Get("Authorization")+"\r\n"+
							"X-Spool: "+spool+"\r\n"+
							"dg-token: key-id\r\n"+
							"Content-Type: application/json\r\nUser-Agent: something\r\n"+
							"X-Several: a\r\nX-Several: b\r\nX-Empty:\r\nAccept-Encoding: br\r\n"+
							"X-Forwarded-For: 192.0.2.7\r\nX-Forwarded-Proto: gopher\r\n"+
							"X-Forwarded-Host: front.example.com\r\nVia: 1.0 front\r\n"+
							"Connection: close, X-Hop\r\nX-Hop: 1\r\nKeep-Alive: 5\r\n"+
							"TE: trailers\r\nProxy-Authorization: Basic eDp5\r\n"+
							"Content-Length: 2\r\n\r\n{}")
					require.Less(t, got.StatusCode, 300, target)
					return backend.next(t)
				}
				forwarded, delivered := request("no"), request("yes")
				require.Equal(t, forwarded.Method, delivered.Method)
				require.Equal(t, forwarded.RequestURI, delivered.RequestURI)
				require.Equal(t, forwarded.Host, delivered.Host)
				require.Equal(t, forwarded.ContentLength, delivered.ContentLength)
				require.Equal(t, forwarded.body, delivered.body)
				for _, hop := range []string{"X-Hop", "Keep-Alive", "Proxy-Authorization", "Authorization"} {
					require.NotContains(t, delivered.Header, hop)
				}
				require.Equal(t, "key-id", delivered.Header.Get("dg-token"))
				require.NotContains(t, delivered.RequestURI, secretQuery)
				for _, own := range []string{"Webhook-Id", "Webhook-Timestamp", "X-Spool", "Te",
					"Proxy-Authorization"} {
					delete(delivered.Header, own)
					delete(forwarded.Header, own)
				}
				require.Equal(t, forwarded.Header, delivered.Header, target)

				switch name {
				case "plain":
					require.Equal(t, []string{"127.0.0.1"}, delivered.Header["X-Forwarded-For"])
					require.Equal(t, []string{"http"}, delivered.Header["X-Forwarded-Proto"])
					require.Equal(t, []string{"127.0.0.1"}, delivered.Header["X-Client"])
				case "https":
					require.Equal(t, []string{"https"}, delivered.Header["X-Forwarded-Proto"])
				case "trusted proxies":
					require.Equal(t, []string{"192.0.2.7, 127.0.0.1"}, delivered.Header["X-Forwarded-For"])
					require.Equal(t, []string{"gopher"}, delivered.Header["X-Forwarded-Proto"])
					require.Equal(t, []string{"192.0.2.7"}, delivered.Header["X-Client"])
				}
			}
		})
	}
}

// sendOver is sendRaw, over TLS if secure.
func sendOver(t testing.TB, g *gateway, secure bool, request string) answer {
	t.Helper()
	if !secure {
		return sendRaw(t, g.addr, request)
	}
	var conn *tls.Conn
	require.Eventually(t, func() bool { // the certificate is made in the background
		var err error
		conn, err = tls.Dial("tcp", g.addr,
			&tls.Config{InsecureSkipVerify: true, ServerName: "bucket.example.com"})
		return err == nil
	}, patience, 20*time.Millisecond)
	defer func() { _ = conn.Close() }()
	require.NoError(t, conn.SetDeadline(time.Now().Add(patience)))
	_, err := io.WriteString(conn, request)
	require.NoError(t, err)
	return readAnswer(t, bufio.NewReader(conn))
}

func TestStoredBodiesArriveByteForByte(t *testing.T) {
	backend := newService(t, nil)
	dir := t.TempDir()
	g := start(t, spooled(backend.addr, dir, ""))
	for _, size := range []int64{0, 1, 1500, 4096, 4097, 64<<10 - 1, 64 << 10, 64<<10 + 1, 1<<20 + 1} {
		for _, chunked := range []bool{false, true} {
			name := fmt.Sprintf("%d bytes, chunked %v", size, chunked)
			hash := sha256.New()
			r, err := http.NewRequest("POST", fmt.Sprintf("%s/%d-%v", g.url, size, chunked),
				io.TeeReader(noise(size), hash))
			require.NoError(t, err)
			if chunked {
				r.Trailer = http.Header{"X-Checksum": {"abc"}}
			} else {
				r.ContentLength = size
			}
			accepted(t, do(t, r))
			seen := backend.next(t)
			require.NoError(t, seen.err, name)
			require.Equal(t, hash.Sum(nil), seen.sum[:], name)
			require.Equal(t, size, seen.bytes, name)
			require.Equal(t, size, seen.ContentLength, "%s: the length is known by now", name)
			require.Empty(t, seen.Trailer, "%s: trailers cannot be stored", name)
			require.NotContains(t, seen.Header, "Trailer")
		}
	}
	waitUntilEmpty(t, dir)
}

func TestLargeBodiesAreNotKeptInMemory(t *testing.T) {
	if testing.Short() {
		t.Skip("writes a quarter of a gigabyte")
	}
	const (
		callbacks = 4
		size      = 64 << 20
		most      = 24 << 20
	)
	proceed := make(chan struct{})
	var peak atomic.Uint64
	backend := newService(t, func(http.ResponseWriter, *http.Request) {
		peak.Store(max(peak.Load(), heapInUse()))
		<-proceed
	})
	g := start(t, spooled(backend.addr, t.TempDir(), ""))
	before := heapInUse()
	var done sync.WaitGroup
	sums := make(chan [sha256.Size]byte, callbacks)
	statuses := make(chan int, callbacks)
	for i := range callbacks {
		done.Go(func() {
			hash := sha256.New()
			r, err := http.NewRequest("POST", g.url, io.TeeReader(noise(size-int64(i)), hash))
			if err != nil {
				statuses <- 0
				return
			}
			r.ContentLength = size - int64(i)
			res, err := client.Do(r)
			if err != nil {
				statuses <- 0
				return
			}
			_ = res.Body.Close()
			statuses <- res.StatusCode
			sums <- [sha256.Size]byte(hash.Sum(nil))
		})
	}
	done.Wait()
	close(proceed)
	want := make(map[[sha256.Size]byte]bool)
	for range callbacks {
		require.Equal(t, http.StatusAccepted, <-statuses)
		want[<-sums] = true
	}
	for range callbacks {
		require.True(t, want[backend.next(t).sum])
	}
	if peak.Load() > before {
		require.Less(t, peak.Load()-before, uint64(most))
	}
}

func heapInUse() uint64 {
	runtime.GC()
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return stats.HeapAlloc
}

func TestOrderOfAStreamAndNoWaitingForOthers(t *testing.T) {
	const callbacks = 20
	stuck := make(chan struct{})
	book := &ledger{answer: func(d delivered, try int) int {
		switch {
		case d.key == "stuck" && d.n == 1:
			<-stuck
		case (d.n+try)%3 == 0: // every now and then
			return http.StatusInternalServerError
		}
		return http.StatusOK
	}}
	server := newService(t, nil)
	server.Config.Handler = book
	dir := t.TempDir()
	g := start(t, spooled(server.addr, dir, "retry_delays 2ms"))
	defer close(stuck)
	accepted(t, callbackOf(t, g, "stuck", 1))
	accepted(t, callbackOf(t, g, "stuck", 2))
	want := make(map[string]int)
	for n := 1; n <= callbacks; n++ {
		for _, key := range []string{"a", "b", "c"} {
			accepted(t, callbackOf(t, g, key, n))
			want[key] = n
		}
	}
	requireOrder(t, book.waitFor(t, 3*callbacks), want, 1)

	stuck <- struct{}{}
	want["stuck"] = 2
	requireOrder(t, book.waitFor(t, 3*callbacks+2), want, 1)
	waitUntilEmpty(t, dir)
}

func TestDuplicatesAreAnsweredAndDeliveredOnce(t *testing.T) {
	book := &ledger{}
	service := newSwitchable(t, book)
	service.up()
	dir := t.TempDir()
	site := spooled(service.addr, dir, soon)
	g := start(t, site)

	// Several come at the same moment.
	const senders = 16
	ids := make(chan string, senders)
	var together sync.WaitGroup
	for range senders {
		together.Go(func() {
			res, err := client.Post(g.url+"/c?key=a&n=1", "", result("a", 1))
			if err != nil || res.StatusCode != http.StatusAccepted {
				ids <- fmt.Sprint(res, err)
				return
			}
			_ = res.Body.Close()
			ids <- res.Header.Get("Webhook-Id")
		})
	}
	together.Wait()
	first := <-ids
	require.Regexp(t, uuid7, first)
	for range senders - 1 {
		require.Equal(t, first, <-ids)
	}
	book.waitFor(t, 1)

	// One comes again after it was delivered, after a reload and after a restart.
	waitUntilEmpty(t, dir)
	require.Equal(t, first, accepted(t, callbackOf(t, g, "a", 1)))
	g.reload(site)
	require.Equal(t, first, accepted(t, callbackOf(t, g, "a", 1)))
	require.NoError(t, caddy.Stop())
	require.Empty(t, app.ThisProcess().Inboxes())
	g.reload(site)
	require.Equal(t, first, accepted(t, callbackOf(t, g, "a", 1)))

	// What differs in one thing is no duplicate.
	others := []answer{
		send(t, "PUT", g.url+"/c?key=a&n=1", result("a", 1), nil),
		send(t, "POST", g.url+"/c?key=a&n=2", result("a", 1), nil),
		send(t, "POST", g.url+"/c?key=a&n=1", strings.NewReader("other"), nil),
	}
	for _, other := range others {
		require.NotEqual(t, first, accepted(t, other))
	}
	book.waitFor(t, 1+len(others))
	waitUntilEmpty(t, dir)
	require.Len(t, book.deliveries(), 1+len(others))
}

// waitForLetter waits for the dead letter with an id and returns it.
func waitForLetter(t testing.TB, dir, id string) *spool.Message {
	t.Helper()
	var found *spool.Message
	inbox := openAt(t, dir) // not in the condition, which runs in a goroutine of its own
	require.Eventually(t, func() bool {
		letters, _ := inbox.List(t.Context(), spool.Filter{State: spool.Dead})
		for _, letter := range letters {
			if letter.ID.String() == id {
				found = letter
			}
		}
		return found != nil
	}, patience, 2*time.Millisecond, "no dead letter %s", id)
	return found
}

func TestGoneMeansADeadLetterAtOnce(t *testing.T) {
	backend := newService(t, func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusGone)
	})
	dir := t.TempDir()
	g := start(t, spooled(backend.addr, dir, ""))
	letter := waitForLetter(t, dir, accepted(t, callbackOf(t, g, "a", 1)))
	require.Equal(t, 1, letter.Tries)
	require.Equal(t, "the service answered 410 Gone", letter.LastError)
	require.Equal(t, "a", letter.RequestID)
	g.waitForLog("the dead letter", func(line map[string]any) bool {
		return line["id"] == letter.ID.String() && line["level"] == "error"
	})
}

// header_up can make a request of a callback that cannot be written. That is not the
// service's fault, and holds up no other callback.
func TestUnwritableMeansADeadLetterAtOnce(t *testing.T) {
	backend := newService(t, nil)
	dir := t.TempDir()
	g := start(t,
		callback("",
			"anonymous\nrelay "+backend.addr+" {\nheader_up X-Caller {query.caller}\n}\n"+inbox(dir, "")))
	bad := send(t, "POST", g.url+"?caller=a%0d%0aDg-Token:b", result("a", 1), nil)
	letter := waitForLetter(t, dir, accepted(t, bad))
	require.Equal(t, 1, letter.Tries)
	require.Contains(t, letter.LastError, "X-Caller")

	accepted(t, send(t, "POST", g.url+"?caller=a", result("b", 1), nil))
	require.Equal(t, "a", backend.next(t).Header.Get("X-Caller"))
}

func TestRefusedForTooLongMeansADeadLetter(t *testing.T) {
	book := &ledger{answer: func(d delivered, _ int) int {
		if d.n == 1 {
			return http.StatusInternalServerError
		}
		return http.StatusOK
	}}
	service := newSwitchable(t, book)
	service.up()
	dir := t.TempDir()
	g := start(t, spooled(service.addr, dir, "retry_delays 5ms\nretry_for 200ms"))
	id := accepted(t, callbackOf(t, g, "a", 1))
	accepted(t, callbackOf(t, g, "a", 2)) // waits behind it
	letter := waitForLetter(t, dir, id)
	require.Greater(t, letter.Tries, 1)
	require.Equal(t, 2, book.waitFor(t, 1)[0].n, "what waited goes on")
}

func TestRetryAfterIsHonoured(t *testing.T) {
	var times []time.Time
	asked := make(chan struct{})
	backend := newService(t, func(w http.ResponseWriter, _ *http.Request) {
		times = append(times, time.Now())
		if len(times) == 1 {
			w.Header().Set("Retry-After", "1")
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		close(asked)
	})
	g := start(t, spooled(backend.addr, t.TempDir(), soon))
	accepted(t, callbackOf(t, g, "a", 1))
	<-asked
	require.GreaterOrEqual(t, times[1].Sub(times[0]), 990*time.Millisecond)
}

func TestInterimAnswersAreNone(t *testing.T) {
	var tries atomic.Int32
	backend := newService(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Retry-After", "3600")
		w.WriteHeader(http.StatusEarlyHints)
		w.Header().Del("Retry-After")
		if tries.Add(1) == 1 {
			w.WriteHeader(http.StatusInternalServerError)
		}
	})
	dir := t.TempDir()
	g := start(t, spooled(backend.addr, dir, soon))
	accepted(t, callbackOf(t, g, "a", 1))
	backend.next(t)
	backend.next(t)
	waitUntilEmpty(t, dir)
}

// A service may answer before it has read a body, while the transport is still
// reading that from the inbox.
func TestServiceThatAnswersBeforeItHasRead(t *testing.T) {
	for name, transport := range map[string]string{
		"one for callbacks": "",
		"net/http's":        "transport http {\nmax_conns_per_host 100\n}",
	} {
		t.Run(name, func(t *testing.T) {
			var tries, taken atomic.Int32
			early := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if tries.Add(1)%2 == 1 {
					w.WriteHeader(http.StatusTeapot)
					return
				}
				body, err := io.ReadAll(r.Body)
				if want := strings.Repeat(r.URL.Path[1:], len(body)); err != nil || string(body) != want {
					w.WriteHeader(http.StatusBadRequest)
					return
				}
				taken.Add(1)
			})
			server := newService(t, nil)
			server.Config.Handler = early
			dir := t.TempDir()
			g := start(t, callback(server.addr,
				"anonymous\nrelay {\n"+transport+"\n}\n"+inbox(dir, "retry_delays 1ms")))
			for i := range 20 {
				letter := string(rune('a' + i))
				accepted(t, send(t, "POST", g.url+"/"+letter,
					strings.NewReader(strings.Repeat(letter, 60<<10+i%2*(400<<10))), nil))
			}
			require.Eventually(t, func() bool { return taken.Load() == 20 }, patience, 2*time.Millisecond)
			waitUntilEmpty(t, dir)
		})
	}
}

// A body that the disk has changed must not reach the service.
func TestDamagedBodyIsNotDelivered(t *testing.T) {
	book := &ledger{}
	service := newSwitchable(t, book)
	dir := t.TempDir()
	g := start(t, spooled(service.addr, dir, "retry_delays 50ms"))
	id := accepted(t,
		send(t, "POST", g.url+"/large", strings.NewReader(strings.Repeat("x", 300<<10)), nil))
	damaged := 0
	require.NoError(t, filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if info, _ := entry.Info(); err == nil && info != nil && info.Size() == 300<<10 {
			file, err := os.OpenFile(path, os.O_WRONLY, 0)
			require.NoError(t, err)
			// An attempt that is under way may have read the beginning already.
			_, err = file.WriteAt([]byte("y"), 200<<10)
			require.NoError(t, err)
			require.NoError(t, file.Close())
			damaged++
		}
		return err
	}))
	require.Equal(t, 1, damaged)
	service.up()
	letter := waitForLetter(t, dir, id)
	require.Contains(t, letter.LastError, "damaged")
	require.Zero(t, len(book.deliveries()))
}

func TestFullInboxRefusesAndRecovers(t *testing.T) {
	book := &ledger{}
	service := newSwitchable(t, book)
	dir := t.TempDir()
	g := start(t,
		callback(service.addr, "anonymous\nmax_body 1MiB\n"+inbox(dir, soon+"max_size 4MiB")))
	send64k := func(n int) answer {
		return send(t, "POST", fmt.Sprintf("%s/c?key=%d&n=1", g.url, n), noise(200<<10+int64(n)), nil)
	}
	took := 0
	var refused answer
	for refused.Response == nil {
		if got := send64k(took); got.StatusCode != http.StatusAccepted {
			refused = got
			break
		}
		took++
		require.Less(t, took, 100, "max_size is not kept")
	}
	require.Greater(t, took, 5)
	require.Equal(t, http.StatusServiceUnavailable, refused.StatusCode)
	require.Equal(t, "15", refused.Header.Get("Retry-After"))
	g.waitForLog("the refusal", func(line map[string]any) bool {
		return line["msg"] == "callback refused: inbox_full"
	})
	g.waitForLog("the inbox that refuses", func(line map[string]any) bool {
		return line["level"] == "error" && line["reason"] == "inbox_full" && line["path"] == dir
	})

	service.up()
	book.waitFor(t, took)
	waitUntilEmpty(t, dir)
	require.Eventually(t, func() bool { return send64k(took).StatusCode == http.StatusAccepted },
		patience, 20*time.Millisecond)
	g.waitForLog("the inbox that accepts again", func(line map[string]any) bool {
		return line["msg"] == "inbox accepts callbacks again"
	})
}

func TestNothingIsStoredOfWhatIsRefused(t *testing.T) {
	backend := newService(t, nil)
	dir := t.TempDir()
	g := start(t, callback(backend.addr,
		"callback_secret right-0123456789ab\nmax_body 300KiB\n"+inbox(dir, "")))
	right := `{"metadata":{"extra":{"callback_secret":"right-0123456789ab"}},"x":"`
	long := right + strings.Repeat("x", 400<<10) + `"}`
	require.Equal(t, 413, send(t, "POST", g.url, strings.NewReader(long), nil).StatusCode)
	require.Equal(t, 413, send(t, "POST", g.url, unsized(strings.NewReader(long)), nil).StatusCode)
	require.Equal(t, 401,
		send(t, "POST", g.url,
			strings.NewReader(strings.Replace(long[:250<<10], "right", "wrong", 1)+`"}`), nil).StatusCode)

	for _, sent := range []int{100, 250 << 10} { // of 260 KiB
		conn, err := net.Dial("tcp", g.addr)
		require.NoError(t, err)
		_, err = fmt.Fprintf(conn, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s",
			260<<10, long[:sent])
		require.NoError(t, err)
		require.NoError(t, conn.(*net.TCPConn).CloseWrite())
		_, _ = io.Copy(io.Discard, conn)
		require.NoError(t, conn.Close())
	}
	stats := caddytest.Stats(t, openAt(t, dir))
	require.Zero(t, stats.Pending+stats.Dead)
	require.Empty(t, backend.requests)
	files := 0
	bodies := filepath.Join(dir, "bodies")
	require.NoError(t, filepath.WalkDir(bodies, func(_ string, entry fs.DirEntry, err error) error {
		if err == nil && entry.Type().IsRegular() {
			files++
		}
		return err
	}))
	require.Zero(t, files, "something was left behind")
}

func TestStoredFilesAreClosedToOthers(t *testing.T) {
	service := newSwitchable(t, nil)
	dir := filepath.Join(t.TempDir(), "a", "inbox")
	g := start(t, spooled(service.addr, dir, ""))
	accepted(t, callbackOf(t, g, "a", 1))
	accepted(t, send(t, "POST", g.url, noise(300<<10), nil))
	seen := 0
	require.NoError(t, filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		require.NoError(t, err)
		info, err := entry.Info()
		require.NoError(t, err)
		want := fs.FileMode(0o600)
		if entry.IsDir() {
			want = 0o700
		}
		require.Equal(t, want, info.Mode().Perm(), path)
		seen++
		return nil
	}))
	require.Greater(t, seen, 4)
}

// A delivery that is cancelled because the gateway ends does not count as an attempt.
func TestDeliveriesThatDoNotFinishArePendingAgain(t *testing.T) {
	if testing.Short() {
		t.Skip("waits for as long as deliveries may take at the end")
	}
	book := &ledger{}
	release := make(chan struct{})
	var hang atomic.Bool
	hang.Store(true)
	service := newSwitchable(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if hang.Load() {
			<-release
			return
		}
		book.ServeHTTP(w, r)
	}))
	service.up()
	dir := t.TempDir()
	site := spooled(service.addr, dir, "retry_delays 1h")
	g := start(t, site)
	id := accepted(t, callbackOf(t, g, "a", 1))
	waitForStats(t, dir, "no delivery began", func(s spool.Stats) bool { return s.InFlight == 1 })
	require.NoError(t, caddy.Stop())
	close(release)
	hang.Store(false)

	g.reload(site)
	require.Equal(t, id, book.waitFor(t, 1)[0].id, "it was not tried at once")
}

func TestDeliveriesFinishBeforeTheEnd(t *testing.T) {
	release, began := make(chan struct{}), make(chan struct{})
	book := &ledger{answer: func(delivered, int) int {
		close(began)
		<-release
		return http.StatusOK
	}}
	service := newSwitchable(t, book)
	service.up()
	dir := t.TempDir()
	site := spooled(service.addr, dir, "")
	g := start(t, site)
	accepted(t, callbackOf(t, g, "a", 1))
	<-began
	stopped := make(chan error)
	go func() { stopped <- caddy.Stop() }()
	select {
	case err := <-stopped:
		require.Fail(t, "it did not wait", "%v", err)
	case <-time.After(50 * time.Millisecond):
	}
	close(release)
	require.NoError(t, <-stopped)
	require.Len(t, book.deliveries(), 1)

	g.reload(site)
	require.Zero(t, caddytest.Stats(t, openAt(t, dir)).Pending)
}

func TestNoSecretOfTheInboxIsShown(t *testing.T) {
	const signing = "whsec_c2lnbmluZy1zZWNyZXQtdGhhdC1pcy0zMi1ieXRlcw=="
	t.Setenv("TEST_PASSWORD", secretPassword)
	t.Setenv("TEST_TOKEN", secretToken)
	t.Setenv("TEST_QUERY", secretQuery)
	t.Setenv("TEST_BODY", secretBody)
	t.Setenv("TEST_SIGN", signing)
	service := newSwitchable(t, &ledger{answer: func(_ delivered, try int) int {
		if try == 1 {
			return http.StatusInternalServerError
		}
		return http.StatusGone
	}})
	dir := t.TempDir()
	site := callback(service.addr, everyCredential+inbox(dir, soon+"sign {env.TEST_SIGN}"))
	g := start(t, site, options{level: "DEBUG"})
	sendEveryKind(t, g, false)
	waitForStats(t, dir, "the service is not found to be down", func(s spool.Stats) bool {
		return s.Routes[service.addr].LastError != ""
	})
	service.up()
	waitForStats(t, dir, "no dead letter", func(s spool.Stats) bool { return s.Dead == 1 })
	all := append(secrets(), signing, strings.TrimPrefix(signing, "whsec_"))
	attempts := 0
	for _, line := range g.logLines() {
		if logger, _ := line["logger"].(string); strings.HasPrefix(logger, "http.log") {
			delete(line, "request")
		}
		if line["msg"] == "delivery attempt" {
			attempts++
		}
		for _, secret := range all {
			require.NotContains(t, fmt.Sprint(line), secret)
		}
	}
	require.GreaterOrEqual(t, attempts, 2)

	running := caddy.ActiveContext()
	metrics, err := running.GetMetricsRegistry().Gather()
	require.NoError(t, err)
	require.NotEmpty(t, metrics)
	for _, secret := range all {
		require.NotContains(t, fmt.Sprint(metrics), secret)
	}

	// Of all credentials only the dg-token is on disk, as the service gets to see it.
	letters, err := openAt(t, dir).List(t.Context(), spool.Filter{})
	require.NoError(t, err)
	stored := fmt.Sprint(letters[0].URI, letters[0].Header, letters[0].LastError)
	for _, secret := range []string{secretPassword, secretQuery, signing} {
		require.NotContains(t, stored, secret)
	}
	require.Equal(t, secretToken, letters[0].Header.Get("Dg-Token"))

	for _, wrong := range []string{"whsec_c2hvcnQtc2VjcmV0",
		"c2lnbmluZy1zZWNyZXQtdGhhdC1pcy0zMi1ieXRlcw==", "whsec_!signing-secret-that-is-32-bytes!"} {
		t.Setenv("TEST_SIGN", wrong)
		err := g.load(site, options{level: "DEBUG"})
		require.ErrorContains(t, err, "spool: sign: signing secret 1 of 1")
		require.NotContains(t, err.Error(), wrong)
	}
	t.Setenv("TEST_SIGN", "")
	require.ErrorContains(t, g.load(site, options{}), "spool: sign: secret 1 of 1")
}

// The benchmark measures accepting 16 KiB through the handler, without deliveries.
func BenchmarkAccept(b *testing.B) {
	service := newSwitchable(b, nil)
	start(b, spooled(service.addr, b.TempDir(), "retry_delays 1h"), options{level: "ERROR"})
	loaded, err := caddy.ActiveContext().AppIfConfigured("http")
	require.NoError(b, err)
	server := loaded.(*caddyhttp.App).Servers["srv0"]
	require.NotNil(b, server)
	var n atomic.Int64
	b.SetParallelism(16)
	b.SetBytes(16 << 10)
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		body := bytes.Repeat([]byte("x"), 16<<10)
		for pb.Next() {
			copy(body, strconv.FormatInt(n.Add(1), 10)+".")
			w := httptest.NewRecorder()
			server.ServeHTTP(w, httptest.NewRequest("POST", "/c", bytes.NewReader(body)))
			if w.Code != http.StatusAccepted {
				b.Errorf("answered %d", w.Code)
				return
			}
		}
	})
}

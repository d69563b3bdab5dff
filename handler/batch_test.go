package handler_test

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-deepgram/deepgram-callback/internal/bodytest"
)

// noise yields n bytes that do not compress, the same ones each time.
func noise(n int64) io.Reader {
	var seed [32]byte
	copy(seed[:], fmt.Sprint(n))
	return io.LimitReader(rand.NewChaCha8(seed), n)
}

func TestBodiesArriveByteForByte(t *testing.T) {
	backend := newService(t, nil)
	g := start(t, callback(backend.addr, plainAuth+"max_body 80MiB"))
	sizes := []int64{0, 1, 1500, 4095, 4096, 4097, 64 << 10, 1<<20 + 1, 65<<20 + 7}
	if testing.Short() {
		sizes = sizes[:len(sizes)-1]
	}
	for _, method := range []string{"POST", "PUT"} {
		for _, size := range sizes {
			for _, chunked := range []bool{false, true} {
				name := fmt.Sprintf("%s of %d bytes, chunked %v", method, size, chunked)
				hash := sha256.New()
				body := io.TeeReader(noise(size), hash)
				r, err := http.NewRequest(method, g.url+"/x", body)
				require.NoError(t, err)
				r.Header = withPassword()
				r.Header.Set("Content-Type", "audio/wav")
				if !chunked {
					r.ContentLength = size
				}
				require.Equal(t, 200, do(t, r).StatusCode, name)
				seen := backend.next(t)
				require.NoError(t, seen.err, name)
				require.Equal(t, size, seen.bytes, name)
				require.Equal(t, hash.Sum(nil), seen.sum[:], name)
				require.Equal(t, method, seen.Method)
				require.Equal(t, "audio/wav", seen.Header.Get("Content-Type"))
				if !chunked && size > 0 {
					require.Equal(t, size, seen.ContentLength, name)
				}
			}
		}
	}
}

func TestSentBodiesArriveByteForByte(t *testing.T) {
	backend := newService(t, nil)
	g := start(t, callback(backend.addr, "anonymous"))
	for name, content := range bodytest.Sent(t, "*.*") {
		require.Equal(t, 200, send(t, "POST", g.url, bytes.NewReader(content), nil).StatusCode)
		seen := backend.next(t)
		require.Equal(t, sha256.Sum256(content), seen.sum, name)
	}
}

func TestTrailersArrive(t *testing.T) {
	for name, config := range map[string]string{
		"streaming through":  "anonymous",
		"secret in the body": "callback_secret right-0123456789ab",
	} {
		t.Run(name, func(t *testing.T) {
			backend := newService(t, func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Trailer", "X-Received")
				_, _ = io.WriteString(w, "answer")
				w.Header().Set("X-Received", "all")
			})
			g := start(t, callback(backend.addr, config))
			body := `{"metadata":{"extra":{"callback_secret":"right-0123456789ab"}},"results":"` +
				strings.Repeat("x", 100<<10) + `"}`
			r, err := http.NewRequest("POST", g.url, unsized(strings.NewReader(body)))
			require.NoError(t, err)
			r.Trailer = http.Header{"X-Checksum": {"abc"}}
			got := do(t, r)
			require.Equal(t, 200, got.StatusCode)
			require.Equal(t, "all", got.Trailer.Get("X-Received"))
			seen := backend.next(t)
			require.Equal(t, body, string(seen.body))
			require.Equal(t, "abc", seen.Trailer.Get("X-Checksum"))
		})
	}
}

// The signature of a presigned URL is over its very bytes: if one in the query
// changes, the storage answers 403.
func TestTargetArrivesAsItCame(t *testing.T) {
	backend := newService(t, nil)
	g := start(t, callback(backend.addr, "query_secret token s3cret-0123456789"))
	const presigned = "X-Amz-Algorithm=AWS4-HMAC-SHA256&" +
		"X-Amz-Credential=AKIAIOSFODNN7EXAMPLE%2F20261122%2Fus-east-1%2Fs3%2Faws4_request" +
		"&X-Amz-Date=20261122T000000Z&X-Amz-Expires=86400&X-Amz-SignedHeaders=host&" +
		"X-Amz-Signature=fe5f80f77d5fa3beca038a248ff027d0445342fe2855ddc963176630326f1024"
	for target, want := range map[string]string{
		"/bucket/key.json?" + presigned +
			"&token=s3cret-0123456789": "/bucket/key.json?" + presigned,
		"/k?token=s3cret-0123456789&" +
			presigned: "/k?" + presigned,
		"/k?z=1&token=s3cret-0123456789&a=2":           "/k?z=1&a=2",
		"/k?token=s3cret-0123456789":                   "/k",
		"/k?%74oken=s3cret-0123456789&a=%7e%7E+%20%2B": "/k?a=%7e%7E+%20%2B",
		"/k?a=1;b=2&&&x=&=y&token=s3cret-0123456789&":  "/k?a=1;b=2&&&x=&=y&",
		"/k?bad=%zz&token=s3cret-0123456789":           "/k?bad=%zz",
		"/k?tokens=s3cret-0123456789&token=s3cret-0123456789&" +
			"mytoken=s3cret-0123456789": "/k?tokens=s3cret-0123456789&mytoken=s3cret-0123456789",
		"/a%2Fb//c/./d/%2e%2e/x%20y+z?token=s3cret-0123456789": "/a%2Fb//c/./d/%2e%2e/x%20y+z",
		"/%C3%A9%e2%82%ac?q=%C3%a9&token=s3cret-0123456789":    "/%C3%A9%e2%82%ac?q=%C3%a9",
	} {
		got := sendRaw(t, g.addr,
			"PUT "+target+" HTTP/1.1\r\nHost: bucket.example.com\r\nContent-Length: 2\r\n\r\n{}")
		require.Equal(t, 200, got.StatusCode, target)
		seen := backend.next(t)
		require.Equal(t, want, seen.RequestURI)
		require.Equal(t, "bucket.example.com", seen.Host)
	}
	for _, target := range []string{
		"/k", "/k?token=", "/k?token=wrong", "/k?token=s3cret-0123456789&token=s3cret-0123456789",
		"/k?Token=s3cret-0123456789", "/k?token=s3cret-0123456789%", "/k?a=1;token=s3cret-0123456789",
	} {
		got := sendRaw(t, g.addr, "PUT "+target+" HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}")
		require.Equal(t, 401, got.StatusCode, target)
	}
	require.Empty(t, backend.requests)
}

func TestHeadersArriveButForAuthorization(t *testing.T) {
	backend := newService(t, nil)
	g := start(t, callback(backend.addr, plainAuth+"dg_token key-id {\nif_present\n}"))
	header := withPassword()
	header.Set("dg-token", "key-id")
	header.Set("User-Agent", "something")
	header["X-Several"] = []string{"a", "b"}
	require.Equal(t, 200, send(t, "POST", g.url, strings.NewReader("{}"), header).StatusCode)
	seen := backend.next(t)
	require.NotContains(t, seen.Header, "Authorization")
	require.Equal(t, "key-id", seen.Header.Get("dg-token"))
	require.Equal(t, "something", seen.Header.Get("User-Agent"))
	require.Equal(t, []string{"a", "b"}, seen.Header["X-Several"])

	// A query secret that does not decide does not go on either.
	g.reload(callback(backend.addr, "anonymous"))
	require.Equal(t, 200, send(t, "POST", g.url, nil, header).StatusCode)
	require.NotContains(t, backend.next(t).Header, "Authorization")
}

func TestAnswerOfTheServiceIsTheSenders(t *testing.T) {
	status := 0
	backend := newService(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Location", "/elsewhere")
		w.Header().Set("X-Answer", "yes")
		w.WriteHeader(status)
		if status != http.StatusNoContent {
			_, _ = fmt.Fprintf(w, "body of %d", status)
		}
	})
	g := start(t, callback(backend.addr, "anonymous"))
	for _, status = range []int{200, 201, 204, 302, 307, 400, 401, 404, 413, 418, 429, 500, 503} {
		got := send(t, "POST", g.url, strings.NewReader("{}"), nil)
		require.Equal(t, status, got.StatusCode)
		require.Equal(t, "yes", got.Header.Get("X-Answer"))
		require.Equal(t, "/elsewhere", got.Header.Get("Location"))
		if status != 204 {
			require.Equal(t, fmt.Sprintf("body of %d", status), got.body)
		}
		backend.next(t)
	}
	require.Empty(t, backend.requests, "a redirect was followed or a refusal retried")
}

func TestServiceThatIsDead(t *testing.T) {
	g := start(t, callback(deadAddr(t), "anonymous\nrelay {\nfail_duration 1h\n}"))
	require.Equal(t, 502, send(t, "POST", g.url, strings.NewReader("{}"), nil).StatusCode)
	require.Equal(t, 503, send(t, "POST", g.url, strings.NewReader("{}"), nil).StatusCode,
		"it is known to be dead now")
}

func TestServiceThatIsSlow(t *testing.T) {
	release := make(chan struct{})
	backend := newService(t, func(http.ResponseWriter, *http.Request) { <-release })
	defer close(release)
	g := start(t, callback(backend.addr,
		"anonymous\nrelay {\ntransport http {\nresponse_header_timeout 50ms\n}\n}"))
	require.Equal(t, 504, send(t, "POST", g.url, strings.NewReader("{}"), nil).StatusCode)
}

func TestServiceThatDropsTheConnection(t *testing.T) {
	backend := newService(t, func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
	g := start(t, callback(backend.addr, "anonymous"))
	require.Equal(t, 502, send(t, "POST", g.url, strings.NewReader("{}"), nil).StatusCode)
}

func TestRetriesPassOverADeadUpstream(t *testing.T) {
	backend := newService(t, nil)
	for name, config := range map[string]string{
		"streaming through":  "anonymous",
		"secret in the body": "callback_secret right-0123456789ab",
	} {
		t.Run(name, func(t *testing.T) {
			g := start(t, callback(deadAddr(t)+" "+backend.addr,
				config+"\nrelay {\nlb_policy first\nlb_retries 1\nfail_duration 1h\n}"))
			body := `{"results":"` + strings.Repeat("x", 1<<20) +
				`","metadata":{"extra":{"callback_secret":"right-0123456789ab"}}}`
			for _, chunked := range []bool{false, true} {
				var r io.Reader = strings.NewReader(body)
				if chunked {
					r = unsized(r)
				}
				require.Equal(t, 200, send(t, "POST", g.url, r, nil).StatusCode)
				seen := backend.next(t)
				require.NoError(t, seen.err)
				require.Equal(t, sha256.Sum256([]byte(body)), seen.sum)
			}
		})
	}
}

func TestServiceOverTLSAndUnixSocket(t *testing.T) {
	seen := make(chan string, 10)
	answer := http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		content, _ := io.ReadAll(r.Body)
		seen <- string(content)
	})
	secure := newTLSServer(t, answer)
	socket := filepath.Join(t.TempDir(), "service.sock")
	listener, err := net.Listen("unix", socket)
	require.NoError(t, err)
	server := &http.Server{Handler: answer}
	go func() { _ = server.Serve(listener) }()
	defer func() { _ = server.Close() }()

	for _, config := range []string{
		callback(secure.URL, "anonymous\nrelay {\ntransport http {\ntls_insecure_skip_verify\n}\n}"),
		callback("unix/"+socket, "anonymous"),
	} {
		g := start(t, config)
		require.Equal(t, 200, send(t, "POST", g.url, strings.NewReader("body"), nil).StatusCode)
		require.Equal(t, "body", <-seen)
	}
}

func TestExpectContinueIsAnsweredAfterAdmission(t *testing.T) {
	backend := newService(t, nil)
	g := start(t, callback(backend.addr, plainAuth))
	ask := func(authorization string) (answer, *bufio.Reader, net.Conn) {
		conn, err := net.Dial("tcp", g.addr)
		require.NoError(t, err)
		t.Cleanup(func() { _ = conn.Close() })
		require.NoError(t, conn.SetDeadline(time.Now().Add(patience)))
		_, err = io.WriteString(conn,
			"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nExpect: 100-continue\r\n"+authorization+
				"\r\n")
		require.NoError(t, err)
		r := bufio.NewReader(conn)
		return readAnswer(t, r), r, conn
	}
	got, _, _ := ask("")
	require.Equal(t, 401, got.StatusCode, "the body of a stranger was asked for")

	got, r, conn := ask("Authorization: " + withPassword().Get("Authorization") + "\r\n")
	require.Equal(t, 100, got.StatusCode)
	_, err := io.WriteString(conn, "body")
	require.NoError(t, err)
	for got.StatusCode == 100 { // the service's own comes through as well
		got = readAnswer(t, r)
	}
	require.Equal(t, 200, got.StatusCode)
	require.Equal(t, "body", string(backend.next(t).body))
}

// The secret comes last in each of sixteen callbacks of 32 MiB. While it is searched,
// these 512 MiB must not be in memory.
func TestMemoryIsBoundedWhileSecretsAreSearched(t *testing.T) {
	if testing.Short() {
		t.Skip("writes 200 MB to temporary files")
	}
	const (
		callbacks = 16
		size      = 12 << 20
		most      = 48 << 20
	)
	backend := newService(t, nil)
	g := start(t, callback(backend.addr, "callback_secret right-0123456789ab"))
	heap := func() uint64 {
		runtime.GC()
		var stats runtime.MemStats
		runtime.ReadMemStats(&stats)
		return stats.HeapAlloc
	}
	before := heap()

	piece := bytes.Repeat([]byte("0123456789abcdef"), 4<<10)
	var uploaded, done sync.WaitGroup
	finish := make(chan struct{})
	statuses := make(chan int, callbacks)
	uploaded.Add(callbacks)
	for range callbacks {
		done.Go(func() {
			reader, writer := io.Pipe()
			go func() {
				_, err := io.WriteString(writer, `{"results":"`)
				for sent := 0; sent < size && err == nil; sent += len(piece) {
					_, err = writer.Write(piece)
				}
				uploaded.Done()
				<-finish
				_, _ = io.WriteString(writer,
					`","metadata":{"extra":{"callback_secret":"right-0123456789ab"}}}`)
				_ = writer.CloseWithError(err)
			}()
			res, err := client.Post(g.url, "application/json", reader)
			if err != nil {
				statuses <- 0
				return
			}
			_ = res.Body.Close()
			statuses <- res.StatusCode
		})
	}
	uploaded.Wait()
	during := heap()
	close(finish)
	done.Wait()
	for range callbacks {
		require.Equal(t, 200, <-statuses)
		require.Equal(t,
			int64(size+len(`{"results":"`)+
				len(`","metadata":{"extra":{"callback_secret":"right-0123456789ab"}}}`)), backend.next(t).bytes)
	}
	if during > before {
		require.Less(t, during-before, uint64(most))
	}
}

// Caddy alone takes a sender's fault for the service's, and then refuses all
// callbacks for fail_duration.
func TestFaultOfASenderIsNotTheServices(t *testing.T) {
	backend := newService(t, nil)
	for name, transport := range map[string]string{
		"own client":           "",
		"net/http's transport": "transport http {\nread_buffer 8KiB\n}\n",
	} {
		t.Run(name, func(t *testing.T) {
			g := start(t,
				measured(callback("", "anonymous\nmax_body 64KiB\nrelay "+backend.addr+" {\nfail_duration 1h\n"+
					"header_up X-Caller {query.caller}\n"+transport+"}\nstream off")))
			const head = "POST / HTTP/1.1\r\nHost: localhost\r\n"
			admitted, refused := requestsTotal(t, g, "admitted"), requestsTotal(t, g, "body")
			for fault, request := range map[string]struct {
				sent   string
				status int
				reason string
			}{
				"chunks over max_body": {
					head + "Transfer-Encoding: chunked\r\n\r\n20000\r\n" +
						strings.Repeat("x", 0x20000) + "\r\n0\r\n\r\n", 413, "max_body",
				},
				"a broken chunk": {head +
					"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nzz\r\n", 400, "body"},
				"a field with a line break": {
					"POST /?caller=a%0d%0aDg-Token:b HTTP/1.1\r\nHost: localhost\r\n" +
						"Content-Length: 2\r\n\r\n{}", 400, "unwritable",
				},
			} {
				require.Equal(t, request.status, sendRaw(t, g.addr, request.sent).StatusCode, fault)
				g.waitForLog("the refusal", func(line map[string]any) bool {
					return line["msg"] == "callback refused: "+request.reason
				})
			}
			require.Equal(t, admitted, requestsTotal(t, g, "admitted"))
			require.Equal(t, refused+1, requestsTotal(t, g, "body"))

			gone, err := net.Dial("tcp", g.addr)
			require.NoError(t, err)
			_, err = io.WriteString(gone, head+"Content-Length: 100\r\n\r\nhalf")
			require.NoError(t, err)
			require.NoError(t, gone.Close())
			require.Eventually(t, func() bool { return requestsTotal(t, g, "body") == refused+2 },
				patience, 10*time.Millisecond)

			require.Equal(t, 200, send(t, "POST", g.url, strings.NewReader("{}"), nil).StatusCode)
			for {
				if got := backend.next(t); got.err == nil {
					require.Equal(t, "{}", string(got.body))
					break
				}
			}
		})
	}
}

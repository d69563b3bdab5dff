package http1_test

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"hash/crc32"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-deepgram/deepgram-callback/relay/http1"
)

// maxHead is how many bytes the head of an answer may have in these tests.
const maxHead = 4 << 10

// answers are what a service answers to each request that it has read, and whether it
// closes its connection after that.
var answers = map[string]struct {
	says   string
	closes bool
}{
	"a length":         {says: "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"},
	"a length of zero": {says: "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"},
	"chunks": {
		says: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\no\r\n1;ext=\"y\"\r\n" +
			"k\r\n0\r\n\r\n",
	},
	"no chunk": {says: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"},
	"trailers": {
		says: "HTTP/1.1 200 OK\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n" +
			"0\r\nX-Sum: 7\r\n\r\n",
	},
	"trailers unannounced": {
		says: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX-Sum: 7\r\n\r\n",
	},
	"a bad trailer": {
		says: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX Sum 7\r\n\r\n",
	},
	"no length, until the end": {says: "HTTP/1.1 200 OK\r\n\r\nok", closes: true},
	"Connection: close": {
		says: "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",
	},
	"Connection: Close, Foo": {
		says: "HTTP/1.1 200 OK\r\nConnection: Foo, Close\r\nContent-Length: 2\r\n\r\nok",
	},
	"Connection: keep-alive": {
		says: "HTTP/1.1 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok",
	},
	"closes unsaid":          {says: "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", closes: true},
	"HTTP/1.0":               {says: "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok"},
	"HTTP/1.0 until the end": {says: "HTTP/1.0 200 OK\r\n\r\nok", closes: true},
	"HTTP/1.0 keep-alive": {
		says: "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok",
	},
	"HTTP/1.0 chunks": {
		says: "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n", closes: true,
	},
	"HTTP/1.2":                {says: "HTTP/1.2 200 OK\r\nContent-Length: 2\r\n\r\nok"},
	"HTTP/2.0":                {says: "HTTP/2.0 200 OK\r\nContent-Length: 2\r\n\r\nok"},
	"HTTP/9.9":                {says: "HTTP/9.9 200 OK\r\nContent-Length: 2\r\n\r\nok", closes: true},
	"lower case":              {says: "http/1.1 200 ok\r\ncontent-length: 2\r\n\r\nok", closes: true},
	"no reason":               {says: "HTTP/1.1 200\r\nContent-Length: 2\r\n\r\nok"},
	"a status of two digits":  {says: "HTTP/1.1 20 OK\r\nContent-Length: 2\r\n\r\nok", closes: true},
	"a status of four digits": {says: "HTTP/1.1 2000 OK\r\nContent-Length: 2\r\n\r\nok", closes: true},
	"a status of letters":     {says: "HTTP/1.1 abc OK\r\nContent-Length: 2\r\n\r\nok", closes: true},
	"a negative status":       {says: "HTTP/1.1 -20 OK\r\nContent-Length: 2\r\n\r\nok", closes: true},
	"status 099":              {says: "HTTP/1.1 099 Odd\r\nContent-Length: 2\r\n\r\nok", closes: true},
	"status 999":              {says: "HTTP/1.1 999 Odd\r\nContent-Length: 2\r\n\r\nok"},
	"status 413":              {says: "HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno"},
	"204":                     {says: "HTTP/1.1 204 No Content\r\n\r\n"},
	"204 with a length": {says: "HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\n",
		closes: true},
	"204 with a body": {says: "HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\nok", closes: true},
	"304":             {says: "HTTP/1.1 304 Not Modified\r\nEtag: \"x\"\r\n\r\n"},
	"304 with a body": {says: "HTTP/1.1 304 Not Modified\r\nContent-Length: 2\r\n\r\nok",
		closes: true},
	"205 with a body":    {says: "HTTP/1.1 205 Reset Content\r\nContent-Length: 2\r\n\r\nok"},
	"nothing":            {says: "", closes: true},
	"a byte":             {says: "H", closes: true},
	"half a status line": {says: "HTTP/1.1 20", closes: true},
	"half a head":        {says: "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n", closes: true},
	"half a body":        {says: "HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\nhalf", closes: true},
	"no body":            {says: "HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n", closes: true},
	"half a chunk": {
		says: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n14\r\nhalf", closes: true,
	},
	"no last chunk": {
		says: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n", closes: true,
	},
	"half a last chunk": {
		says: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n", closes: true,
	},
	"half a trailer": {
		says: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX-Su", closes: true,
	},
	"a chunk's size in letters": {
		says: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nok\r\n0\r\n\r\n", closes: true,
	},
	"a negative chunk": {
		says: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-2\r\nok\r\n0\r\n\r\n", closes: true,
	},
	"a chunk beyond 64 bits": {
		says: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n10000000000000002\r\nok\r\n" +
			"0\r\n\r\n", closes: true,
	},
	"a chunk too long": {
		says: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nokok\r\n0\r\n\r\n", closes: true,
	},
	"chunks by bare line feeds": {says: "HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n2\nok\n0\n\n",
		closes: true},
	"more than its length": {says: "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok and more",
		closes: true},
	"more than its chunks": {
		says:   "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\nmore",
		closes: true,
	},
	"two answers at once": {
		says: "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 500 No\r\n" +
			"Content-Length: 2\r\n\r\nno", closes: true,
	},
	"the same length twice": {
		says: "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok",
	},
	"two lengths": {
		says: "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok", closes: true,
	},
	"two lengths in one": {says: "HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\n\r\nok", closes: true},
	"a negative length":  {says: "HTTP/1.1 200 OK\r\nContent-Length: -2\r\n\r\nok", closes: true},
	"a signed length":    {says: "HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nok", closes: true},
	"an empty length":    {says: "HTTP/1.1 200 OK\r\nContent-Length: \r\n\r\nok", closes: true},
	"a length beyond 64 bits": {
		says: "HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\nok", closes: true,
	},
	"a length and chunks": {
		says: "HTTP/1.1 200 OK\r\nContent-Length: 9\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n" +
			"ok\r\n0\r\n\r\n", closes: true,
	},
	"chunks twice": {
		says: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n" +
			"\r\n2\r\nok\r\n0\r\n\r\n", closes: true,
	},
	"gzip, chunked": {
		says:   "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
		closes: true,
	},
	"identity":       {says: "HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\n\r\nok", closes: true},
	"a folded field": {says: "HTTP/1.1 200 OK\r\nX-Long: a\r\n  b\r\nContent-Length: 2\r\n\r\nok"},
	"a folded first field": {says: "HTTP/1.1 200 OK\r\n X-Long: a\r\nContent-Length: 2\r\n\r\nok",
		closes: true},
	"a blank before the colon": {says: "HTTP/1.1 200 OK\r\nX-Odd : a\r\nContent-Length: 2\r\n\r\nok",
		closes: true},
	"a field without a colon": {says: "HTTP/1.1 200 OK\r\nX-Odd\r\nContent-Length: 2\r\n\r\nok",
		closes: true},
	"a field without a name": {says: "HTTP/1.1 200 OK\r\n: a\r\nContent-Length: 2\r\n\r\nok",
		closes: true},
	"a field of bytes": {
		says: "HTTP/1.1 200 OK\r\nX-Odd: \x00\x80\xff\r\nContent-Length: 2\r\n\r\nok", closes: true,
	},
	"a field many times": {says: "HTTP/1.1 200 OK\r\n" + strings.Repeat("X-Many: a\r\n", 100) +
		"Content-Length: 2\r\n\r\nok"},
	"bare line feeds":    {says: "HTTP/1.1 200 OK\nContent-Length: 2\n\nok"},
	"a blank line first": {says: "\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", closes: true},
	"no HTTP":            {says: "SSH-2.0-OpenSSH_9.2\r\n", closes: true},
	"a head of TLS":      {says: "\x15\x03\x01\x00\x02\x02\x46", closes: true},
	"a large head": {says: "HTTP/1.1 200 OK\r\nX-Large: " + strings.Repeat("x", maxHead/2) +
		"\r\nContent-Length: 2\r\n\r\nok"},
	"a head too large": {says: "HTTP/1.1 200 OK\r\nX-Large: " + strings.Repeat("x", maxHead) +
		"\r\nContent-Length: 2\r\n\r\nok", closes: true},
	"a head of many fields": {
		says: "HTTP/1.1 200 OK\r\n" + strings.Repeat("X-Many: a\r\n", maxHead) +
			"Content-Length: 2\r\n\r\nok", closes: true,
	},
	"a body beyond the head's": {says: fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s",
		10*maxHead, strings.Repeat("x", 10*maxHead))},
	"100 first": {says: "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"},
	"102 and 103 first": {
		says: "HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" +
			"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
	},
	"199 first": {
		says: "HTTP/1.1 199 Odd\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
	},
	"100 and nothing":     {says: "HTTP/1.1 100 Continue\r\n\r\n", closes: true},
	"100 and half a head": {says: "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n", closes: true},
	"interim heads, too large": {says: strings.Repeat("HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n",
		maxHead/40+1) + "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", closes: true},
	"gzip":            {says: zipped("ok", 0, "")},
	"gzip of nothing": {says: zipped("", 0, "")},
	"gzip cut off":    {says: zipped(strings.Repeat("long ", 100), 10, "")},
	"gzip and more":   {says: zipped("ok", 0, "more")},
	"gzip that is none": {
		says: "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\nok",
	},
	"deflate": {says: "HTTP/1.1 200 OK\r\nContent-Encoding: deflate\r\nContent-Length: 2\r\n\r\nok"},
}

func zipped(text string, cut int, more string) string {
	var packed bytes.Buffer
	w := gzip.NewWriter(&packed)
	_, _ = io.WriteString(w, text)
	_ = w.Close()
	packed.Truncate(packed.Len() - cut)
	packed.WriteString(more)
	return fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Encoding: GZip\r\nContent-Length: %d\r\n\r\n%s",
		packed.Len(), packed.String())
}

// requests are the requests that are sent to each of these services.
var requests = map[string]func(ctx context.Context, url string) *http.Request{
	"GET": func(ctx context.Context, url string) *http.Request {
		return newRequest(ctx, "GET", url, nil)
	},
	"HEAD": func(ctx context.Context, url string) *http.Request {
		return newRequest(ctx, "HEAD", url, nil)
	},
	"POST": func(ctx context.Context, url string) *http.Request {
		r := newRequest(ctx, "POST", url, strings.NewReader("body"))
		r.Header.Set("Accept-Encoding", "identity")
		return r
	},
	"large POST": func(ctx context.Context, url string) *http.Request {
		return newRequest(ctx, "POST", url, strings.NewReader(strings.Repeat("x", 70<<10)))
	},
	"chunked POST with trailers": func(ctx context.Context, url string) *http.Request {
		r := newRequest(ctx, "POST", url,
			io.MultiReader(strings.NewReader("bo"), strings.NewReader("dy")))
		r.Trailer = http.Header{"X-Sum": {"7"}}
		r.Header.Set("Expect", "100-continue")
		return r
	},
	"large chunked PUT": func(ctx context.Context, url string) *http.Request {
		return newRequest(ctx, "PUT", url, io.MultiReader(strings.NewReader(strings.Repeat("x", 70<<10))))
	},
	"empty POST": func(ctx context.Context, url string) *http.Request {
		return newRequest(ctx, "POST", url, http.NoBody)
	},
}

func newRequest(ctx context.Context, method, url string, body io.Reader) *http.Request {
	r, err := http.NewRequestWithContext(ctx, method, url, body)
	if err != nil {
		panic(err)
	}
	r.GetBody = nil // as the proxy's requests have none
	r.Header["User-Agent"] = []string{""}
	return r
}

// outcome is the outcome of a round trip. Errors are only told from successes, as
// the two clients word them in different ways.
type outcome struct {
	Failed       bool
	Status       string
	Proto        string
	Header       http.Header
	Length       int64
	Close        bool
	Uncompressed bool
	Body         string
	BodyFailed   bool
	Trailer      http.Header
}

func roundTrip(send func(*http.Request) (*http.Response, error), r *http.Request) outcome {
	res, err := send(r)
	if err != nil {
		return outcome{Failed: true}
	}
	defer func() { _ = res.Body.Close() }()
	body, err := io.ReadAll(res.Body)
	return outcome{
		Status: res.Status, Proto: res.Proto, Header: res.Header, Length: res.ContentLength,
		Close:        res.Close,
		Uncompressed: res.Uncompressed, Body: string(body), BodyFailed: err != nil, Trailer: res.Trailer,
	}
}

// A service listens on a socket, and notes what it is sent.
type service struct {
	addr string
	each func(s *service, conn net.Conn, reader *bufio.Reader, nth int)

	mu       sync.Mutex
	conns    int
	received []string
}

func newService(
	t testing.TB, each func(s *service, conn net.Conn, reader *bufio.Reader, nth int),
) *service {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	s := &service{addr: listener.Addr().String(), each: each}
	var running sync.WaitGroup
	running.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			s.mu.Lock()
			nth := s.conns
			s.conns++
			s.mu.Unlock()
			running.Go(func() {
				defer func() { _ = conn.Close() }()
				s.each(s, conn, bufio.NewReader(conn), nth)
			})
		}
	})
	t.Cleanup(func() {
		_ = listener.Close()
		running.Wait()
	})
	return s
}

// read reads one request to its end.
func (s *service) read(reader *bufio.Reader) bool {
	r, err := http.ReadRequest(reader)
	if err != nil {
		return false
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.received = append(s.received, fmt.Sprint(r.Method, r.RequestURI, r.Host == s.addr, r.Header,
		r.TransferEncoding, r.ContentLength, r.Trailer, len(body), crc32.ChecksumIEEE(body)))
	return true
}

// seen is how many connections there were, and the requests that came on them.
func (s *service) seen() (conns int, received []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.conns, s.received
}

// answering is a service that answers each request with the same bytes.
func answering(says string, closes bool) func(*service, net.Conn, *bufio.Reader, int) {
	return func(s *service, conn net.Conn, reader *bufio.Reader, _ int) {
		for s.read(reader) {
			_, _ = io.WriteString(conn, says)
			if closes {
				return
			}
		}
	}
}

// ours is a Client, and theirs is net/http's transport: they are compared.
func ours(t testing.TB, s *service) func(*http.Request) (*http.Response, error) {
	client := &http1.Client{
		Dial:              new(net.Dialer).DialContext,
		MaxHead:           maxHead,
		Compress:          true,
		MaxIdlePerAddress: 2,
	}
	t.Cleanup(client.Close)
	return func(r *http.Request) (*http.Response, error) {
		return client.RoundTrip(r, http1.Address{Network: "tcp", Address: s.addr})
	}
}

func theirs(t testing.TB, _ *service) func(*http.Request) (*http.Response, error) {
	transport := &http.Transport{MaxResponseHeaderBytes: maxHead, MaxIdleConnsPerHost: 2}
	t.Cleanup(transport.CloseIdleConnections)
	return transport.RoundTrip
}

func TestAsNetHTTPDoes(t *testing.T) {
	for name, answer := range answers {
		t.Run(name, func(t *testing.T) {
			for kind, request := range requests {
				// It is up to chance whether net/http notices, before it uses a connection again,
				// that it was closed or that something came unasked.
				unasked := strings.Contains(name, "more than") || strings.Contains(name, "at once") ||
					strings.Contains(name, "4 with a body") ||
					kind == "HEAD" && strings.Index(answer.says, "\r\n\r\n")+4 != len(answer.says)
				again := !unasked && (!answer.closes || kind == "GET" || kind == "HEAD")
				run := func(
					with func(testing.TB, *service) func(*http.Request) (*http.Response, error),
				) (outcomes []outcome, s *service) {
					s = newService(t, answering(answer.says, answer.closes))
					send := with(t, s)
					for range 2 {
						ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
						outcomes = append(outcomes, roundTrip(send, request(ctx, "http://"+s.addr+"/path?query")))
						cancel()
						if !again {
							break
						}
					}
					return outcomes, s
				}
				want, wantService := run(theirs)
				got, gotService := run(ours)
				require.Equal(t, want, got, kind)
				wantConns, wantReceived := wantService.seen()
				gotConns, gotReceived := gotService.seen()
				require.Equal(t, wantReceived, gotReceived, kind)
				require.Equal(t, wantConns, gotConns, "%s: connections", kind)
			}
		})
	}
}

// Whatever a service answers, a Client and net/http's transport make the same of it.
func FuzzAnswer(f *testing.F) {
	for _, answer := range answers {
		f.Add([]byte(answer.says))
	}
	says := make(chan []byte, 1)
	s := newService(f, func(s *service, conn net.Conn, reader *bufio.Reader, _ int) {
		if s.read(reader) {
			_, _ = conn.Write(<-says)
		}
	})
	mine, netHTTPs := ours(f, s), theirs(f, s)
	f.Fuzz(func(t *testing.T, answer []byte) {
		if bytes.Count(answer, []byte("HTTP/")) > http1.MaxInterim {
			t.Skip("only here is there a limit for the number of interim answers")
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		outcomes := make([]outcome, 2)
		for i, send := range []func(*http.Request) (*http.Response, error){netHTTPs, mine} {
			says <- answer
			r := newRequest(ctx, "POST", "http://"+s.addr, strings.NewReader("body"))
			r.Close = true // each has the service for itself
			outcomes[i] = roundTrip(send, r)
		}
		if strings.HasPrefix(outcomes[0].Status, "101") {
			t.Skip("what follows is no HTTP any more")
		}
		require.Equal(t, outcomes[0], outcomes[1])
	})
}

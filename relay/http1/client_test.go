package http1_test

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-deepgram/deepgram-callback/relay/http1"
)

const ok = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

func post(body string) *http.Request {
	return newRequest(context.Background(), "POST", "http://service/", strings.NewReader(body))
}

func client(t testing.TB, change func(c *http1.Client)) *http1.Client {
	c := &http1.Client{Dial: new(net.Dialer).DialContext, MaxIdlePerAddress: 2}
	if change != nil {
		change(c)
	}
	t.Cleanup(c.Close)
	return c
}

func send(c *http1.Client, s *service, r *http.Request) (*http.Response, error) {
	return c.RoundTrip(r, http1.Address{Network: "tcp", Address: s.addr})
}

func requireAnswer(t testing.TB, want string, res *http.Response, err error) {
	t.Helper()
	require.NoError(t, err)
	body, err := io.ReadAll(res.Body)
	require.NoError(t, err)
	require.Equal(t, want, string(body))
	require.NoError(t, res.Body.Close())
}

// A service may close a connection at the very moment of the next request. That is
// sent again only where it is safe.
func TestConnectionThatFailsAtItsNextRequest(t *testing.T) {
	for how, fail := range map[string]func(conn net.Conn, reader *bufio.Reader){
		"closed": func(net.Conn, *bufio.Reader) {},
		"reset":  func(conn net.Conn, _ *bufio.Reader) { _ = conn.(*net.TCPConn).SetLinger(0) },
		"after a byte of an answer": func(conn net.Conn, _ *bufio.Reader) {
			_, _ = io.WriteString(conn, "H")
		},
	} {
		for name, c := range map[string]struct {
			request *http.Request
			repeats bool
		}{
			"GET": {newRequest(context.Background(), "GET", "http://service/",
				nil), true},
			"HEAD": {newRequest(context.Background(), "HEAD",
				"http://service/", nil), true},
			"POST":                          {post("body"), false},
			"POST with an Idempotency-Key":  {post("body"), true},
			"large with an Idempotency-Key": {post(strings.Repeat("x", 200<<10)), false},
		} {
			t.Run(how+", "+name, func(t *testing.T) {
				s := newService(t, func(s *service, conn net.Conn, reader *bufio.Reader, nth int) {
					for n := 0; s.read(reader); n++ {
						if nth == 0 && n == 1 {
							fail(conn, reader)
							return
						}
						_, _ = io.WriteString(conn, ok)
					}
				})
				client := client(t, nil)
				res, err := send(client, s, post("first"))
				requireAnswer(t, "ok", res, err)
				if strings.Contains(name, "Idempotency") {
					c.request.Header.Set("Idempotency-Key", "1")
				}
				res, err = send(client, s, c.request)
				if !c.repeats || how == "after a byte of an answer" {
					require.Error(t, err)
					return
				}
				require.NoError(t, err)
				require.Equal(t, 200, res.StatusCode)
				require.NoError(t, res.Body.Close())
			})
		}
	}
}

func TestConnectionThatSaysSomethingUnaskedIsNotUsed(t *testing.T) {
	said := make(chan struct{})
	s := newService(t, func(s *service, conn net.Conn, reader *bufio.Reader, nth int) {
		for s.read(reader) {
			_, _ = io.WriteString(conn, ok)
			if nth == 0 {
				_, _ = io.WriteString(conn, "HTTP/1.1 500 Unasked\r\nContent-Length: 2\r\n\r\nno")
				close(said)
			}
		}
	})
	c := client(t, nil)
	for range 2 {
		res, err := send(c, s, post("body"))
		requireAnswer(t, "ok", res, err)
		<-said
	}
	conns, _ := s.seen()
	require.Equal(t, 2, conns)
}

// slowBody is a body that does not end until end is called.
func slowBody(beginning string) (body io.Reader, end func(error)) {
	reader, writer := io.Pipe()
	return io.MultiReader(strings.NewReader(beginning), reader), func(err error) {
		_ = writer.CloseWithError(err)
	}
}

func TestBodyComesBeforeTheConnection(t *testing.T) {
	dialled := make(chan struct{}, 1)
	s := newService(t, answering(ok, false))
	c := client(t, func(c *http1.Client) {
		c.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
			dialled <- struct{}{}
			return new(net.Dialer).DialContext(ctx, network, address)
		}
	})
	for name, length := range map[string]int64{
		"of a known length": 4,
		"in chunks":         -1,
		"of a large length": 1 << 20,
	} {
		t.Run(name, func(t *testing.T) {
			beginning := "body"
			body, end := slowBody(beginning)
			r := newRequest(context.Background(), "POST", "http://service/", body)
			r.ContentLength = length
			done := make(chan error)
			go func() {
				_, err := send(c, s, r)
				done <- err
			}()
			broken := errors.New("the sender is gone")
			end(broken)
			err := <-done
			require.ErrorIs(t, err, broken)
			require.ErrorAs(t, err, new(*http1.RequestError))
			require.Empty(t, dialled)
		})
	}
}

func TestLargeBodyThatBreaksOff(t *testing.T) {
	s := newService(t, answering(ok, false))
	body, end := slowBody(strings.Repeat("x", 100<<10))
	broken := errors.New("the sender is gone")
	end(broken)
	_, err := send(client(t, nil), s,
		newRequest(context.Background(), "POST", "http://service/", body))
	require.ErrorIs(t, err, broken)
	require.ErrorAs(t, err, new(*http1.RequestError))
	_, received := s.seen()
	require.Empty(t, received)
}

func TestWrongLengthIsTheRequestsError(t *testing.T) {
	s := newService(t, answering(ok, false))
	for _, length := range []int64{3, 5, 200 << 10} {
		r := post("body")
		r.ContentLength = length
		_, err := send(client(t, nil), s, r)
		require.ErrorAs(t, err, new(*http1.RequestError))
	}
	conns, _ := s.seen()
	require.Zero(t, conns)
}

// A service may answer without having read the request, and not read any more.
func TestAnswerBeforeTheBodyIsRead(t *testing.T) {
	for name, c := range map[string]struct {
		size   int
		buffer int
		closes bool
	}{
		"a large body":                        {8 << 20, 0, false},
		"a large body, and closes":            {8 << 20, 0, true},
		"a small body into a small window":    {60 << 10, 1, false},
		"a small one, and closes":             {60 << 10, 0, true},
		"a large one that is not there yet":   {-1, 0, false},
		"the same, and closes the connection": {-1, 0, true},
	} {
		t.Run(name, func(t *testing.T) {
			s := newService(t, func(_ *service, conn net.Conn, _ *bufio.Reader, _ int) {
				if c.buffer > 0 {
					_ = conn.(*net.TCPConn).SetReadBuffer(c.buffer)
				}
				if _, err := conn.Read(make([]byte, 1)); err != nil {
					return
				}
				_, _ = io.WriteString(conn, "HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno")
				if !c.closes {
					<-t.Context().Done()
				}
			})
			var body io.Reader = strings.NewReader(strings.Repeat("x", max(c.size, 0)))
			if c.size < 0 {
				var end func(error)
				body, end = slowBody(strings.Repeat("x", 64<<10))
				defer end(io.EOF)
			}
			r := newRequest(context.Background(), "POST", "http://service/", body)
			r.ContentLength = int64(c.size)
			if c.size < 0 {
				r.ContentLength = 1 << 20
			}
			res, err := send(client(t, nil), s, r)
			require.NoError(t, err)
			require.Equal(t, 413, res.StatusCode)
			requireAnswer(t, "no", res, nil)
		})
	}
}

func TestInterimAnswersAreLimited(t *testing.T) {
	const interim = "HTTP/1.1 103 Early Hints\r\n\r\n"
	for count, fails := range map[int]bool{http1.MaxInterim: false, http1.MaxInterim + 1: true} {
		s := newService(t, answering(strings.Repeat(interim, count)+ok, false))
		seen := 0
		ctx := httptrace.WithClientTrace(context.Background(), &httptrace.ClientTrace{
			Got1xxResponse: func(int, textproto.MIMEHeader) error { seen++; return nil },
		})
		res, err := send(client(t, nil), s, post("body").WithContext(ctx))
		if fails {
			require.ErrorContains(t, err, "interim answers")
			continue
		}
		requireAnswer(t, "ok", res, err)
		require.Equal(t, count, seen)
	}
	endless := newService(t, func(s *service, conn net.Conn, reader *bufio.Reader, _ int) {
		s.read(reader)
		for {
			if _, err := io.WriteString(conn, interim); err != nil {
				return
			}
		}
	})
	_, err := send(client(t, nil), endless, post("body"))
	require.ErrorContains(t, err, "interim answers")
}

func TestHeadHasItsTimeAndTheBodyItsOwn(t *testing.T) {
	release := make(chan struct{})
	s := newService(t, func(s *service, conn net.Conn, reader *bufio.Reader, nth int) {
		for s.read(reader) && nth > 0 {
			_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n")
			<-release
			_, _ = io.WriteString(conn, "ok")
		}
		_, _ = conn.Read(make([]byte, 1))
	})
	c := client(t, func(c *http1.Client) { c.HeadTimeout = 200 * time.Millisecond })
	_, err := send(c, s, post("body"))
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	timeout, isTimeout := err.(net.Error) //nolint:errorlint // as the proxy asks
	require.True(t, isTimeout && timeout.Timeout())

	for _, size := range []int{4, 300 << 10} {
		c.HeadTimeout = 500 * time.Millisecond
		res, err := send(c, s, post(strings.Repeat("x", size)))
		require.NoError(t, err)
		time.AfterFunc(2*c.HeadTimeout, func() { release <- struct{}{} })
		requireAnswer(t, "ok", res, nil)
	}
}

func TestRequestThatIsGivenUp(t *testing.T) {
	for name, says := range map[string]string{
		"before an answer": "",
		"in its body":      "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\no",
	} {
		t.Run(name, func(t *testing.T) {
			gone := make(chan struct{})
			ctx, cancel := context.WithCancelCause(context.Background())
			why := errors.New("enough")
			s := newService(t, func(s *service, conn net.Conn, reader *bufio.Reader, _ int) {
				s.read(reader)
				_, _ = io.WriteString(conn, says)
				if says == "" {
					cancel(why)
				}
				_, _ = conn.Read(make([]byte, 1))
				close(gone)
			})
			res, err := send(client(t, nil), s, post("body").WithContext(ctx))
			if says != "" {
				require.NoError(t, err)
				_, err = res.Body.Read(make([]byte, 1))
				require.NoError(t, err)
				cancel(why)
				_, err = io.ReadAll(res.Body)
			}
			require.ErrorIs(t, err, why)
			<-gone

			_, err = send(client(t, nil), s, post("body").WithContext(ctx))
			require.ErrorIs(t, err, why)
		})
	}
}

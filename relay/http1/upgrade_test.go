package http1_test

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-deepgram/deepgram-callback/relay/http1"
)

const switching = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"

func upgrade(ctx context.Context, c *http1.Client, s *service) (
	*http.Response, net.Conn, []byte, error,
) {
	r := newRequest(ctx, "GET", "http://service/live", nil)
	r.Header.Set("Connection", "Upgrade")
	r.Header.Set("Upgrade", "websocket")
	return c.Upgrade(r, http1.Address{Network: "tcp", Address: s.addr})
}

// saying is a service that answers each request with a text, and says back what comes behind.
func saying(t testing.TB, text string) *service {
	return newService(t, func(s *service, conn net.Conn, reader *bufio.Reader, _ int) {
		if s.read(reader) {
			_, _ = io.WriteString(conn, text)
			_, _ = io.Copy(conn, reader)
		}
	})
}

func TestUpgradeHandsTheConnectionOver(t *testing.T) {
	for name, behind := range map[string]string{
		"nothing behind": "", "a word behind": "hello", "much behind": strings.Repeat("x", 100_000),
	} {
		t.Run(name, func(t *testing.T) {
			s := saying(t, "HTTP/1.1 103 Early Hints\r\n\r\n"+switching+behind)
			c := client(t, func(c *http1.Client) { c.HeadTimeout = time.Minute })
			ctx, cancel := context.WithCancel(context.Background())
			res, conn, buffered, err := upgrade(ctx, c, s)
			require.NoError(t, err)
			defer func() { _ = conn.Close() }()
			require.Equal(t, http.StatusSwitchingProtocols, res.StatusCode)
			require.Equal(t, "websocket", res.Header.Get("Upgrade"))
			cancel() // changes nothing any more
			rest := make([]byte, len(behind)-len(buffered))
			_, err = io.ReadFull(conn, rest)
			require.NoError(t, err)
			require.Equal(t, behind, string(buffered)+string(rest))

			_, err = io.WriteString(conn, "ping")
			require.NoError(t, err)
			echo := make([]byte, 4)
			_, err = io.ReadFull(conn, echo)
			require.NoError(t, err)
			require.Equal(t, "ping", string(echo))
		})
	}
}

// A connection that was used before is not used for it, and another answer is an ordinary one.
func TestUpgradeThatIsRefused(t *testing.T) {
	connections := 0
	s := newService(t, func(s *service, conn net.Conn, reader *bufio.Reader, nth int) {
		connections = nth + 1
		for s.read(reader) {
			_, _ = io.WriteString(conn, ok)
		}
	})
	c := client(t, nil)
	res, err := send(c, s, post("first"))
	requireAnswer(t, "ok", res, err)
	res, conn, buffered, err := upgrade(context.Background(), c, s)
	requireAnswer(t, "ok", res, err)
	require.Nil(t, conn)
	require.Empty(t, buffered)
	require.Equal(t, 2, connections)
}

func TestUpgradeThatGetsNoAnswer(t *testing.T) {
	silent := newService(t, func(s *service, _ net.Conn, reader *bufio.Reader, _ int) {
		_, _ = io.Copy(io.Discard, reader)
	})
	c := client(t, func(c *http1.Client) { c.HeadTimeout = 20 * time.Millisecond })
	_, _, _, err := upgrade(context.Background(), c, silent)
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)

	errEnough := errors.New("enough")
	ctx, cancel := context.WithCancelCause(context.Background())
	time.AfterFunc(10*time.Millisecond, func() { cancel(errEnough) })
	_, _, _, err = upgrade(ctx, client(t, nil), silent)
	require.ErrorIs(t, err, errEnough)

	_, _, _, err = upgrade(context.Background(), client(t, nil), saying(t, "garbage\r\n\r\n"))
	require.Error(t, err)
	closing := newService(t, func(s *service, _ net.Conn, reader *bufio.Reader, _ int) { s.read(reader) })
	_, _, _, err = upgrade(context.Background(), client(t, nil), closing)
	require.Error(t, err)
}

package simulator

import (
	"bytes"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/stretchr/testify/require"
)

// newTLSReceiver runs a server that takes POSTs and WebSockets, and returns the file with its
// certificate, which clients have to trust.
func newTLSReceiver(
	t *testing.T,
) (server *httptest.Server, got chan *http.Request, conns chan *websocket.Conn, authority string) {
	t.Helper()
	got, conns = make(chan *http.Request, 10), make(chan *websocket.Conn, 1)
	server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got <- r
		if !websocket.IsWebSocketUpgrade(r) {
			return
		}
		conn, err := new(websocket.Upgrader).Upgrade(w, r, nil)
		if err != nil {
			return
		}
		t.Cleanup(func() { _ = conn.Close() })
		conns <- conn
	}))
	t.Cleanup(server.Close)
	authority = filepath.Join(t.TempDir(), "ca.pem")
	encoded := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	require.NoError(t, os.WriteFile(authority, encoded, 0o600))
	return server, got, conns, authority
}

func TestCallbackByHTTPS(t *testing.T) {
	server, got, _, authority := newTLSReceiver(t)
	e := serve(t, &Simulator{RootCAPEMFiles: []string{authority}})
	e.post("/v1/listen", "audio/wav", bytes.NewReader(wav(1, 8000, 1)), "callback", server.URL)
	require.Equal(t, "HTTP/1.1", take(t, got).Proto)
}

func TestStreamByWSS(t *testing.T) {
	server, _, conns, authority := newTLSReceiver(t)
	e := serve(t, &Simulator{RootCAPEMFiles: []string{authority}})
	speaker, _ := e.speak(append(raw, "callback", strings.Replace(server.URL, "https", "wss", 1))...)
	callback := take(t, conns)
	sayLinear16(t, speaker, 3, 3200)
	say(t, speaker, `{"type":"CloseStream"}`)
	h := listenTo(callback)
	requireClosed(t, h.err, websocket.CloseNormalClosure)
	require.Contains(t, h.transcript(), "This is a simulated")
}

func TestReceiverThatIsNotTrustedGetsNothing(t *testing.T) {
	server, got, _, _ := newTLSReceiver(t)
	e := serve(t, &Simulator{Retries: new(1)})
	e.post("/v1/listen", "audio/wav", bytes.NewReader(wav(1, 8000, 1)), "callback", server.URL)
	require.Eventually(t, func() bool { return e.logs.FilterMessage("callback lost").Len() == 1 },
		patience, time.Millisecond)
	_, resp, err := e.dialStream(append(raw, "callback",
		strings.Replace(server.URL, "https", "wss", 1))...)
	require.ErrorIs(t, err, websocket.ErrBadHandshake)
	require.Equal(t, http.StatusBadGateway, resp.StatusCode)
	require.Empty(t, got)
}

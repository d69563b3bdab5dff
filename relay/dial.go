package relay

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp/reverseproxy"
	"golang.org/x/net/http/httpguts"

	"github.com/caddy-deepgram/deepgram-callback/relay/deadline"
)

// A Backend is the connection to a service that accepted a WebSocket
// handshake.
type Backend struct {
	Conn     net.Conn
	Buffered []byte // what came right behind the handshake
	// ReadTimeout and WriteTimeout are what the transport is configured with
	// for connections, or zero. They held until now; from here on it is
	// whoever has Conn that keeps them.
	ReadTimeout, WriteTimeout time.Duration
	Upstream                  string // the address that was dialled
	// Header is what the service answered, after the proxy's header_down
	// operations.
	Header http.Header
}

// Dial performs the WebSocket handshake of r with a service, chosen and retried
// as the proxy's configuration says, before the sender's own handshake is
// answered. backend is nil, without an error, where the service answered in
// any way but 101: then w has that answer.
func (p *Proxy) Dial(w http.ResponseWriter, r *http.Request) (backend *Backend, err error) {
	d := new(dial)
	aw := &answerWriter{passage: passage{ResponseWriter: w, dial: d}}
	err = p.through(&aw.passage, aw, r)
	if d.backend == nil {
		return nil, err
	}
	if err != nil {
		d.backend.Conn.Close()
		return nil, err
	}
	d.backend.Header = aw.header
	return d.backend, nil
}

// dial is carried by a handshake's passage from Dial to the transport and back.
type dial struct {
	backend *Backend
}

var errNotUpgraded = errors.New("the service answered 101, but not with a WebSocket")

// roundTrip performs one attempt at the handshake. An accepted one is kept and
// shown to the proxy as an empty answer: at a 101 the proxy would take the
// sender's connection over and copy bytes itself.
func (d *dial) roundTrip(h *handshakes, r *http.Request) (*http.Response, error) {
	res, conn, err := h.shake(r)
	if err != nil || res.StatusCode != http.StatusSwitchingProtocols {
		return res, err
	}
	if conn == nil || !httpguts.HeaderValuesContainsToken(res.Header["Upgrade"], "websocket") {
		res.Body.Close()
		return nil, errNotUpgraded
	}
	buffered, err := takeBuffered(res.Body, conn)
	if err != nil {
		res.Body.Close()
		return nil, fmt.Errorf("taking over the connection: %w", err)
	}
	if d.backend != nil { // an lb_retry_match asked for another attempt
		d.backend.Conn.Close()
	}
	d.backend = &Backend{Buffered: buffered}
	d.backend.Conn, d.backend.ReadTimeout, d.backend.WriteTimeout = deadline.Lift(conn)
	if info, ok := reverseproxy.GetDialInfo(r.Context()); ok {
		d.backend.Upstream = info.Address
	}
	res.StatusCode, res.Status = http.StatusNoContent, ""
	res.Body, res.ContentLength = http.NoBody, 0
	return res, nil
}

// takeBuffered returns what the transport has read from conn beyond the
// handshake. Only body knows of it, and it reads from conn next, so conn is
// made to time out at once.
func takeBuffered(body io.Reader, conn net.Conn) ([]byte, error) {
	if err := conn.SetReadDeadline(time.Unix(1, 0)); err != nil {
		return nil, err
	}
	buffered, err := io.ReadAll(body)
	var timeout net.Error
	if !errors.As(err, &timeout) || !timeout.Timeout() {
		return nil, errors.Join(errNotUpgraded, err)
	}
	return buffered, conn.SetReadDeadline(time.Time{})
}

// handshakes sends WebSocket handshakes, each on a connection of its own: one
// that has carried anything before may be closed by its service at the very
// moment of the handshake, and a handshake lost is a call lost.
type handshakes struct {
	transport http.RoundTripper
	// timeout is how long a service may take to answer. One that takes longer
	// is as good as dead to a live stream, and the sender should hear so while
	// it is still waiting itself.
	timeout time.Duration
}

// newHandshakes makes handshakes through inner; settings are inner's, where
// that is Caddy's transport for HTTP.
func newHandshakes(inner http.RoundTripper, settings *reverseproxy.HTTPTransport) *handshakes {
	h := &handshakes{transport: inner, timeout: 10 * time.Second}
	if settings != nil {
		fresh := settings.Transport.Clone()
		fresh.DisableKeepAlives = true // which goes unsaid in the header of a handshake
		// Its buffers are used for the handshake alone: those of net/http, of
		// 4 KiB each, would be a sixth of all that opening a stream allocates.
		if fresh.WriteBufferSize == 0 {
			fresh.WriteBufferSize = 2 << 10
		}
		if fresh.ReadBufferSize == 0 {
			fresh.ReadBufferSize = 1 << 10
		}
		h.transport = &freshTransport{fresh, settings}
	}
	return h
}

// freshTransport keeps no connection for a second request.
type freshTransport struct {
	*http.Transport
	settings *reverseproxy.HTTPTransport
}

// RoundTrip implements [http.RoundTripper].
func (t *freshTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	t.settings.SetScheme(r)
	return t.Transport.RoundTrip(r)
}

// shake sends a handshake and returns the service's answer, and the connection
// on which that came. The time limit ends with the head of the answer: what
// else a service may answer is not limited.
func (h *handshakes) shake(r *http.Request) (res *http.Response, conn net.Conn, err error) {
	ctx, cancel := limitInterim(r.Context())
	limit := time.AfterFunc(h.timeout, func() { cancel(context.DeadlineExceeded) })
	res, err = h.transport.RoundTrip(r.WithContext(httptrace.WithClientTrace(ctx,
		&httptrace.ClientTrace{
			GotConn: func(info httptrace.GotConnInfo) { conn = info.Conn },
		})))
	if limit.Stop() {
		return res, conn, causeOf(ctx, err)
	}
	if err == nil {
		res.Body.Close()
	}
	return nil, nil, context.DeadlineExceeded
}

// answerWriter is what the proxy answers a handshake into: an answer for the
// sender, unless the handshake was accepted.
type answerWriter struct {
	passage
	header http.Header // instead of the sender's, once accepted
}

// Header implements [http.ResponseWriter].
func (w *answerWriter) Header() http.Header {
	if w.dial.backend == nil {
		return w.ResponseWriter.Header()
	}
	if w.header == nil {
		w.header = make(http.Header)
	}
	return w.header
}

// WriteHeader implements [http.ResponseWriter].
func (w *answerWriter) WriteHeader(status int) {
	if w.dial.backend == nil {
		w.passage.WriteHeader(status)
	}
}

// Write implements [http.ResponseWriter].
func (w *answerWriter) Write(p []byte) (int, error) {
	if w.dial.backend == nil {
		return w.ResponseWriter.Write(p)
	}
	return len(p), nil
}

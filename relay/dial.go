// The opening handshake of a stream with its backend.

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

// A Backend is the connection to a service that has accepted a WebSocket
// handshake. Whoever gets it closes Conn.
type Backend struct {
	Conn     net.Conn
	Buffered []byte // what came right behind the handshake

	// ReadTimeout and WriteTimeout are the limits that the transport's
	// configuration sets for connections, or zero. Conn does not keep them any
	// more: that is up to whoever gets it.
	ReadTimeout, WriteTimeout time.Duration

	// Upstream is the address that was dialled.
	Upstream string

	// Header is the header of the service's answer, after the proxy's
	// header_down operations.
	Header http.Header
}

// Dial performs the WebSocket handshake of r with a service, which is chosen, and tried again, as
// the proxy's configuration says. The sender's own handshake is not answered here. Where the
// service answers anything but 101, backend is nil without an error, and w has that answer. Dial
// blocks until the service answers, for 10 seconds at most for each upstream that is tried.
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

// dial brings the backend of a handshake from the transport to Dial: it is a part
// of the handshake's passage.
type dial struct {
	backend *Backend
}

var errNotUpgraded = errors.New("the service answered 101, but not with a WebSocket")

// roundTrip makes one attempt at the handshake. If it is accepted, the connection is kept in d, and
// the proxy gets an empty answer: for a 101 it would take the sender's connection over, and copy
// bytes itself.
func (d *dial) roundTrip(h *handshakes, r *http.Request) (*http.Response, error) {
	res, conn, buffered, err := h.shake(r)
	if err != nil || res.StatusCode != http.StatusSwitchingProtocols {
		return res, err
	}
	if !httpguts.HeaderValuesContainsToken(res.Header["Upgrade"], "websocket") {
		conn.Close()
		return nil, errNotUpgraded
	}
	if d.backend != nil { // lb_retry_match has asked for another attempt
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

// handshakes sends WebSocket handshakes, each on a new connection. A service may close a connection
// that was used before at the very moment of the handshake, and where a handshake fails, a call is
// lost.
type handshakes struct {
	// plain sends those to services that speak plain HTTP/1.1. net/http's transport has three
	// goroutines for each connection, which for a handshake alone are some 8 % of what opening a
	// stream costs.
	plain     *plain
	transport http.RoundTripper

	// timeout is how long a service may take to answer. One that takes longer is
	// of no use to a live stream, and the sender should get an answer while it
	// still waits for one.
	timeout time.Duration
}

// newHandshakes sends handshakes by plain, where that is possible, or else through the transport
// inner. Where that is Caddy's for HTTP, settings are it.
func newHandshakes(
	plain *plain, inner http.RoundTripper, settings *reverseproxy.HTTPTransport,
) *handshakes {
	h := &handshakes{plain: plain, transport: inner, timeout: 10 * time.Second}
	if settings != nil {
		fresh := settings.Transport.Clone()
		fresh.DisableKeepAlives = true // net/http adds no `Connection: close` to a handshake
		// The buffers are used for the handshake alone. Those of net/http, of 4 KiB
		// each, would be a sixth of all memory that opening a stream allocates.
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

// shake sends a handshake, and returns the service's answer. Where that is a 101, conn is the
// connection on which it came, and buffered what was read behind it. The time limit is for the
// head of the answer: a body behind that has none.
func (h *handshakes) shake(r *http.Request) (
	res *http.Response, conn net.Conn, buffered []byte, err error,
) {
	ctx, cancel := context.WithCancelCause(r.Context())
	limit := time.AfterFunc(h.timeout, func() { cancel(context.DeadlineExceeded) })
	if to, ok := h.plain.target(r); ok {
		res, conn, buffered, err = h.plain.client.Upgrade(r.WithContext(ctx), to)
	} else {
		res, conn, buffered, err = h.shakeThrough(r.WithContext(ctx))
	}
	if limit.Stop() {
		return res, conn, buffered, err
	}
	switch {
	case conn != nil:
		conn.Close()
	case err == nil:
		res.Body.Close()
	}
	return nil, nil, nil, context.DeadlineExceeded
}

// shakeThrough sends a handshake through the transport.
func (h *handshakes) shakeThrough(r *http.Request) (
	res *http.Response, conn net.Conn, buffered []byte, err error,
) {
	ctx, _ := limitInterim(r.Context())
	res, err = h.transport.RoundTrip(r.WithContext(httptrace.WithClientTrace(ctx,
		&httptrace.ClientTrace{
			GotConn: func(info httptrace.GotConnInfo) { conn = info.Conn },
		})))
	if err != nil {
		return nil, nil, nil, causeOf(ctx, err)
	}
	if res.StatusCode != http.StatusSwitchingProtocols {
		return res, nil, nil, nil
	}
	if conn == nil {
		res.Body.Close()
		return nil, nil, nil, errNotUpgraded
	}
	if buffered, err = takeBuffered(res.Body, conn); err != nil {
		res.Body.Close()
		return nil, nil, nil, fmt.Errorf("taking over the connection: %w", err)
	}
	return res, conn, buffered, nil
}

// takeBuffered returns what the transport has read from conn beyond the handshake. Only body yields
// that. Behind it, body reads from conn, so conn is made to time out at once.
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

// answerWriter is where the proxy writes the answer to a handshake. It goes to the
// sender, unless the handshake was accepted: then only its header is kept.
type answerWriter struct {
	passage
	header http.Header // the header of the answer that accepts the handshake
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

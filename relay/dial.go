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
)

// A Backend is the connection to a service that accepted a WebSocket
// handshake.
type Backend struct {
	Conn     net.Conn
	Buffered []byte // what came right behind the handshake
	Upstream string // the address that was dialled
	// Header is what the service answered, after the proxy's header_down
	// operations.
	Header http.Header
}

// handshakeTimeout is how long a service may take to answer a handshake. A
// service that takes longer is as good as dead to a live stream, and the sender
// should hear so while it is still waiting itself.
var handshakeTimeout = 10 * time.Second // a variable for tests

// Dial performs the WebSocket handshake of r with a service, chosen and retried
// as the proxy's configuration says, before the sender's own handshake is
// answered. backend is nil, without an error, where the service answered in
// any way but 101: then w has that answer.
func (p *Proxy) Dial(w http.ResponseWriter, r *http.Request) (backend *Backend, err error) {
	d := new(dial)
	ctx := context.WithValue(r.Context(), dialKey{}, d)
	aw := &answerWriter{ResponseWriter: w, dial: d}
	err = p.handler.ServeHTTP(aw, r.WithContext(ctx), nothing)
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

type dialKey struct{}

// dial is carried by a handshake's context from Dial to the transport and back.
type dial struct {
	backend *Backend
}

var errNotUpgraded = errors.New("the service answered 101, but not with a WebSocket")

// roundTrip performs one attempt at the handshake. An accepted one is kept and
// shown to the proxy as an empty answer: at a 101 the proxy would take the
// sender's connection over and copy bytes itself.
func (d *dial) roundTrip(t *transport, r *http.Request) (*http.Response, error) {
	res, conn, err := shakeHands(t, r)
	if err != nil || res.StatusCode != http.StatusSwitchingProtocols {
		return res, err
	}
	if !httpguts.HeaderValuesContainsToken(res.Header["Upgrade"], "websocket") {
		res.Body.Close()
		return nil, errNotUpgraded
	}
	var buffered []byte
	if body, ok := res.Body.(*upgradedBody); ok {
		conn, buffered, err = body.take()
	} else {
		buffered, err = takeBuffered(res.Body, conn)
	}
	if err != nil {
		res.Body.Close()
		return nil, fmt.Errorf("taking over the connection: %w", err)
	}
	if d.backend != nil { // an lb_retry_match asked for another attempt
		d.backend.Conn.Close()
	}
	d.backend = &Backend{Conn: conn, Buffered: buffered}
	if info, ok := reverseproxy.GetDialInfo(r.Context()); ok {
		d.backend.Upstream = info.Address
	}
	res.StatusCode, res.Status = http.StatusNoContent, ""
	res.Body, res.ContentLength = http.NoBody, 0
	return res, nil
}

// shakeHands sends the handshake. conn is the connection that a transport of
// net/http used for it.
func shakeHands(t *transport, r *http.Request) (res *http.Response, conn net.Conn, err error) {
	if to, ok := t.plain.target(r); ok {
		res, err = t.plain.roundTrip(r, to, handshakeTimeout)
		return res, nil, err
	}
	// The time limit has to end with the head of the answer: what else the
	// service may answer is not limited.
	ctx, cancel := context.WithCancelCause(r.Context())
	limit := time.AfterFunc(handshakeTimeout, func() { cancel(context.DeadlineExceeded) })
	res, err = t.RoundTripper.RoundTrip(r.WithContext(httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GotConn: func(info httptrace.GotConnInfo) { conn = info.Conn },
	})))
	if limit.Stop() || err == nil {
		return res, conn, err
	}
	return nil, nil, context.DeadlineExceeded
}

// takeBuffered returns what the transport has read from conn beyond the
// handshake. Only body knows of it, and it reads from conn next, so conn is
// made to time out at once.
func takeBuffered(body io.Reader, conn net.Conn) ([]byte, error) {
	if conn == nil {
		return nil, errNotUpgraded
	}
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

// answerWriter is what the proxy answers a handshake into: an answer for the
// sender, unless the handshake was accepted.
type answerWriter struct {
	http.ResponseWriter
	dial   *dial
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
		w.ResponseWriter.WriteHeader(status)
	}
}

// Write implements [http.ResponseWriter].
func (w *answerWriter) Write(p []byte) (int, error) {
	if w.dial.backend == nil {
		return w.ResponseWriter.Write(p)
	}
	return len(p), nil
}

// Unwrap lets [http.ResponseController] flush an answer that is the sender's.
func (w *answerWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

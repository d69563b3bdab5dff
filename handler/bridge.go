// The bridge: a streaming callback's way from its handshake to a live pair.

package handler

import (
	"crypto/sha1" //nolint:gosec // RFC 6455 asks for it, not for security
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-deepgram/deepgram-callback/app"
	"github.com/caddy-deepgram/deepgram-callback/auth"
	"github.com/caddy-deepgram/deepgram-callback/internal/sender"
	"github.com/caddy-deepgram/deepgram-callback/relay"
	"github.com/caddy-deepgram/deepgram-callback/relay/stream"
)

// bridge joins a caller's WebSocket with one to the backend. The backend is dialled before the
// caller's handshake is answered, so that the answer for a dead one is an honest 502. bridge
// returns when both handshakes are done: the pair then lives on by itself, and needs nothing of the
// request.
func (h *Handler) bridge(w http.ResponseWriter, r *http.Request, admission auth.Admission) error {
	if err := h.checkHandshake(r, admission); err != nil {
		return h.refuse(w, r, err)
	}
	release, err := h.app.Process().Streams.Reserve(h.streamRoute, h.Stream.MaxStreams)
	if err != nil {
		reason := app.ReasonMaxStreams
		if errors.Is(err, app.ErrShuttingDown) {
			reason = app.ReasonShuttingDown
		}
		return h.refuse(w, r, unavailable(reason, err, 5*time.Second))
	}
	open := h.open
	if h.Stream.Spool {
		open = h.openIntoInbox
	}
	live, err := open(w, r, admission, release)
	if !live {
		release()
	}
	return err
}

// open performs the two handshakes and joins the connections. live reports whether it succeeded:
// then release, which gives back the stream's place under max_streams, is called when the stream
// ends.
func (h *Handler) open(
	w http.ResponseWriter, r *http.Request, admission auth.Admission, release func(),
) (live bool, err error) {
	offered := r.Header["Sec-Websocket-Protocol"]
	accept := acceptKey(r.Header.Get("Sec-Websocket-Key"))
	// Frames are checked by the rules of RFC 6455 alone, so no extension is offered.
	r.Header.Del("Sec-Websocket-Extensions")
	r, chosen := withChoice(r)
	defer chosen.release()

	backend, err := h.streaming.Dial(w, r)
	if broken := (*relay.RequestError)(nil); errors.As(err, &broken) {
		return false, h.refuse(w, r, broken)
	}
	if err != nil || backend == nil {
		return false, err
	}
	if err := checkAnswer(backend.Header, accept, offered); err != nil {
		backend.Conn.Close()
		return false, caddyhttp.Error(http.StatusBadGateway,
			fmt.Errorf("handshake with %s: %w", backend.Upstream, err))
	}
	caller, err := answer(w, backend.Header, h.limits.WriteTimeout)
	if err != nil {
		backend.Conn.Close()
		return false, err
	}
	to := stream.Endpoint{
		Conn:         backend.Conn,
		Buffered:     backend.Buffered,
		ReadTimeout:  backend.ReadTimeout,
		WriteTimeout: backend.WriteTimeout,
	}
	h.join(r, admission, app.StreamInfo{Upstream: backend.Upstream}, caller, to,
		func(stream.End) { release() })
	return true, nil
}

// join makes a live stream of two connections. info has what only one kind of streams has.
func (h *Handler) join(
	r *http.Request, admission auth.Admission, info app.StreamInfo, caller, to stream.Endpoint,
	onEnd func(stream.End),
) {
	if admission.BodySecret {
		caller.Admit = h.admitMessage
	}
	app.CountRequest(kindStream, outcomeAdmitted)
	info.Route = h.streamRoute
	info.User = strings.Clone(admission.User) // not a part of a string with the password
	info.ClientIP = sender.IP(r)
	info.Path = r.URL.Path
	info.Drain = time.Duration(h.Stream.Drain)
	h.app.Process().Streams.Open(info, caller, to, h.limits, onEnd)
}

// admitMessage looks for the callback secret in a message of a stream, as stream.Admit. A message
// without a place for one, as some of Deepgram's are, does not decide.
func (h *Handler) admitMessage(message []byte) (admitted bool, err error) {
	err = h.VerifyMessage(message)
	var denied *auth.Refusal
	if errors.As(err, &denied) && denied.Reason == auth.ReasonCallbackSecretMissing {
		return false, nil
	}
	return err == nil, err
}

// checkHandshake refuses a handshake that breaks the rules (RFC 6455, section
// 4.2.1), or does not show who is calling.
func (h *Handler) checkHandshake(r *http.Request, admission auth.Admission) error {
	if !r.ProtoAtLeast(1, 1) || r.ProtoMajor != 1 || r.ContentLength != 0 {
		return badHandshake("a WebSocket opens with a GET of HTTP/1.1 without a body")
	}
	// Version and key may stand only once (sections 11.3.5 and 11.3.1): of two,
	// the backend might take the other one.
	if version := r.Header["Sec-Websocket-Version"]; len(version) != 1 || version[0] != "13" {
		return &auth.Refusal{
			Status: http.StatusUpgradeRequired,
			Reason: app.ReasonHandshake,
			Header: http.Header{spelling("Sec-Websocket-Version"): {"13"}, "Upgrade": {"websocket"},
				"Connection": {"Upgrade"}},
			Cause: errors.New("a version of the WebSocket protocol other than 13"),
		}
	}
	if !validKey(r.Header["Sec-Websocket-Key"]) {
		return badHandshake("a Sec-WebSocket-Key that is not 16 bytes in base64")
	}
	if admission.BodySecret && !admission.Identified {
		return h.BodySecretMissing()
	}
	return nil
}

func badHandshake(detail string) error {
	return &auth.Refusal{
		Status: http.StatusBadRequest,
		Reason: app.ReasonHandshake,
		Cause:  errors.New(detail),
	}
}

func validKey(values []string) bool {
	if len(values) != 1 {
		return false
	}
	key, err := base64.StdEncoding.DecodeString(values[0])
	return err == nil && len(key) == 16
}

// acceptKey is the answer to a Sec-WebSocket-Key (RFC 6455, section 4.2.2).
func acceptKey(key string) string {
	const guid = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
	sum := sha1.Sum([]byte(key + guid)) //nolint:gosec // see the import
	return base64.StdEncoding.EncodeToString(sum[:])
}

// checkAnswer checks a backend's answer to the handshake as RFC 6455, section 4.1,
// wants a client to do.
func checkAnswer(header http.Header, accept string, offered []string) error {
	if header.Get("Sec-Websocket-Accept") != accept {
		return errors.New("a wrong Sec-WebSocket-Accept")
	}
	if header.Get("Sec-Websocket-Extensions") != "" {
		return errors.New("an extension that was not offered")
	}
	if chosen := header["Sec-Websocket-Protocol"]; len(chosen) > 0 && !offers(offered, chosen) {
		return fmt.Errorf("a subprotocol that was not offered: %q", chosen)
	}
	return nil
}

// offers reports whether exactly one subprotocol was chosen, and was offered.
func offers(offered, chosen []string) bool {
	if len(chosen) != 1 {
		return false
	}
	for _, line := range offered {
		for name := range strings.SplitSeq(line, ",") {
			if strings.TrimSpace(name) == strings.TrimSpace(chosen[0]) {
				return true
			}
		}
	}
	return false
}

// answer accepts the caller's handshake with the header of the backend's answer, and takes its
// connection over. It blocks until the caller takes the answer, for limit at most.
func answer(
	w http.ResponseWriter, header http.Header, limit time.Duration,
) (stream.Endpoint, error) {
	// The connection is taken from net/http's own writer, past those that Caddy has put around it.
	// Taken through the recorder of the access log, it would count bytes, without a lock, while
	// the log line is written, and keep the recorder in memory for as long as the stream lives.
	inner := innermost(w)
	hijacker, ok := inner.(http.Hijacker)
	if !ok {
		return stream.Endpoint{}, caddyhttp.Error(http.StatusInternalServerError,
			fmt.Errorf("%T has no connection to hijack", inner))
	}
	for name, values := range header {
		w.Header().Del(name)
		w.Header()[spelling(name)] = values
	}
	w.Header().Del("Content-Length")
	w.Header().Set("Connection", "Upgrade")
	w.Header().Set("Upgrade", "websocket")
	// The status does go through all writers, so that the access log says 101.
	w.WriteHeader(http.StatusSwitchingProtocols)

	// Hijack writes the head of the answer before it hands the connection over, and then removes
	// the deadline. It does not tell whether the write succeeded. If the caller is gone, the pair
	// notices; but a caller that has taken only part of the head must get nothing behind it.
	deadline := time.Now().Add(limit)
	_ = http.NewResponseController(inner).SetWriteDeadline(deadline) // every server's writer can
	conn, rw, err := hijacker.Hijack()
	if err != nil {
		return stream.Endpoint{}, caddyhttp.Error(http.StatusInternalServerError,
			fmt.Errorf("taking over the connection: %w", err))
	}
	if !time.Now().Before(deadline) {
		stream.Abort(conn)
	}
	buffered, _ := rw.Reader.Peek(rw.Reader.Buffered())
	return stream.Endpoint{Conn: conn, Buffered: slices.Clone(buffered)}, nil
}

// spelling is how a header field of a handshake is written in RFC 6455, and by Caddy's own proxy.
// The case of a field's name has no meaning, but there are clients that compare it.
func spelling(name string) string {
	switch name {
	case "Sec-Websocket-Accept":
		return "Sec-WebSocket-Accept"
	case "Sec-Websocket-Protocol":
		return "Sec-WebSocket-Protocol"
	case "Sec-Websocket-Version":
		return "Sec-WebSocket-Version"
	}
	return name
}

// innermost is the writer that net/http has given to Caddy.
func innermost(w http.ResponseWriter) http.ResponseWriter {
	for {
		wrapper, ok := w.(interface{ Unwrap() http.ResponseWriter })
		if !ok {
			return w
		}
		w = wrapper.Unwrap()
	}
}

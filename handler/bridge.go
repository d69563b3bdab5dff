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

// bridge joins a caller's WebSocket to one of the backend. The backend is
// dialled before the caller is answered, so that a dead one is an honest 502.
// Once both have their answers nothing of the request is needed any more: the
// pair lives on by itself.
func (h *Handler) bridge(w http.ResponseWriter, r *http.Request, admission auth.Admission) error {
	if err := h.checkHandshake(r, admission); err != nil {
		return h.refuse(w, r, err)
	}
	release, err := app.Streams.Reserve(h.streamRoute, h.Stream.MaxStreams)
	if err != nil {
		return h.refuse(w, r, unavailable("max_streams", err, 5*time.Second))
	}
	live, err := h.open(w, r, admission, release)
	if !live {
		release()
	}
	return err
}

// open makes the two handshakes and joins the connections. It reports whether
// the pair lives.
func (h *Handler) open(
	w http.ResponseWriter, r *http.Request, admission auth.Admission, release func(),
) (live bool, err error) {
	offered := r.Header["Sec-Websocket-Protocol"]
	accept := acceptKey(r.Header.Get("Sec-Websocket-Key"))
	// none is negotiated: frames are checked as RFC 6455 alone has them
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
	if admission.BodySecret {
		caller.Admit = h.admitMessage
	}
	to := stream.Endpoint{
		Conn:         backend.Conn,
		Buffered:     backend.Buffered,
		ReadTimeout:  backend.ReadTimeout,
		WriteTimeout: backend.WriteTimeout,
	}
	app.CountRequest(kindStream, outcomeAdmitted)
	app.Streams.Open(app.StreamInfo{
		Route:    h.streamRoute,
		User:     strings.Clone(admission.User), // a piece of what else has the password in it
		ClientIP: sender.IP(r),
		Path:     r.URL.Path,
		Upstream: backend.Upstream,
		Drain:    time.Duration(h.Stream.Drain),
	}, caller, to, h.limits, release)
	return true, nil
}

// admitMessage looks for the secret in the messages of a stream. Those without
// metadata, which some of Deepgram's are, say nothing either way.
func (h *Handler) admitMessage(message []byte) (admitted bool, err error) {
	err = h.VerifyMessage(message)
	var denied *auth.Refusal
	if errors.As(err, &denied) && denied.Reason == auth.ReasonCallbackSecretMissing {
		return false, nil
	}
	return err == nil, err
}

// checkHandshake makes sure that r is a handshake that can be accepted (RFC
// 6455, section 4.2.1), and that it shows who is calling.
func (h *Handler) checkHandshake(r *http.Request, admission auth.Admission) error {
	if !r.ProtoAtLeast(1, 1) || r.ProtoMajor != 1 || r.ContentLength != 0 {
		return badHandshake("a WebSocket opens with a GET of HTTP/1.1 without a body")
	}
	// Neither field may stand twice (sections 11.3.1 and 11.3.5): the backend
	// might take the other one.
	if version := r.Header["Sec-Websocket-Version"]; len(version) != 1 || version[0] != "13" {
		return &auth.Refusal{
			Status: http.StatusUpgradeRequired,
			Reason: "handshake",
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
	return &auth.Refusal{Status: http.StatusBadRequest, Reason: "handshake", Cause: errors.New(detail)}
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
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11")) //nolint:gosec // see the import
	return base64.StdEncoding.EncodeToString(sum[:])
}

// checkAnswer holds a backend's answer to the rules for a client (RFC 6455,
// section 4.1).
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

// offers reports whether exactly one subprotocol was chosen, of the offered.
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

// answer accepts the caller's handshake with what the backend answered, and
// takes its connection. A caller gets limit to take the answer.
func answer(
	w http.ResponseWriter, header http.Header, limit time.Duration,
) (stream.Endpoint, error) {
	// Caddy's writers stay out of the way from here on: the recorder of the
	// access log would go on counting bytes, unguarded, while its line is
	// written, and keep its memory for as long as the stream lives.
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
	// through all writers, so that the access log says 101
	w.WriteHeader(http.StatusSwitchingProtocols)

	// Hijack writes the head before it hands the connection over, and lifts
	// the deadline. It does not tell whether that went well: a caller that is
	// gone by now is found out by the pair, but one that took only part of the
	// head must get nothing behind it.
	deadline := time.Now().Add(limit)
	_ = http.NewResponseController(inner).SetWriteDeadline(deadline) // as every server's writer can
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

// spelling is how a header field of a handshake is written in RFC 6455, and by
// Caddy's own proxy. Names of fields know no case, but there are clients that
// compare the letters.
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

// innermost is the writer that Caddy was handed by net/http.
func innermost(w http.ResponseWriter) http.ResponseWriter {
	for {
		wrapper, ok := w.(interface{ Unwrap() http.ResponseWriter })
		if !ok {
			return w
		}
		w = wrapper.Unwrap()
	}
}

// A streaming callback's way into the inbox: there is no backend, and each message is delivered as
// a callback of its own.

package handler

import (
	"context"
	"net/http"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/caddy-deepgram/deepgram-callback/app"
	"github.com/caddy-deepgram/deepgram-callback/auth"
	"github.com/caddy-deepgram/deepgram-callback/relay/deliver"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
	"github.com/caddy-deepgram/deepgram-callback/relay/stream"
)

// endTimeout is how long the end of a stream is waited for to be safe. After that it comes to be so
// by itself.
const endTimeout = 5 * time.Second

// openIntoInbox accepts the caller's handshake in the place of a backend, once the inbox knows of
// the stream. Its arguments and results are those of open.
func (h *Handler) openIntoInbox(
	w http.ResponseWriter, r *http.Request, admission auth.Admission, release func(),
) (live bool, err error) {
	ctx := context.WithoutCancel(r.Context()) // what fails is not to look like the caller's doing
	inbox, err := h.inbox.Inbox(ctx)
	if err != nil {
		return false, h.refuseUnkept(w, r, err)
	}
	id := uuid.NewString()
	into, err := inbox.OpenStream(ctx, id, spool.Envelope{
		Route:  h.inbox.Name,
		Method: http.MethodPost,
		Host:   strings.ToLower(r.Host),       // as of a batch callback
		User:   strings.Clone(admission.User), // not a part of a string with the password
		URI:    r.URL.RequestURI(),
		Header: storedHandshake(r),
	})
	if err != nil {
		return false, h.refuseUnkept(w, r, err)
	}
	// No subprotocol is chosen, as nobody here knows what it would mean.
	caller, err := answer(w, http.Header{
		"Sec-Websocket-Accept": {acceptKey(r.Header.Get("Sec-Websocket-Key"))},
	}, h.limits.WriteTimeout)
	if err != nil {
		into.Cancel(ctx)
		return false, err
	}
	info := app.StreamInfo{ID: id, Upstream: app.UpstreamSpool, Inbox: h.inbox.Identity()}
	to := stream.Into(sink{into}, h.limits.WriteTimeout)
	h.join(r, admission, info, caller, to, func(end stream.End) {
		release()
		ctx, cancel := context.WithTimeout(context.Background(), endTimeout)
		defer cancel()
		into.End(ctx, end.Reason)
	})
	return true, nil
}

// storedHandshake returns what is stored of a handshake, without what is about a WebSocket.
func storedHandshake(r *http.Request) http.Header {
	header := deliver.Stored(r)
	for name := range header {
		if strings.HasPrefix(name, "Sec-Websocket-") {
			delete(header, name)
		}
	}
	return header
}

// sink is a stream of the inbox as one of relay/stream.
type sink struct{ *spool.Stream }

// Begin implements [stream.Sink].
func (s sink) Begin(ctx context.Context, binary bool) (stream.Message, error) {
	contentType := "application/json"
	if binary {
		contentType = "application/octet-stream"
	}
	m, err := s.Stream.Begin(ctx, contentType)
	if err != nil {
		return nil, err
	}
	return incoming{m}, nil
}

type incoming struct{ *spool.Incoming }

// Accept implements [stream.Message].
func (m incoming) Accept(ctx context.Context) error {
	_, err := m.Incoming.Accept(ctx)
	return err
}

package api

import (
	"io"
	"net/http"
	"strconv"

	"github.com/caddy-deepgram/deepgram-callback/operate"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
)

// status answers GET /spool: what there is over all inboxes, and in each.
func (h *Handler) status(w http.ResponseWriter, r *http.Request) error {
	query, err := parameters(r, "path")
	if err != nil {
		return err
	}
	status, err := h.gateway.Status(r.Context(), query.Get("path"))
	if err != nil {
		return err
	}
	return reply(w, status)
}

// list answers GET /spool/messages: one page, by rising id over all inboxes.
func (h *Handler) list(w http.ResponseWriter, r *http.Request) error {
	query, err := parameters(r, "path", "state", "route", "user", "limit", "after")
	if err != nil {
		return err
	}
	after, limit, err := page(query)
	if err != nil {
		return err
	}
	messages, err := h.gateway.List(r.Context(), selection(query), after, limit)
	if err != nil {
		return err
	}
	return reply(w, messages)
}

// reference reads which message a request is about.
func reference(r *http.Request) (operate.Ref, error) {
	query, err := parameters(r, "path")
	if err != nil {
		return operate.Ref{}, err
	}
	return operate.Ref{ID: r.PathValue("id"), Path: query.Get("path")}, nil
}

// show answers GET /spool/messages/{id}.
func (h *Handler) show(w http.ResponseWriter, r *http.Request) error {
	ref, err := reference(r)
	if err != nil {
		return err
	}
	message, err := h.gateway.Message(r.Context(), ref)
	if err != nil {
		return err
	}
	return reply(w, message)
}

// body answers GET /spool/messages/{id}/body. Whatever the callback's Content-Type was, the
// answer has none that a browser would run: it is from a stranger, and the origin it would
// run in can configure this Caddy.
func (h *Handler) body(w http.ResponseWriter, r *http.Request) error {
	ref, err := reference(r)
	if err != nil {
		return err
	}
	body, err := h.gateway.Body(r.Context(), ref)
	if err != nil {
		return err
	}
	defer body.Close()
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("Content-Disposition", `attachment; filename="`+body.ID.String()+`"`)
	w.Header().Set("Content-Length", strconv.FormatInt(body.Size(), 10))
	if r.Method != http.MethodHead {
		// An error has no place in the answer any more. That bytes are
		// missing shows from Content-Length.
		_, _ = io.Copy(w, body)
	}
	return nil
}

// replay answers POST /spool/messages/{id}/replay.
func (h *Handler) replay(w http.ResponseWriter, r *http.Request) error {
	ref, err := reference(r)
	if err != nil {
		return err
	}
	done, err := h.gateway.Replay(r.Context(), ref)
	if err != nil {
		return err
	}
	return reply(w, done)
}

// drop answers DELETE /spool/messages/{id}: 204, or 202 for a message that is
// being delivered and is forgotten when that ends.
func (h *Handler) drop(w http.ResponseWriter, r *http.Request) error {
	ref, err := reference(r)
	if err != nil {
		return err
	}
	later, err := h.gateway.Drop(r.Context(), ref)
	if err != nil {
		return err
	}
	if later {
		w.WriteHeader(http.StatusAccepted)
		return nil
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// replayDead answers POST /spool/replay.
func (h *Handler) replayDead(w http.ResponseWriter, r *http.Request) error {
	selected, err := deadLetters(r)
	if err != nil {
		return err
	}
	done, err := h.gateway.ReplayDead(r.Context(), selected.Path, selected.Route)
	if err != nil {
		return err
	}
	return reply(w, done)
}

// dropMany answers DELETE /spool/messages: dead letters, or whatever a user brought in.
func (h *Handler) dropMany(w http.ResponseWriter, r *http.Request) error {
	done, err := h.dropSelected(r)
	if err != nil {
		return err
	}
	return reply(w, done)
}

func (h *Handler) dropSelected(r *http.Request) (operate.Dropped, error) {
	if !r.URL.Query().Has("user") {
		selected, err := deadLetters(r)
		if err != nil {
			return operate.Dropped{}, err
		}
		return h.gateway.DropDead(r.Context(), selected.Path, selected.Route)
	}
	query, err := parameters(r, "path", "state", "route", "user")
	if err != nil {
		return operate.Dropped{}, err
	}
	if err := notEmpty(query, "path", "route", "user"); err != nil {
		return operate.Dropped{}, err
	}
	return h.gateway.DropOfUser(r.Context(), selection(query))
}

// deadLetters reads which dead letters a request is about. That it is about dead letters has
// to be said: nothing else can be changed at once.
func deadLetters(r *http.Request) (operate.Selection, error) {
	query, err := parameters(r, "path", "state", "route")
	if err != nil {
		return operate.Selection{}, err
	}
	selected := selection(query)
	if selected.State != spool.Dead {
		return operate.Selection{}, invalid(
			"state=dead is needed: only dead letters can be changed all at once")
	}
	return selected, notEmpty(query, "path", "route")
}

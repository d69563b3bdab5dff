package api

import (
	"io"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/caddy-deepgram/deepgram-callback/app"
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

// list answers GET /spool/messages: one page over all inboxes, oldest first or newest first.
func (h *Handler) list(w http.ResponseWriter, r *http.Request) error {
	query, err := parameters(r, append([]string{"order", "limit", "after"}, selecting...)...)
	if err != nil {
		return err
	}
	page, err := page(query)
	if err != nil {
		return err
	}
	selected, err := selection(query)
	if err != nil {
		return err
	}
	messages, err := h.gateway.List(r.Context(), selected, page)
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

// selecting are the parameters that select messages.
var selecting = []string{"path", "state", "route", "request_id", "user", "since", "until"}

// count answers GET /spool/count: how many messages are selected.
func (h *Handler) count(w http.ResponseWriter, r *http.Request) error {
	query, err := parameters(r, selecting...)
	if err != nil {
		return err
	}
	selected, err := selection(query)
	if err != nil {
		return err
	}
	n, err := h.gateway.Count(r.Context(), selected)
	if err != nil {
		return err
	}
	return reply(w, struct {
		Count int64 `json:"count"`
	}{n})
}

// replayed is the answer to a replay of many messages.
type replayed struct {
	*app.Replay
	Selected int64 `json:"selected"`
	Replayed int   `json:"replayed"`

	// RevokedUsers are those who brought some of them in, and of whom the configuration has no
	// account any more.
	RevokedUsers []string `json:"revoked_users,omitempty"`
}

// replayMany answers POST /spool/replay: it makes pending again what is selected of what is dead
// or was delivered, and answers when that is done, or at once with wait=false; dry_run=true only
// counts. Whoever goes away before stops it.
func (h *Handler) replayMany(w http.ResponseWriter, r *http.Request) error {
	query, err := parameters(r, append([]string{"dry_run", "wait"}, selecting...)...)
	if err != nil {
		return err
	}
	dry, err := flag(query, "dry_run", false)
	if err != nil {
		return err
	}
	wait, err := flag(query, "wait", true)
	if err != nil {
		return err
	}
	selected, err := replayable(query)
	if err != nil {
		return err
	}
	expected, revoked, err := h.gateway.Replayable(r.Context(), selected)
	if err != nil {
		return err
	}
	answer := replayed{Selected: expected, RevokedUsers: revoked}
	if dry {
		return reply(w, answer)
	}
	id, err := h.gateway.ReplayMany(selected, expected)
	if err != nil {
		return err
	}
	if !wait {
		prepare(w)
		w.WriteHeader(http.StatusAccepted)
		answer.Replay = &app.Replay{ID: id, State: app.ReplayRunning, Began: time.Now().UTC()}
		encode(w, answer)
		return nil
	}
	done, err := h.gateway.WaitForReplay(r.Context(), id)
	if err != nil {
		return err
	}
	answer.Replay, answer.Replayed = &done, done.Replayed
	return reply(w, answer)
}

// replayable reads which messages a replay is about. That it is about all of them has to be said.
func replayable(query url.Values) (operate.Selection, error) {
	if err := notEmpty(query, selecting...); err != nil {
		return operate.Selection{}, err
	}
	selected, err := selection(query)
	if err != nil {
		return selected, err
	}
	if selected.State == spool.Pending {
		return selected, invalid("state is pending: only what is dead or was delivered can be sent again")
	}
	if selected.State == "" && selected.RequestID == "" && selected.Received == (operate.Period{}) {
		return selected, invalid("everything is selected: " +
			"say state=dead or state=delivered, a request_id, since or until")
	}
	return selected, nil
}

// replays answers GET /spool/replays.
func (h *Handler) replays(w http.ResponseWriter, r *http.Request) error {
	if _, err := parameters(r); err != nil {
		return err
	}
	return reply(w, h.gateway.Replays())
}

// stopReplay answers DELETE /spool/replays/{id}: 202, as what is on its way still comes to an end.
func (h *Handler) stopReplay(w http.ResponseWriter, r *http.Request) error {
	if _, err := parameters(r); err != nil {
		return err
	}
	if err := h.gateway.StopReplay(r.PathValue("id")); err != nil {
		return err
	}
	w.WriteHeader(http.StatusAccepted)
	return nil
}

// pause answers POST /spool/routes/{route}/pause.
func (h *Handler) pause(w http.ResponseWriter, r *http.Request) error {
	return h.setPaused(w, r, true)
}

// resume answers POST /spool/routes/{route}/resume.
func (h *Handler) resume(w http.ResponseWriter, r *http.Request) error {
	return h.setPaused(w, r, false)
}

func (h *Handler) setPaused(w http.ResponseWriter, r *http.Request, paused bool) error {
	query, err := parameters(r, "path")
	if err != nil {
		return err
	}
	if err := notEmpty(query, "path"); err != nil {
		return err
	}
	err = h.gateway.Pause(r.Context(), query.Get("path"), r.PathValue("route"), paused)
	if err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// dropMany answers DELETE /spool/messages: what is selected. Something has to be selected by which
// nothing can be dropped by a slip.
func (h *Handler) dropMany(w http.ResponseWriter, r *http.Request) error {
	query, err := parameters(r, selecting...)
	if err != nil {
		return err
	}
	if err := notEmpty(query, "path", "route", "request_id", "user", "since", "until"); err != nil {
		return err
	}
	selected, err := selection(query)
	if err != nil {
		return err
	}
	ended := selected.State == spool.Dead || selected.State == spool.Delivered
	if !ended && selected.User == "" && selected.RequestID == "" {
		return invalid("state=dead is needed, or state=delivered, a user or a request_id: " +
			"what waits for its delivery cannot be dropped all at once")
	}
	done, err := h.gateway.DropMany(r.Context(), selected)
	if err != nil {
		return err
	}
	return reply(w, done)
}

package api

import (
	"net/http"
	"net/url"
	"slices"

	"github.com/caddy-deepgram/deepgram-callback/operate"
)

// StreamFilters are the parameters by which streams are selected.
func StreamFilters() []string { return []string{"route", "user", "path", "upstream"} }

func streamFilter(query url.Values) (operate.StreamFilter, error) {
	return operate.StreamFilter{
		Route:    query.Get("route"),
		User:     query.Get("user"),
		Path:     query.Get("path"),
		Upstream: query.Get("upstream"),
	}, notEmpty(query, StreamFilters()...)
}

// listStreams answers GET /streams: the live streams, the oldest first, or with
// state=ended the last that ended, the newest first.
func (h *Handler) listStreams(w http.ResponseWriter, r *http.Request) error {
	query, err := parameters(r, slices.Concat(StreamFilters(), []string{"state"})...)
	if err != nil {
		return err
	}
	filter, err := streamFilter(query)
	if err != nil {
		return err
	}
	switch state := query.Get("state"); {
	case !query.Has("state"), state == "live":
		return reply(w, h.gateway.Streams(filter))
	case state == "ended":
		return reply(w, h.gateway.EndedStreams(filter))
	default:
		return invalid("state %q is neither live nor ended", state)
	}
}

// killStreams answers DELETE /streams, which needs a filter.
func (h *Handler) killStreams(w http.ResponseWriter, r *http.Request) error {
	query, err := parameters(r, StreamFilters()...)
	if err != nil {
		return err
	}
	filter, err := streamFilter(query)
	if err != nil {
		return err
	}
	killed, err := h.gateway.KillStreams(filter)
	if err != nil {
		return err
	}
	return reply(w, killed)
}

// killStream answers DELETE /streams/{id}. The stream is told to end, and ends
// within its drain.
func (h *Handler) killStream(w http.ResponseWriter, r *http.Request) error {
	if _, err := parameters(r); err != nil {
		return err
	}
	if err := h.gateway.KillStream(r.PathValue("id")); err != nil {
		return err
	}
	w.WriteHeader(http.StatusAccepted)
	return nil
}

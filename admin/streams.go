package admin

import (
	"fmt"
	"net/http"
	"time"

	"github.com/caddy-deepgram/deepgram-callback/app"
)

// liveStream is one live stream as the API shows it, by the names that its log
// line has.
type liveStream struct {
	ID        string    `json:"id"`
	Route     string    `json:"route"`
	ClientIP  string    `json:"client_ip"`
	Path      string    `json:"path"`
	Upstream  string    `json:"upstream"`
	StartedAt time.Time `json:"started_at"`

	MessagesFromCaller  int64 `json:"messages_from_caller"`
	BytesFromCaller     int64 `json:"bytes_from_caller"`
	MessagesFromBackend int64 `json:"messages_from_backend"`
	BytesFromBackend    int64 `json:"bytes_from_backend"`
}

func showStream(s *app.Stream) liveStream {
	fromCaller, fromBackend := s.Traffic()
	return liveStream{
		ID:                  s.ID,
		Route:               s.Route,
		ClientIP:            s.ClientIP,
		Path:                s.Path,
		Upstream:            s.Upstream,
		StartedAt:           s.Started().UTC(),
		MessagesFromCaller:  fromCaller.Messages,
		BytesFromCaller:     fromCaller.Bytes,
		MessagesFromBackend: fromBackend.Messages,
		BytesFromBackend:    fromBackend.Bytes,
	}
}

// listStreams answers GET /streams.
func (API) listStreams(w http.ResponseWriter, r *http.Request) error {
	query, err := parameters(r, "route")
	if err != nil {
		return err
	}
	route := query.Get("route")
	shown := []liveStream{}
	for _, s := range app.Streams.List() {
		if route == "" || route == s.Route {
			shown = append(shown, showStream(s))
		}
	}
	return reply(w, shown)
}

// killStream answers DELETE /streams/{id}. The stream is told to end, and ends
// within its drain.
func (API) killStream(w http.ResponseWriter, r *http.Request) error {
	if _, err := parameters(r); err != nil {
		return err
	}
	id := r.PathValue("id")
	if !app.Streams.Kill(id) {
		return failure(http.StatusNotFound, fmt.Errorf("no such stream: %q", id))
	}
	w.WriteHeader(http.StatusAccepted)
	return nil
}

package admin

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"github.com/caddy-deepgram/deepgram-callback/app"
)

// liveStream is one live stream as the API shows it, by the names that its log
// line has.
type liveStream struct {
	ID        string    `json:"id"`
	Route     string    `json:"route"`
	User      string    `json:"user"`
	ClientIP  string    `json:"client_ip"`
	Path      string    `json:"path"`
	Upstream  string    `json:"upstream"`
	StartedAt time.Time `json:"started_at"`

	MessagesFromCaller  int64 `json:"messages_from_caller"`
	BytesFromCaller     int64 `json:"bytes_from_caller"`
	MessagesFromBackend int64 `json:"messages_from_backend"`
	BytesFromBackend    int64 `json:"bytes_from_backend"`
}

// endedStream is one that is over.
type endedStream struct {
	liveStream
	EndedAt   time.Time `json:"ended_at"`
	Duration  float64   `json:"duration"` // in seconds, as in Caddy's logs
	EndedBy   string    `json:"ended_by"`
	Reason    string    `json:"reason"`
	CloseCode int       `json:"close_code"`
	CloseText string    `json:"close_text"`
	Error     string    `json:"error,omitempty"`
}

func showInfo(s app.StreamInfo) liveStream {
	return liveStream{ID: s.ID, Route: s.Route, User: s.User, ClientIP: s.ClientIP, Path: s.Path, Upstream: s.Upstream}
}

func showStream(s *app.Stream) liveStream {
	shown := showInfo(s.StreamInfo)
	shown.StartedAt = s.Started().UTC()
	fromCaller, fromBackend := s.Traffic()
	shown.MessagesFromCaller, shown.BytesFromCaller = fromCaller.Messages, fromCaller.Bytes
	shown.MessagesFromBackend, shown.BytesFromBackend = fromBackend.Messages, fromBackend.Bytes
	return shown
}

func showEnded(s *app.EndedStream) endedStream {
	shown := endedStream{
		liveStream: showInfo(s.StreamInfo),
		EndedAt:    s.EndedAt.UTC(),
		Duration:   s.EndedAt.Sub(s.StartedAt).Seconds(),
		EndedBy:    s.By,
		Reason:     s.Reason,
		CloseCode:  int(s.Code),
		CloseText:  s.Text,
		Error:      s.Error,
	}
	shown.StartedAt = s.StartedAt.UTC()
	shown.MessagesFromCaller, shown.BytesFromCaller = s.FromCaller.Messages, s.FromCaller.Bytes
	shown.MessagesFromBackend, shown.BytesFromBackend = s.FromBackend.Messages, s.FromBackend.Bytes
	return shown
}

// streamFilters are the parameters by which streams are selected.
var streamFilters = []string{"route", "user", "path", "upstream"}

// streamFilter reads them. One without a value is an error: it would select
// all, and whoever means a name must not hit everybody because it is empty.
func streamFilter(query url.Values) (app.StreamFilter, error) {
	for _, name := range streamFilters {
		if query.Has(name) && query.Get(name) == "" {
			return app.StreamFilter{}, failure(http.StatusBadRequest, fmt.Errorf("parameter %s has no value", name))
		}
	}
	return app.StreamFilter{
		Route:    query.Get("route"),
		User:     query.Get("user"),
		Path:     query.Get("path"),
		Upstream: query.Get("upstream"),
	}, nil
}

// listStreams answers GET /streams: the live streams, the oldest first, or with
// state=ended the last that ended, the newest first.
func (API) listStreams(w http.ResponseWriter, r *http.Request) error {
	query, err := parameters(r, append([]string{"state"}, streamFilters...)...)
	if err != nil {
		return err
	}
	filter, err := streamFilter(query)
	if err != nil {
		return err
	}
	switch state := query.Get("state"); {
	case !query.Has("state"), state == "live":
		shown := []liveStream{}
		for _, s := range app.ThisProcess().Streams.List() {
			if filter.Selects(&s.StreamInfo) {
				shown = append(shown, showStream(s))
			}
		}
		return reply(w, shown)
	case state == "ended":
		shown := []endedStream{}
		for _, s := range app.ThisProcess().Streams.Ended() {
			if filter.Selects(&s.StreamInfo) {
				shown = append(shown, showEnded(s))
			}
		}
		return reply(w, shown)
	default:
		return failure(http.StatusBadRequest, fmt.Errorf("state %q is neither live nor ended", state))
	}
}

// killed is how many streams were told to end.
type killed struct {
	Killed int `json:"killed"`
}

// killStreams answers DELETE /streams, which needs a filter.
func (API) killStreams(w http.ResponseWriter, r *http.Request) error {
	query, err := parameters(r, streamFilters...)
	if err != nil {
		return err
	}
	filter, err := streamFilter(query)
	if err != nil {
		return err
	}
	if filter == (app.StreamFilter{}) {
		return failure(http.StatusBadRequest, errors.New("which streams: one of user, path, upstream and route is needed"))
	}
	return reply(w, killed{app.ThisProcess().Streams.KillAll(filter)})
}

// killStream answers DELETE /streams/{id}. The stream is told to end, and ends
// within its drain.
func (API) killStream(w http.ResponseWriter, r *http.Request) error {
	if _, err := parameters(r); err != nil {
		return err
	}
	id := r.PathValue("id")
	if !app.ThisProcess().Streams.Kill(id) {
		return failure(http.StatusNotFound, fmt.Errorf("no such stream: %q", id))
	}
	w.WriteHeader(http.StatusAccepted)
	return nil
}

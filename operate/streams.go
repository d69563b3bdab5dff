package operate

import (
	"errors"
	"fmt"
	"time"

	"github.com/caddy-deepgram/deepgram-callback/app"
)

// A StreamFilter selects streams. What is empty selects all.
type StreamFilter = app.StreamFilter

// Stream is one live stream as it is shown, by the names that its log line has.
type Stream struct {
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

// EndedStream is one that is over.
type EndedStream struct {
	Stream
	EndedAt   time.Time `json:"ended_at"`
	Duration  float64   `json:"duration"` // in seconds, as in Caddy's logs
	EndedBy   string    `json:"ended_by"`
	Reason    string    `json:"reason"`
	CloseCode int       `json:"close_code"`
	CloseText string    `json:"close_text"`
	Error     string    `json:"error,omitempty"`
}

func showInfo(s app.StreamInfo) Stream {
	return Stream{
		ID: s.ID, Route: s.Route, User: s.User, ClientIP: s.ClientIP, Path: s.Path, Upstream: s.Upstream,
	}
}

func showStream(s *app.Stream) Stream {
	shown := showInfo(s.StreamInfo)
	shown.StartedAt = s.Started().UTC()
	fromCaller, fromBackend := s.Traffic()
	shown.MessagesFromCaller, shown.BytesFromCaller = fromCaller.Messages, fromCaller.Bytes
	shown.MessagesFromBackend, shown.BytesFromBackend = fromBackend.Messages, fromBackend.Bytes
	return shown
}

func showEnded(s *app.EndedStream) EndedStream {
	shown := EndedStream{
		Stream:    showInfo(s.StreamInfo),
		EndedAt:   s.EndedAt.UTC(),
		Duration:  s.EndedAt.Sub(s.StartedAt).Seconds(),
		EndedBy:   s.By,
		Reason:    s.Reason,
		CloseCode: int(s.Code),
		CloseText: s.Text,
		Error:     s.Error,
	}
	shown.StartedAt = s.StartedAt.UTC()
	shown.MessagesFromCaller, shown.BytesFromCaller = s.FromCaller.Messages, s.FromCaller.Bytes
	shown.MessagesFromBackend, shown.BytesFromBackend = s.FromBackend.Messages, s.FromBackend.Bytes
	return shown
}

// Streams returns the live streams that a filter selects, the oldest first.
func (g *Gateway) Streams(filter StreamFilter) []Stream {
	shown := []Stream{}
	for _, s := range g.process.Streams.List() {
		if filter.Selects(&s.StreamInfo) {
			shown = append(shown, showStream(s))
		}
	}
	return shown
}

// EndedStreams returns those of the last streams that ended which a filter selects, the
// newest first.
func (g *Gateway) EndedStreams(filter StreamFilter) []EndedStream {
	shown := []EndedStream{}
	for _, s := range g.process.Streams.Ended() {
		if filter.Selects(&s.StreamInfo) {
			shown = append(shown, showEnded(s))
		}
	}
	return shown
}

// Killed is how many streams were told to end.
type Killed struct {
	Killed int `json:"killed"`
}

// KillStream tells a stream to end, which it does within its drain.
func (g *Gateway) KillStream(id string) error {
	if !g.process.Streams.Kill(id) {
		return notFound(fmt.Errorf("no such stream: %q", id))
	}
	return nil
}

// KillStreams tells the streams that a filter selects to end. That it selects all is taken
// for a mistake.
func (g *Gateway) KillStreams(filter StreamFilter) (Killed, error) {
	if filter == (StreamFilter{}) {
		return Killed{}, invalid(errors.New(
			"which streams: one of user, path, upstream and route is needed"))
	}
	return Killed{g.process.Streams.KillAll(filter)}, nil
}

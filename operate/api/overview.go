package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"time"

	"github.com/caddy-deepgram/deepgram-callback/operate"
)

// overviewAnswer is all at a glance, and for the console who looks.
type overviewAnswer struct {
	operate.Overview
	*viewer
}

type viewer struct {
	ReadOnly bool   `json:"read_only"`
	User     string `json:"user"`
}

// overview answers GET /overview.
func (h *Handler) overview(w http.ResponseWriter, r *http.Request) error {
	if _, err := parameters(r); err != nil {
		return err
	}
	return reply(w, h.overviewFor(r))
}

func (h *Handler) overviewFor(r *http.Request) overviewAnswer {
	answer := overviewAnswer{Overview: h.gateway.Overview(r.Context())}
	if h.options.Console != nil {
		answer.viewer = &viewer{ReadOnly: h.options.ReadOnly, User: h.options.Console.User(r)}
	}
	return answer
}

// A topic is what can be followed: what its events tell, and how long there is nothing new at least.
type topic struct {
	pause time.Duration
	look  func() any

	// compared is look, without what changes all the time.
	compared func(any) any
}

const (
	// maxFollowers is how many follow events at a time. Others ask again and again.
	maxFollowers = 100

	// lifeSign is how often something is sent where nothing changes: a connection that is gone is
	// found only by writing.
	lifeSign = 15 * time.Second

	// writeTimeout is how long a follower may take to accept an event.
	writeTimeout = 10 * time.Second
)

// events answers GET /events: server-sent events about a topic. The data of each is what GET of the
// resource answers, sent at once and when it has changed, until the client goes or the
// configuration ends.
func (h *Handler) events(w http.ResponseWriter, r *http.Request) error {
	query, err := parameters(r, "topic")
	if err != nil {
		return err
	}
	topic, err := h.topic(query.Get("topic"), r)
	if err != nil {
		return err
	}
	select {
	case h.followers <- struct{}{}:
		defer func() { <-h.followers }()
	default:
		return failure(http.StatusServiceUnavailable, errors.New("too many follow events already"))
	}
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("X-Accel-Buffering", "no") // for proxies that would keep events back
	if r.Method != http.MethodHead {
		h.follow(w, r.Context(), topic)
	}
	return nil
}

func (h *Handler) topic(name string, r *http.Request) (topic, error) {
	switch name {
	case "overview":
		return topic{
			pause: 2 * time.Second,
			look:  func() any { return h.overviewFor(r) },
			compared: func(seen any) any {
				answer := seen.(overviewAnswer)
				answer.Now = time.Time{}
				return answer
			},
		}, nil
	case "streams":
		return topic{
			pause:    time.Second,
			look:     func() any { return h.gateway.Streams(operate.StreamFilter{}) },
			compared: func(seen any) any { return seen },
		}, nil
	}
	return topic{}, invalid("topic is %q, neither overview nor streams", name)
}

// follow sends events until it cannot any more.
func (h *Handler) follow(w http.ResponseWriter, ctx context.Context, topic topic) {
	ticker := time.NewTicker(topic.pause)
	defer ticker.Stop()
	var last []byte
	silent := time.Now()
	for {
		seen := topic.look()
		compared, _ := json.Marshal(topic.compared(seen)) // plain data
		switch {
		case !bytes.Equal(compared, last):
			last, silent = compared, time.Now()
			data, _ := json.Marshal(seen)
			if send(w, "data: ", string(data), "\n\n") != nil {
				return
			}
		case time.Since(silent) >= lifeSign:
			silent = time.Now()
			if send(w, ":\n\n") != nil {
				return
			}
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		case <-h.options.Console.Ended:
			return
		}
	}
}

// send writes something whole, within a time.
func send(w http.ResponseWriter, parts ...string) error {
	control := http.NewResponseController(w)
	_ = control.SetWriteDeadline(time.Now().Add(writeTimeout)) // not every connection has one
	for _, part := range parts {
		if _, err := w.Write([]byte(part)); err != nil {
			return err
		}
	}
	return control.Flush()
}

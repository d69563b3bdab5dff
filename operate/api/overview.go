package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"sync"
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
	return reply(w, overviewAnswer{h.gateway.Overview(r.Context()), h.viewer(r)})
}

// viewer is who asks, and nil where that is not the console.
func (h *Handler) viewer(r *http.Request) *viewer {
	if h.options.Console == nil {
		return nil
	}
	return &viewer{ReadOnly: h.options.ReadOnly, User: h.options.Console.User(r)}
}

const (
	// maxFollowers is how many follow events at a time. Others ask again and again.
	maxFollowers = 100

	// lifeSign is how often something is sent where nothing changes: whether the other side is gone
	// is found out only by writing, or by waiting in vain for what should come.
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
	topic, ok := h.topics[query.Get("topic")]
	if !ok {
		return invalid("topic is %q, neither overview nor streams", query.Get("topic"))
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
		h.follow(w, r, topic)
	}
	return nil
}

// A topic is what can be followed. One of its followers looks for all of them, so where there are
// none, nobody does.
type topic struct {
	pause time.Duration // of each follower, between two looks
	look  func(context.Context) any

	// compared is what look returned, without what changes all the time; nil where nothing does.
	compared func(any) any

	// viewed says that each follower is told besides who he is.
	viewed bool

	mu     sync.Mutex
	looked time.Time // when that was last done
	seen   news
}

// news is what a topic tells.
type news struct {
	number   int    // rises when something has changed
	data     []byte // JSON
	compared []byte
}

// latest returns what there is to tell. Followers ask at different times, so what one of them saw
// less than half a pause ago is good enough for another.
func (t *topic) latest(ctx context.Context) news {
	t.mu.Lock()
	defer t.mu.Unlock()
	if time.Since(t.looked) < t.pause/2 {
		return t.seen
	}
	value := t.look(context.WithoutCancel(ctx)) // others wait for it, and this one may leave
	t.looked = time.Now()
	t.seen.data, _ = json.Marshal(value) // plain data
	compared := t.seen.data
	if t.compared != nil {
		compared, _ = json.Marshal(t.compared(value))
	}
	if !bytes.Equal(compared, t.seen.compared) {
		t.seen.number++
		t.seen.compared = compared
	}
	return t.seen
}

func newTopics(gateway *operate.Gateway) map[string]*topic {
	return map[string]*topic{
		"overview": {
			pause: 2 * time.Second,
			look:  func(ctx context.Context) any { return gateway.Overview(ctx) },
			compared: func(seen any) any {
				overview := seen.(operate.Overview)
				overview.Now = time.Time{}
				return overview
			},
			viewed: true,
		},
		"streams": {
			pause: time.Second,
			look:  func(context.Context) any { return gateway.Streams(operate.StreamFilter{}) },
		},
	}
}

// follow sends events until it cannot any more.
func (h *Handler) follow(w http.ResponseWriter, r *http.Request, topic *topic) {
	ticker := time.NewTicker(topic.pause)
	defer ticker.Stop()
	last := 0
	silent := time.Now()
	for {
		seen := topic.latest(r.Context())
		switch {
		case seen.number != last:
			last, silent = seen.number, time.Now()
			data := seen.data
			if topic.viewed {
				data = h.viewer(r).join(data)
			}
			if send(w, "data: ", string(data), "\n\n") != nil {
				return
			}
		case time.Since(silent) >= lifeSign:
			silent = time.Now()
			if send(w, "event: alive\ndata: {}\n\n") != nil {
				return
			}
		}
		select {
		case <-ticker.C:
		case <-r.Context().Done():
			return
		case <-h.options.Console.Ended:
			return
		}
	}
}

// join adds the viewer to an object in JSON, as overviewAnswer does.
func (v *viewer) join(object []byte) []byte {
	who, _ := json.Marshal(v)
	return slices.Concat(object[:len(object)-1], []byte{','}, who[1:])
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

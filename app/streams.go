package app

import (
	"cmp"
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"
	"go.uber.org/zap"

	"github.com/caddy-deepgram/deepgram-callback/relay/stream"
)

// Reasons for which no stream can be opened now.
var (
	ErrTooManyStreams = errors.New("as many live streams as max_streams allows")
	ErrShuttingDown   = errors.New("shutting down")
)

// Registry keeps the live streams, ends them at shutdown, and remembers the last
// that ended.
type Registry struct {
	// Opened counts the streams of the last hour by their routes, EndedBecause those that ended by
	// the reasons of [stream.End].
	Opened, EndedBecause Hour[string]

	logger func() *zap.Logger // that of the configuration in charge

	mu          sync.Mutex
	live        map[string]*Stream
	perRoute    map[string]int // live or being opened
	perUpstream map[string]int // live or being opened
	over        ring[*EndedStream]
	closing     bool
}

func newRegistry(logger func() *zap.Logger) *Registry {
	return &Registry{
		logger:      logger,
		live:        make(map[string]*Stream),
		perRoute:    make(map[string]int),
		perUpstream: make(map[string]int),
	}
}

// StreamInfo is what is known of a stream from its start. It refers to nothing
// of the configuration that opened it, which would stay in memory as long.
type StreamInfo struct {
	ID       string // given by Open where it is empty
	Route    string // which configured service it belongs to, the same over reloads
	User     string // who opened it, where a user name was among the credentials
	ClientIP string
	Path     string // of the handshake's URL, without the query; the beginning of a long one
	Upstream string // the address of the backend, or UpstreamSpool
	Inbox    string // the identity of the store of the inbox that takes its messages, if one does
	Drain    time.Duration
}

// UpstreamSpool is the Upstream of a stream whose messages go into an inbox.
const UpstreamSpool = "spool"

// A Stream is one live pair and what is known of it.
type Stream struct {
	StreamInfo
	pair  *stream.Pair
	ended chan struct{} // closed when the pair's end is logged
}

// Started is when the stream was opened.
func (s *Stream) Started() time.Time { return s.pair.Started() }

// Traffic counts what went each way.
func (s *Stream) Traffic() (fromCaller, fromBackend stream.Traffic) {
	return s.pair.FromCaller(), s.pair.FromBackend()
}

// Reserve takes a place for one stream on route, of at most limit; zero is no
// limit. The place is given back by the release function, or by the end of the
// stream that is opened on it.
func (r *Registry) Reserve(route string, limit int) (release func(), err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closing {
		return nil, ErrShuttingDown
	}
	if limit > 0 && r.perRoute[route] >= limit {
		return nil, ErrTooManyStreams
	}
	r.perRoute[route]++
	return sync.OnceFunc(func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		decrement(r.perRoute, route)
	}), nil
}

// decrement counts one less, and forgets what there is none of.
func decrement(counts map[string]int, name string) {
	if counts[name]--; counts[name] == 0 {
		delete(counts, name)
	}
}

// Pick chooses one of some upstreams, by their addresses: that with the fewest
// streams, ties at random. A stream that is being opened counts: until release
// is called this one does, so that many at a time spread as well.
func (r *Registry) Pick(upstreams []string) (chosen int, release func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	ties := 0
	for i, upstream := range upstreams {
		switch fewer := r.perUpstream[upstream] - r.perUpstream[upstreams[chosen]]; {
		case i == 0 || fewer < 0:
			chosen, ties = i, 1
		case fewer == 0:
			if ties++; rand.IntN(ties) == 0 { //nolint:gosec // not a secret
				chosen = i
			}
		}
	}
	upstream := upstreams[chosen]
	r.perUpstream[upstream]++
	return chosen, sync.OnceFunc(func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		decrement(r.perUpstream, upstream)
	})
}

// maxPath is how much of a path is kept. Callers choose their paths, which may
// be as long as Caddy lets a request's head be.
const maxPath = 1 << 10

// clip cuts a text of more than limit bytes, which is too long to be kept, never
// in the middle of a character.
func clip(text string, limit int) string {
	if len(text) <= limit {
		return strings.Clone(text) // of which more may be held, such as a whole head
	}
	end := limit
	for end > limit-utf8.UTFMax && !utf8.RuneStart(text[end]) {
		end--
	}
	return text[:end] + "…"
}

// Open joins two connections to a stream and calls onEnd when it has ended. Until onEnd returns, the
// stream counts as live.
func (r *Registry) Open(
	info StreamInfo, caller, backend stream.Endpoint, options stream.Options, onEnd func(stream.End),
) {
	info.ID, info.Path = cmp.Or(info.ID, uuid.NewString()), clip(info.Path, maxPath)
	s := &Stream{StreamInfo: info, ended: make(chan struct{})}

	// The lock is held until the pair is known here, so that its end cannot
	// come first, and a shutdown that came first is seen.
	r.mu.Lock()
	s.pair = stream.Start(caller, backend, options, func(end stream.End) {
		r.ended(s, end, onEnd)
	})
	r.live[s.ID] = s
	r.perUpstream[s.Upstream]++
	closing := r.closing
	r.mu.Unlock()
	streamsOpenedTotal.WithLabelValues(s.Route).Inc()
	r.Opened.Add(s.Route)

	if closing {
		s.shutdown()
	}
}

// ended is called from a goroutine of the pair, where a panic would end the
// process: whatever fails in counting and logging, the stream is over.
func (r *Registry) ended(s *Stream, end stream.End, onEnd func(stream.End)) {
	// A pair can be over before Open has it: what is read of s below waits until it has.
	r.mu.Lock()
	r.mu.Unlock() //nolint:staticcheck // SA2001: an empty critical section is what waits
	ended := newEndedStream(s, end)
	defer func() {
		if value := recover(); value != nil {
			r.logger().Error("noting a stream's end failed",
				zap.String("id", s.ID), zap.Any("panic", value), zap.Stack("stack"))
		}
		r.mu.Lock()
		delete(r.live, s.ID)
		decrement(r.perUpstream, s.Upstream)
		r.over.add(ended)
		r.mu.Unlock()
		close(s.ended)
	}()
	onEnd(end)
	countStream(s, end)
	r.EndedBecause.Add(end.Reason)
	ended.log(r.logger(), end)
}

// List returns the live streams, the oldest first.
func (r *Registry) List() []*Stream {
	r.mu.Lock()
	list := make([]*Stream, 0, len(r.live))
	for _, s := range r.live {
		list = append(list, s)
	}
	r.mu.Unlock()
	slices.SortFunc(list, func(a, b *Stream) int {
		return cmp.Or(a.Started().Compare(b.Started()), cmp.Compare(a.ID, b.ID))
	})
	return list
}

// open counts the live streams of each route.
func (r *Registry) open() map[string]int {
	open := make(map[string]int)
	for _, s := range r.List() {
		open[s.Route]++
	}
	return open
}

// Kill ends the stream with this id: both sides are told 1001. It reports
// whether there is one.
func (r *Registry) Kill(id string) bool {
	r.mu.Lock()
	s, ok := r.live[id]
	r.mu.Unlock()
	if ok {
		s.kill()
	}
	return ok
}

// KillAll ends the streams that filter selects, and says how many.
func (r *Registry) KillAll(filter StreamFilter) (killed int) {
	for _, s := range r.List() {
		if filter.Selects(&s.StreamInfo) {
			s.kill()
			killed++
		}
	}
	return killed
}

func (s *Stream) kill() {
	s.pair.Shutdown(stream.CloseGoingAway, "ended by the operator", s.Drain)
}

// Shutdown tells every stream that the process goes away (1001), lets no new
// one be opened, and returns when all have ended, and that is logged, or ctx is
// done.
func (r *Registry) Shutdown(ctx context.Context) {
	r.beginShutdown()
	for _, s := range r.List() {
		select {
		case <-s.ended:
		case <-ctx.Done():
			return
		}
	}
}

// leave ends the streams whose messages go into an inbox that is about to close, and returns when
// their ends are safe in it.
func (r *Registry) leave(inbox string) {
	var into []*Stream
	for _, s := range r.List() {
		if s.Inbox == inbox {
			into = append(into, s)
			s.pair.Shutdown(stream.CloseGoingAway, "the inbox is closed", s.Drain)
		}
	}
	for _, s := range into {
		<-s.ended // after drain, at the latest
	}
}

func (r *Registry) beginShutdown() {
	r.mu.Lock()
	r.closing = true
	r.mu.Unlock()
	var told sync.WaitGroup
	for _, s := range r.List() {
		told.Go(s.shutdown)
	}
	told.Wait()
}

func (s *Stream) shutdown() {
	s.pair.Shutdown(stream.CloseGoingAway, "gateway shutting down", s.Drain)
}

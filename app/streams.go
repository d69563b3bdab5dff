package app

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/caddy-deepgram/deepgram-callback/relay/stream"
)

// Streams are the live streams of this process. They belong to no
// configuration: a reload leaves them alone.
var Streams = NewRegistry()

// Reasons for which no stream can be opened now.
var (
	ErrTooManyStreams = errors.New("as many live streams as max_streams allows")
	ErrShuttingDown   = errors.New("shutting down")
)

// Registry keeps the live streams and ends them at shutdown.
type Registry struct {
	mu       sync.Mutex
	live     map[string]*Stream
	perRoute map[string]int // live or being opened
	closing  bool
}

// NewRegistry returns an empty registry.
func NewRegistry() *Registry {
	return &Registry{live: make(map[string]*Stream), perRoute: make(map[string]int)}
}

// A Stream is one live pair and what is known of it. It refers to nothing of
// the configuration that opened it, which would stay in memory as long.
type Stream struct {
	ID       string
	Route    string // which configured service it belongs to, the same over reloads
	ClientIP string
	Path     string // of the handshake's URL, without the query
	Upstream string // the address of the backend
	Drain    time.Duration

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
		if r.perRoute[route]--; r.perRoute[route] == 0 {
			delete(r.perRoute, route)
		}
	}), nil
}

// Open joins two connections to the stream s and calls release when it ends.
func (r *Registry) Open(s Stream, caller, backend stream.Endpoint, options stream.Options, release func()) {
	s.ID, s.ended = uuid.NewString(), make(chan struct{})

	// The lock is held until the pair is known here, so that its end cannot
	// come first, and a shutdown that came first is seen.
	r.mu.Lock()
	s.pair = stream.Start(caller, backend, options, func(end stream.End) { r.ended(&s, end, release) })
	r.live[s.ID] = &s
	closing := r.closing
	r.mu.Unlock()
	streamsOpenedTotal.WithLabelValues(s.Route).Inc()

	if closing {
		s.shutdown()
	}
}

// ended is called from a goroutine of the pair, where a panic would end the
// process: whatever fails in counting and logging, the stream is over.
func (r *Registry) ended(s *Stream, end stream.End, release func()) {
	defer func() {
		if value := recover(); value != nil {
			currentLogger().Error("noting a stream's end failed", zap.String("id", s.ID), zap.Any("panic", value), zap.Stack("stack"))
		}
		r.mu.Lock()
		delete(r.live, s.ID)
		r.mu.Unlock()
		close(s.ended)
	}()
	release()
	countStream(s, end)
	s.log(end)
}

// log writes the one line that a stream leaves. Anything but a closing
// handshake killed a live transcription, so it is a warning.
func (s *Stream) log(end stream.End) {
	level := zapcore.WarnLevel
	switch end.Reason {
	case stream.EndClosed, stream.EndShutdown:
		level = zapcore.InfoLevel
	case stream.EndFault:
		level = zapcore.ErrorLevel
	}
	c := currentLogger().Check(level, "stream ended")
	if c == nil {
		return
	}
	fromCaller, fromBackend := s.Traffic()
	fields := []zap.Field{
		zap.String("id", s.ID),
		zap.String("client_ip", s.ClientIP),
		zap.String("path", s.Path),
		zap.String("upstream", s.Upstream),
		zap.String("ended_by", end.By),
		zap.String("reason", end.Reason),
		zap.Int("close_code", end.Code),
		zap.String("close_text", end.Text),
		zap.Duration("duration", time.Since(s.Started())),
		zap.Int64("messages_from_caller", fromCaller.Messages),
		zap.Int64("bytes_from_caller", fromCaller.Bytes),
		zap.Int64("messages_from_backend", fromBackend.Messages),
		zap.Int64("bytes_from_backend", fromBackend.Bytes),
		zap.Error(end.Err),
	}
	var fault *stream.Panic
	if errors.As(end.Err, &fault) {
		fields = append(fields, zap.ByteString("stack", fault.Stack))
	}
	c.Write(fields...)
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
		s.pair.Shutdown(stream.CloseGoingAway, "ended by the operator", s.Drain)
	}
	return ok
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

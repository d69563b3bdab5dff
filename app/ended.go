package app

import (
	"errors"
	"strings"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/caddy-deepgram/deepgram-callback/relay/stream"
)

// A StreamFilter selects streams, live ones and those that ended. What is empty
// selects all.
type StreamFilter struct {
	Route, User, Upstream string
	// Path is a whole path, or with an asterisk behind it what paths begin with.
	Path string
}

// Selects reports whether the filter selects a stream.
func (f StreamFilter) Selects(s *StreamInfo) bool {
	return isOr(f.Route, s.Route) && isOr(f.User, s.User) && isOr(f.Upstream, s.Upstream) &&
		f.selectsPath(s.Path)
}

// isOr reports whether value is what is wanted, or nothing is.
func isOr(wanted, value string) bool { return wanted == "" || wanted == value }

func (f StreamFilter) selectsPath(path string) bool {
	if beginning, ok := strings.CutSuffix(f.Path, "*"); ok {
		return strings.HasPrefix(path, beginning)
	}
	return f.Path == "" || f.Path == path
}

// An EndedStream is what is known of a stream once it is over: what its log
// line says.
type EndedStream struct {
	StreamInfo
	StartedAt, EndedAt      time.Time
	By, Reason              string // as in [stream.End]
	Code                    stream.CloseCode
	Text                    string
	Error                   string // empty where no connection's error was the cause
	FromCaller, FromBackend stream.Traffic
}

// newEndedStream keeps of s what is small: neither its pair nor its error.
func newEndedStream(s *Stream, end stream.End) *EndedStream {
	ended := &EndedStream{
		StreamInfo: s.StreamInfo,
		StartedAt:  s.Started(),
		EndedAt:    time.Now(),
		By:         end.By,
		Reason:     end.Reason,
		Code:       end.Code,
		Text:       end.Text,
	}
	ended.FromCaller, ended.FromBackend = s.Traffic()
	if end.Err != nil {
		ended.Error = clip(end.Err.Error(), maxPath)
	}
	return ended
}

// log writes the one line that a stream leaves. Anything but a closing
// handshake killed a live transcription, so it is a warning.
func (s *EndedStream) log(logger *zap.Logger, end stream.End) {
	level := zapcore.WarnLevel
	switch end.Reason {
	case stream.EndClosed, stream.EndShutdown:
		level = zapcore.InfoLevel
	case stream.EndFault:
		level = zapcore.ErrorLevel
	}
	c := logger.Check(level, "stream ended")
	if c == nil {
		return
	}
	fields := []zap.Field{
		zap.String("id", s.ID),
		zap.String("route", s.Route),
		zap.String("user", s.User),
		zap.String("client_ip", s.ClientIP),
		zap.String("path", s.Path),
		zap.String("upstream", s.Upstream),
		zap.String("ended_by", end.By),
		zap.String("reason", end.Reason),
		zap.Int("close_code", int(end.Code)),
		zap.String("close_text", end.Text),
		zap.Duration("duration", s.EndedAt.Sub(s.StartedAt)),
		zap.Int64("messages_from_caller", s.FromCaller.Messages),
		zap.Int64("bytes_from_caller", s.FromCaller.Bytes),
		zap.Int64("messages_from_backend", s.FromBackend.Messages),
		zap.Int64("bytes_from_backend", s.FromBackend.Bytes),
		zap.Error(end.Err),
	}
	var fault *stream.Panic
	if errors.As(end.Err, &fault) {
		fields = append(fields, zap.ByteString("stack", fault.Stack))
	}
	c.Write(fields...)
}

// Ended returns the last streams that ended, the newest first.
func (r *Registry) Ended() []*EndedStream {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.over.newestFirst()
}

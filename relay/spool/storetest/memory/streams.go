// Live streams whose messages are accepted.

package memory

import (
	"context"

	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
)

// NoteStream implements spool.Store.
func (s *Store) NoteStream(ctx context.Context, stream spool.OpenStream) error {
	leave, err := s.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	s.p.streams[stream.ID] = noted{stream, s}
	return nil
}

// ForgetStream implements spool.Store.
func (s *Store) ForgetStream(ctx context.Context, id string) error {
	leave, err := s.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	delete(s.p.streams, id)
	return nil
}

// LostStreams implements spool.Store.
func (s *Store) LostStreams(ctx context.Context) ([]spool.OpenStream, error) {
	return s.streams(ctx, func(stream noted) bool { return stream.by != s })
}

// ExportStreams implements spool.Portable.
func (s *Store) ExportStreams(ctx context.Context) ([]spool.OpenStream, error) {
	return s.streams(ctx, func(noted) bool { return true })
}

func (s *Store) streams(ctx context.Context, want func(noted) bool) ([]spool.OpenStream, error) {
	leave, err := s.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	var streams []spool.OpenStream
	for _, stream := range s.p.streams {
		if want(stream) {
			streams = append(streams, stream.OpenStream)
		}
	}
	return streams, nil
}

// Live streams whose messages the inbox takes, in the place of a backend.

package spool

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/caddy-deepgram/deepgram-callback/relay/spool/seal"
)

// The fields that say which message of which stream a delivery is.
const (
	// HeaderStreamID is the id of the stream, the same for all of its messages.
	HeaderStreamID = "Deepgram-Stream-Id"

	// HeaderStreamSequence counts the messages of a stream: 1, 2, and so on, its end included.
	HeaderStreamSequence = "Deepgram-Stream-Sequence"

	// HeaderStreamEnd stands in the last delivery of a stream alone, and says why it has ended.
	HeaderStreamEnd = "Deepgram-Stream-End"
)

// StreamLost is how a stream ended whose process died: nobody knows more.
const StreamLost = "lost"

const (
	// streamsInterval is how often ends are looked for that are not safe yet.
	streamsInterval = 10 * time.Second

	// ordinaryMessage is for how many bytes there has to be room for a stream to begin.
	ordinaryMessage = 16 << 10

	// endTimeout bounds one try to make an end safe.
	endTimeout = 10 * time.Second

	// unknown is the sequence of a stream that is known by what is stored of it alone. What comes
	// behind it has no number.
	unknown = -1
)

// A Stream is a live stream. Its messages come in one after the other, and are delivered in that
// order, each as a callback of its own. It is used by one goroutine at a time.
type Stream struct {
	in       *Inbox
	id       string
	envelope Envelope   // of each message, without what differs
	keys     *seal.Keys // where the route has no configuration any more; nil encrypts nothing
	sequence int64      // of the message that was begun last; unknown if that is not known
	reason   string     // why it has ended; empty where no message is to say so
}

// OpenStream begins a stream with an id that is never used again. envelope is what its messages
// have in common. Should this process die, or the inbox refuse the end of the stream, a last message
// is delivered all the same, later, as soon as some process can. It fails with a *RefusedError where
// nothing can be kept at present.
func (in *Inbox) OpenStream(ctx context.Context, id string, envelope Envelope) (*Stream, error) {
	s := &Stream{in: in, id: id, envelope: envelope}
	s.envelope.Stream, s.envelope.ContentLength = id, -1
	s.keys = in.configOf(envelope.Route).Encrypt
	probe, err := in.store.NewBody(ctx, ordinaryMessage)
	if err == nil {
		probe.Discard()
		err = in.store.NoteStream(ctx, OpenStream{ID: id, Route: envelope.Route, Data: s.describe()})
	}
	if err != nil {
		return nil, in.told(envelope.Route, err)
	}
	return s, nil
}

// Begin begins the next message, once the one before was accepted.
func (s *Stream) Begin(ctx context.Context, contentType string) (*Incoming, error) {
	s.sequence++
	envelope := s.numbered(s.sequence)
	envelope.Header.Set("Content-Type", contentType)
	return s.in.begin(ctx, envelope, s.config())
}

// numbered returns the envelope of a message.
func (s *Stream) numbered(sequence int64) Envelope {
	envelope := s.envelope
	if envelope.Header = maps.Clone(s.envelope.Header); envelope.Header == nil {
		envelope.Header = make(http.Header)
	}
	envelope.Header.Del("Content-Type")
	envelope.Header.Set(HeaderStreamID, s.id)
	if sequence > 0 {
		envelope.Header.Set(HeaderStreamSequence, strconv.FormatInt(sequence, 10))
	}
	return envelope
}

// config is that of the route. A stream outlives configurations, and what it brings in is encrypted
// also where no configuration says so any more.
func (s *Stream) config() RouteConfig {
	config, ok := s.in.configured(s.envelope.Route)
	if !ok {
		config = RouteConfig{Encrypt: s.keys}.withDefaults()
	}
	return config
}

// End has a last message delivered, without a body, which says why the stream has ended. It returns
// when that is safe or ctx has ended; then it is tried again for as long as the inbox is open.
func (s *Stream) End(ctx context.Context, reason string) { s.finish(ctx, reason) }

// Cancel forgets a stream that has come to nothing: no message says so.
func (s *Stream) Cancel(ctx context.Context) { s.finish(ctx, "") }

func (s *Stream) finish(ctx context.Context, reason string) {
	s.reason = reason
	if err := s.makeEndSafe(ctx); err != nil {
		s.in.mu.Lock()
		s.in.unended[s.id] = s
		s.in.mu.Unlock()
	}
}

// makeEndSafe may be called again if it fails: a second end is a duplicate.
func (s *Stream) makeEndSafe(ctx context.Context) error {
	if s.reason != "" {
		envelope := s.numbered(s.sequence + 1)
		envelope.Header.Set(HeaderStreamEnd, s.reason)
		envelope.EndOfStream, envelope.ContentLength = true, 0
		m, err := s.in.begin(ctx, envelope, s.config())
		if err != nil {
			return err
		}
		if _, err := m.Accept(ctx); err != nil {
			return err
		}
	}
	return s.in.store.ForgetStream(ctx, s.id)
}

// endLost sees to the ends of streams that are not safe yet, until the inbox closes: of those that
// ended here while nothing could be kept, and of those whose process died.
func (in *Inbox) endLost() {
	ticker := time.NewTicker(streamsInterval)
	defer ticker.Stop()
	for {
		if in.haveConfiguration() {
			in.endStreams()
		}
		select {
		case <-in.ctx.Done():
			return
		case <-in.reconfigured:
		case <-ticker.C:
		}
	}
}

// haveConfiguration reports whether a configuration says how messages are stored.
func (in *Inbox) haveConfiguration() bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	return len(in.configurations) > 0
}

func (in *Inbox) endStreams() {
	in.mu.Lock()
	waiting := slices.Collect(maps.Values(in.unended))
	in.mu.Unlock()
	for _, s := range waiting {
		if err := in.endStream(s); err != nil {
			return // it is as bad for the others
		}
		in.mu.Lock()
		delete(in.unended, s.id)
		in.mu.Unlock()
	}

	lost, err := in.store.LostStreams(in.ctx)
	if err != nil {
		return // who cannot be asked says so elsewhere
	}
	for _, open := range lost {
		config, ok := in.configForLost(open.Route)
		if !ok {
			continue // its configuration may come, or another gateway have it
		}
		s, err := in.restoreStream(open, config.Encrypt)
		if err != nil {
			in.problem(fmt.Errorf("the end of stream %s cannot be delivered: %w", open.ID, err))
			s = &Stream{in: in, id: open.ID}
		}
		if err := in.endStream(s); err != nil {
			return
		}
	}
}

func (in *Inbox) endStream(s *Stream) error {
	ctx, cancel := context.WithTimeout(in.ctx, endTimeout)
	defer cancel()
	return s.makeEndSafe(ctx)
}

// configForLost returns the configuration of a route, or of the only one that would take over what
// is left of it.
func (in *Inbox) configForLost(name string) (config RouteConfig, ok bool) {
	if config, ok = in.configured(name); ok {
		return config, true
	}
	if _, shared := in.store.(Shared); shared {
		return config, false
	}
	in.mu.Lock()
	defer in.mu.Unlock()
	if newest := in.newest(); newest != nil && newest.only != nil {
		return newest.only.config, true
	}
	return config, false
}

// streamData is what is stored of a stream. It is in base64, as it may be no text.
type streamData struct {
	Method, Host, User, URI []byte
	Header                  json.RawMessage // as marshalHeader has it
}

// The first byte of what is stored says whether it is encrypted.
const (
	plainData  = 'p'
	sealedData = 's'
)

// describe returns what a later process needs to have the end of the stream delivered.
func (s *Stream) describe() []byte {
	e := s.envelope
	header, err := marshalHeader(e.Header)
	text, failed := json.Marshal(streamData{
		Method: []byte(e.Method), Host: []byte(e.Host), User: []byte(e.User), URI: []byte(e.URI),
		Header: header,
	})
	if err = errors.Join(err, failed); err != nil {
		panic(err) // there is nothing in it that has no JSON form
	}
	if s.keys == nil {
		return append([]byte{plainData}, text...)
	}
	key := s.keys.First()
	return append([]byte{sealedData}, append([]byte(key.ID()), key.Seal(text, []byte(s.id))...)...)
}

// restoreStream makes a stream of what an earlier process, or another one, has stored of it.
func (in *Inbox) restoreStream(open OpenStream, keys *seal.Keys) (*Stream, error) {
	text, err := openStream(keys, open)
	if err != nil {
		return nil, err
	}
	var data streamData
	if err := json.Unmarshal(text, &data); err != nil {
		return nil, fmt.Errorf("%w: what is stored of it: %w", ErrDamaged, err)
	}
	header, err := unmarshalHeader(data.Header)
	if err != nil {
		return nil, fmt.Errorf("%w: what is stored of it: %w", ErrDamaged, err)
	}
	return &Stream{
		in: in, id: open.ID, sequence: unknown, keys: keys, reason: StreamLost,
		envelope: Envelope{
			Route: open.Route, Method: string(data.Method), Host: string(data.Host),
			User: string(data.User), URI: string(data.URI), Header: header, Stream: open.ID,
		},
	}, nil
}

// openStream returns the plain form of what is stored of a stream.
func openStream(keys *seal.Keys, open OpenStream) ([]byte, error) {
	if len(open.Data) == 0 {
		return nil, ErrDamaged
	}
	text := open.Data[1:]
	switch {
	case open.Data[0] == plainData:
		return text, nil
	case open.Data[0] != sealedData || len(text) < seal.IDSize:
		return nil, ErrDamaged
	}
	key, err := findKey(keys, string(text[:seal.IDSize]))
	if err != nil {
		return nil, err
	}
	return openText(key, text[seal.IDSize:], []byte(open.ID))
}

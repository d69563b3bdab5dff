package simulator

// The messages of a live stream, as they were recorded.

import (
	"encoding/json"

	"github.com/caddy-deepgram/deepgram-callback/simulator/audio"
)

// recordedScript plays messages of the user's. Each is due when the audio that it is about
// has come, and after the message before it.
type recordedScript struct {
	options   options
	requestID string
	messages  []recordedMessage
	metadata  *recordedMessage
}

func newRecordedScript(requestID string, o options, messages []recordedMessage) *recordedScript {
	s := &recordedScript{options: o, requestID: requestID}
	for _, m := range messages {
		if m.kind == "Metadata" {
			// Metadata is the last message of a stream, so it waits for the end.
			s.metadata = &m
			continue
		}
		s.messages = append(s.messages, m)
	}
	return s
}

func (s *recordedScript) advance(seconds float64, emit func(message) error) error {
	for len(s.messages) > 0 && s.messages[0].due <= seconds {
		if err := s.emitNext(emit); err != nil {
			return err
		}
	}
	return nil
}

// finalize does nothing: a recorded sentence ends where it was recorded to.
func (s *recordedScript) finalize(float64, func(message) error) error { return nil }

func (s *recordedScript) finish(heard audio.Heard, emit func(message) error) error {
	for len(s.messages) > 0 {
		if err := s.emitNext(emit); err != nil {
			return err
		}
	}
	if s.metadata == nil {
		metadata := newListenMetadata(s.requestID, s.options, heard)
		metadata.Type = "Metadata"
		return emitJSON(metadata, false, emit)
	}
	body, err := json.Marshal(s.metadata.body)
	if err != nil {
		return err
	}
	if body, err = patched(body, s.options.ofRequest(s.requestID, nil)); err != nil {
		return err
	}
	return emit(message{body: body})
}

func (s *recordedScript) emitNext(emit func(message) error) error {
	m := s.messages[0]
	s.messages = s.messages[1:]
	body, err := json.Marshal(m.body)
	if err != nil {
		return err
	}
	if m.results {
		metadata := s.options.ofRequest(s.requestID, nil)
		if body, err = patch(body, map[string]map[string]any{"metadata": metadata}); err != nil {
			return err
		}
	}
	return emit(message{body: body, results: m.results})
}

// Interface guards
var (
	_ script = (*storyScript)(nil)
	_ script = (*recordedScript)(nil)
)

package simulator

// The messages of a live stream, and when they are due. That depends on how much audio has
// come, and not on how it was cut into messages: the same audio always gives the same
// results.

import (
	"encoding/json"

	"github.com/caddy-deepgram/deepgram-callback/simulator/audio"
)

// message is one text message of a live stream.
type message struct {
	body []byte
	// results says that the message is of the type Results.
	results bool
}

// script is what is said in a live stream. Its methods emit messages, and end with the
// error of emit, if that returns one.
type script interface {
	// advance emits what is due after so many seconds of audio.
	advance(seconds float64, emit func(message) error) error
	// finalize emits what was heard of a sentence that is not over.
	finalize(seconds float64, emit func(message) error) error
	// finish emits everything that is left, and last the metadata.
	finish(heard audio.Heard, emit func(message) error) error
}

type streamResults struct {
	Type         string         `json:"type"`
	ChannelIndex [2]int         `json:"channel_index"`
	Duration     float64        `json:"duration"`
	Start        float64        `json:"start"`
	IsFinal      bool           `json:"is_final"`
	SpeechFinal  bool           `json:"speech_final"`
	FromFinalize bool           `json:"from_finalize"`
	Channel      channelResult  `json:"channel"`
	Metadata     streamMetadata `json:"metadata"`
}

type streamMetadata struct {
	RequestID string            `json:"request_id"`
	ModelInfo modelInfo         `json:"model_info"`
	ModelUUID string            `json:"model_uuid"`
	Extra     map[string]string `json:"extra,omitempty"`
	Simulated bool              `json:"simulated"`
}

type speechStarted struct {
	Type      string  `json:"type"`
	Channel   [2]int  `json:"channel"`
	Timestamp float64 `json:"timestamp"`
}

type utteranceEnd struct {
	Type        string  `json:"type"`
	Channel     [2]int  `json:"channel"`
	LastWordEnd float64 `json:"last_word_end"`
}

const (
	// endpointing is how many seconds of silence end a sentence.
	endpointing = 0.3
	// interimEvery is how many seconds are between interim results of a sentence.
	interimEvery = 1.0
)

// storyScript says a story.
type storyScript struct {
	options   options
	requestID string
	channels  int
	narrator  *narrator

	current spokenSentence
	begun   bool    // SpeechStarted was emitted for it
	final   int     // how many of its words were in final results
	interim float64 // when its next interim result is due
	from    float64 // the end of the latest final result

	lastWord float64 // the end of the last word in a final result
	ended    float64 // the last_word_end of the latest UtteranceEnd
	silence  float64 // when the next UtteranceEnd is due; zero if none is
}

func newStoryScript(requestID string, o options, channels int, text *story) *storyScript {
	if !o.multichannel {
		channels = 1
	}
	s := &storyScript{options: o, requestID: requestID, channels: channels, narrator: text.narrate()}
	s.nextSentence()
	return s
}

func (s *storyScript) nextSentence() {
	s.current = s.narrator.say()
	s.begun, s.final = false, 0
	s.interim = s.current.start + interimEvery
}

func (s *storyScript) advance(seconds float64, emit func(message) error) error {
	for {
		over := s.current.end + endpointing
		var err error
		switch {
		case s.silence > 0 && s.silence <= seconds:
			err = s.emitUtteranceEnd(emit)
		case s.silence > 0:
			return nil
		case !s.begun && s.current.start <= seconds:
			s.begun = true
			err = s.emitSpeechStarted(emit)
		case s.begun && s.interim < s.current.end && s.interim <= seconds:
			err = s.emitInterim(emit)
		case s.begun && over <= seconds:
			err = s.emitFinal(over, true, false, emit)
			s.expectSilence()
			s.nextSentence()
		default:
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// expectSilence decides whether the pause after the current sentence is long
// enough for an UtteranceEnd.
func (s *storyScript) expectSilence() {
	due := s.current.end + s.options.utteranceEnd
	if s.options.utteranceEnd > 0 && due < s.current.next {
		s.silence = max(due, s.from)
	}
}

// finalize emits a result even if nothing was heard since the latest final one, because
// clients wait for it.
func (s *storyScript) finalize(seconds float64, emit func(message) error) error {
	return s.emitFinal(seconds, false, true, emit)
}

func (s *storyScript) finish(heard audio.Heard, emit func(message) error) error {
	if heard.Seconds > s.from {
		if err := s.emitFinal(heard.Seconds, true, false, emit); err != nil {
			return err
		}
	}
	if s.options.utteranceEnd > 0 && s.lastWord > s.ended {
		if err := s.emitUtteranceEnd(emit); err != nil {
			return err
		}
	}
	metadata := newListenMetadata(s.requestID, s.options, heard)
	metadata.Type = "Metadata"
	if heard.Seconds == 0 {
		metadata.Channels = 0 // as in the vendor's example of a stream without audio
	}
	return emitJSON(metadata, false, emit)
}

func (s *storyScript) emitInterim(emit func(message) error) error {
	at := s.interim
	s.interim += interimEvery
	if !s.options.interim {
		return nil
	}
	return s.emitResults(at, streamResults{}, emit)
}

func (s *storyScript) emitFinal(
	at float64, speechFinal, fromFinalize bool, emit func(message) error,
) error {
	err := s.emitResults(at,
		streamResults{IsFinal: true, SpeechFinal: speechFinal, FromFinalize: fromFinalize}, emit)
	if words := s.current.said(at); len(words) > s.final {
		s.final = len(words)
		s.lastWord = words[len(words)-1].end
	}
	s.from = max(s.from, at)
	return err
}

// emitResults emits, for each channel, what was said since the last final
// result.
func (s *storyScript) emitResults(
	at float64, result streamResults, emit func(message) error,
) error {
	said := s.current.said(at)
	words := s.options.newWords(said[min(s.final, len(said)):], s.current.paragraph, false)
	result.Type = "Results"
	result.Start = s.from
	result.Duration = roundTo(max(0, at-s.from), 1e6)
	result.Channel = channelResult{[]alternative{{
		Transcript: transcriptOf(words), Confidence: meanConfidence(words), Words: words,
	}}}
	result.Metadata = streamMetadata{
		RequestID: s.requestID,
		ModelInfo: s.options.modelInfo(),
		ModelUUID: s.options.modelUUID(),
		Extra:     s.options.extra,
		Simulated: true,
	}
	return s.emitOfEachChannel(true, emit, func(channel [2]int) any {
		result.ChannelIndex = channel
		return result
	})
}

func (s *storyScript) emitSpeechStarted(emit func(message) error) error {
	if !s.options.vadEvents {
		return nil
	}
	return s.emitOfEachChannel(false, emit, func(channel [2]int) any {
		return speechStarted{Type: "SpeechStarted", Channel: channel, Timestamp: s.current.start}
	})
}

func (s *storyScript) emitUtteranceEnd(emit func(message) error) error {
	s.silence, s.ended = 0, s.lastWord
	return s.emitOfEachChannel(false, emit, func(channel [2]int) any {
		return utteranceEnd{Type: "UtteranceEnd", Channel: channel, LastWordEnd: s.lastWord}
	})
}

func (s *storyScript) emitOfEachChannel(
	results bool, emit func(message) error, of func(channel [2]int) any,
) error {
	for channel := range s.channels {
		if err := emitJSON(of([2]int{channel, s.channels}), results, emit); err != nil {
			return err
		}
	}
	return nil
}

func emitJSON(value any, results bool, emit func(message) error) error {
	body, err := json.Marshal(value)
	if err != nil {
		return err
	}
	return emit(message{body: body, results: results})
}

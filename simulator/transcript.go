package simulator

// Pre-recorded results, shaped like the vendor's.

import (
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/caddy-deepgram/deepgram-callback/simulator/audio"
)

// listenResult is a pre-recorded result.
type listenResult struct {
	Metadata listenMetadata `json:"metadata"`
	Results  listenResults  `json:"results"`
}

// listenMetadata is the metadata of a pre-recorded result. With a type, it is the last
// message of a live stream.
type listenMetadata struct {
	Type           string               `json:"type,omitempty"`
	TransactionKey string               `json:"transaction_key"`
	RequestID      string               `json:"request_id"`
	SHA256         string               `json:"sha256"`
	Created        string               `json:"created"`
	Duration       float64              `json:"duration"`
	Channels       int                  `json:"channels"`
	Tags           []string             `json:"tags,omitempty"`
	Models         []string             `json:"models"`
	ModelInfo      map[string]modelInfo `json:"model_info"`
	Warnings       []warning            `json:"warnings,omitempty"`
	Extra          map[string]string    `json:"extra,omitempty"`
	Simulated      bool                 `json:"simulated"`
}

type warning struct {
	Parameter string `json:"parameter"`
	Type      string `json:"type"`
	Message   string `json:"message"`
}

type listenResults struct {
	Channels   []channelResult `json:"channels"`
	Utterances []utterance     `json:"utterances,omitempty"`
}

type channelResult struct {
	Alternatives []alternative `json:"alternatives"`
}

type alternative struct {
	Transcript string      `json:"transcript"`
	Confidence float64     `json:"confidence"`
	Words      []word      `json:"words"`
	Paragraphs *paragraphs `json:"paragraphs,omitempty"`
}

type word struct {
	Word              string   `json:"word"`
	Start             float64  `json:"start"`
	End               float64  `json:"end"`
	Confidence        float64  `json:"confidence"`
	Speaker           *int     `json:"speaker,omitempty"`
	SpeakerConfidence *float64 `json:"speaker_confidence,omitempty"`
	PunctuatedWord    string   `json:"punctuated_word,omitempty"`
}

type paragraphs struct {
	Transcript string      `json:"transcript"`
	Paragraphs []paragraph `json:"paragraphs"`
}

type paragraph struct {
	Sentences []sentence `json:"sentences"`
	Speaker   *int       `json:"speaker,omitempty"`
	NumWords  int        `json:"num_words"`
	Start     float64    `json:"start"`
	End       float64    `json:"end"`
}

type sentence struct {
	Text  string  `json:"text"`
	Start float64 `json:"start"`
	End   float64 `json:"end"`
}

type utterance struct {
	Start      float64 `json:"start"`
	End        float64 `json:"end"`
	Confidence float64 `json:"confidence"`
	Channel    int     `json:"channel"`
	Transcript string  `json:"transcript"`
	Words      []word  `json:"words"`
	Speaker    *int    `json:"speaker,omitempty"`
	ID         string  `json:"id"`
}

// now is the present time as the vendor writes it.
func now() string { return time.Now().UTC().Format("2006-01-02T15:04:05.000Z") }

func newListenMetadata(requestID string, o options, heard audio.Heard) listenMetadata {
	model := o.modelUUID()
	return listenMetadata{
		TransactionKey: "deprecated",
		RequestID:      requestID,
		SHA256:         heard.SHA256,
		Created:        now(),
		Duration:       heard.Seconds,
		Channels:       heard.Channels,
		Tags:           o.tags,
		Models:         []string{model},
		ModelInfo:      map[string]modelInfo{model: o.modelInfo()},
		Extra:          o.extra,
		Simulated:      true,
	}
}

// newListenResult makes the result for some audio. If there are several channels, the same
// is said on all of them.
func newListenResult(requestID string, o options, heard audio.Heard, text *story) listenResult {
	channels := 1
	if o.multichannel {
		channels = heard.Channels
	}
	said := text.listen(heard.Seconds, maxWords/channels)

	result := listenResult{Metadata: newListenMetadata(requestID, o, heard)}
	for channel := range channels {
		result.Results.Channels = append(result.Results.Channels,
			channelResult{[]alternative{o.alternative(said)}})
		if o.utterances {
			result.Results.Utterances = append(result.Results.Utterances,
				o.newUtterances(said, heard, channel)...)
		}
	}
	return result
}

func (o options) alternative(said []spokenSentence) alternative {
	alt := alternative{Words: []word{}}
	var texts []string
	for _, s := range said {
		words := o.newWords(s.words, s.paragraph, true)
		alt.Words = append(alt.Words, words...)
		texts = append(texts, transcriptOf(words))
	}
	alt.Transcript = strings.Join(texts, " ")
	alt.Confidence = meanConfidence(alt.Words)
	if o.paragraphs && len(said) > 0 {
		alt.Paragraphs = o.newParagraphs(said)
	}
	return alt
}

// newWords shapes words as the request wants them. speaker says them, which shows if the
// request asks for it.
func (o options) newWords(said []spokenWord, speaker int, withSpeakerConfidence bool) []word {
	words := make([]word, 0, len(said))
	for _, s := range said {
		w := word{Word: plainWord(s.text), Start: s.start, End: s.end, Confidence: s.confidence}
		if o.punctuate {
			w.PunctuatedWord = s.text
		}
		if o.diarize {
			w.Speaker = new(speaker % 2)
			if withSpeakerConfidence {
				w.SpeakerConfidence = new(s.confidence)
			}
		}
		words = append(words, w)
	}
	return words
}

// transcriptOf joins words, with their punctuation if they have any.
func transcriptOf(words []word) string {
	var b strings.Builder
	for i, w := range words {
		if i > 0 {
			b.WriteByte(' ')
		}
		if w.PunctuatedWord != "" {
			b.WriteString(w.PunctuatedWord)
		} else {
			b.WriteString(w.Word)
		}
	}
	return b.String()
}

func meanConfidence(words []word) float64 {
	if len(words) == 0 {
		return 0
	}
	sum := 0.0
	for _, w := range words {
		sum += w.Confidence
	}
	return roundTo(sum/float64(len(words)), 1e7)
}

// newParagraphs groups sentences into paragraphs. The transcript names the speakers if the
// request asks for them.
func (o options) newParagraphs(said []spokenSentence) *paragraphs {
	all := &paragraphs{}
	var transcript strings.Builder
	for i, s := range said {
		words := o.newWords(s.words, s.paragraph, true)
		text := transcriptOf(words)
		if i == 0 || s.paragraph != said[i-1].paragraph {
			all.Paragraphs = append(all.Paragraphs, paragraph{Start: s.start, Speaker: words[0].Speaker})
			transcript.WriteString("\n")
			if i > 0 {
				transcript.WriteString("\n")
			}
			if o.diarize {
				fmt.Fprintf(&transcript, "Speaker %d: ", *words[0].Speaker)
			}
		} else {
			transcript.WriteByte(' ')
		}
		transcript.WriteString(text)

		current := &all.Paragraphs[len(all.Paragraphs)-1]
		current.Sentences = append(current.Sentences, sentence{text, s.start, s.end})
		current.NumWords += len(words)
		current.End = s.end
	}
	all.Transcript = transcript.String()
	return all
}

func (o options) newUtterances(said []spokenSentence, heard audio.Heard, channel int) []utterance {
	var utterances []utterance
	for i, s := range said {
		words := o.newWords(s.words, s.paragraph, true)
		id := fmt.Sprintf("utterance:%s:%d:%d", heard.SHA256, channel, i)
		utterances = append(utterances, utterance{
			Start:      s.start,
			End:        s.end,
			Confidence: meanConfidence(words),
			Channel:    channel,
			Transcript: transcriptOf(words),
			Words:      words,
			Speaker:    words[0].Speaker,
			ID:         uuid.NewSHA1(simulatorNamespace, []byte(id)).String(),
		})
	}
	return utterances
}

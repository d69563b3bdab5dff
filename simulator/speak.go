package simulator

// POST /v1/speak and /v2/speak: text to speech. The speech is silence, for as long as it
// takes to say the text.

import (
	"bytes"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/caddy-deepgram/deepgram-callback/simulator/audio"
)

const (
	// maxSpeakText is how many characters a text may have, as with the vendor.
	maxSpeakText = 2000

	// charactersPerSec is how many characters of a text are said in a second.
	charactersPerSec = 15
)

// speakRates are the sample rates that the vendor documents for encodings without a bit
// rate.
var speakRates = []int{8000, 16000, 24000, 32000, 44100, 48000}

// errNotFlux is the error of /v2/speak for any other model, or none, as it has no default
// (https://developers.deepgram.com/docs/flux-tts/batch).
var errNotFlux = refusal(http.StatusBadRequest,
	"Invalid model: /v2/speak needs a flux-{voice}-{language} model; use /v1/speak for Aura voices.")

func (s *Simulator) speak(w http.ResponseWriter, r *http.Request, c *call) (*callback, error) {
	model := defaultSpeakModel
	if r.URL.Path == "/v2/speak" {
		model = ""
	}
	o, err := parseOptions(c.query, model)
	if err != nil {
		return nil, err
	}
	if model == "" && !strings.HasPrefix(o.model, "flux-") {
		return nil, errNotFlux
	}
	text, _, err := readText(w, r)
	if err != nil {
		return nil, err
	}
	characters := utf8.RuneCountInString(text)
	if characters > maxSpeakText {
		return nil, refusal(http.StatusRequestEntityTooLarge,
			"Input text exceeds the limit of %d characters.", maxSpeakText)
	}

	var spoken speech
	if len(s.bodies.speak) > 0 {
		spoken = choose(s.bodies.speak, sha256Of(text))
	} else if spoken, err = synthesise(characters, c.query); err != nil {
		return nil, err
	}

	// The vendor's SDKs read these fields of every answer, also of one with a callback. The
	// Go SDK fails if there is no dg-char-count, and the Python SDK (3 and 4) if there is no
	// Transfer-Encoding.
	w.Header().Set("Dg-Model-Name", o.model)
	w.Header().Set("Dg-Model-Uuid", o.modelUUID())
	w.Header().Set("Dg-Char-Count", strconv.Itoa(characters))
	if r.ProtoMajor == 1 {
		w.Header().Set("Transfer-Encoding", "chunked")
	}
	return &callback{kind: "speak", contentType: spoken.contentType, body: spoken.audio}, nil
}

// synthesise makes the audio of a text with so many characters, in the form
// that a request asks for.
func synthesise(characters int, query url.Values) (speech, error) {
	name, container := query.Get("encoding"), query.Get("container")
	if name == "" && container == "wav" {
		name = "linear16"
	}
	seconds := float64(characters) / charactersPerSec
	if name == "" || name == "mp3" {
		return speech{contentType: "audio/mpeg", audio: audio.SilentMP3(seconds)}, nil
	}
	encoding, ok := pcmEncodings[name]
	if !ok {
		return speech{}, refusal(http.StatusBadRequest,
			"The simulator does not encode %q: it has mp3, linear16, mulaw and alaw, "+
				"and sends files of its option `results`.", name)
	}
	rate := encoding.rate
	if value := query.Get("sample_rate"); value != "" {
		var err error
		if rate, err = strconv.Atoi(value); err != nil || !slices.Contains(speakRates, rate) {
			return speech{}, refusal(http.StatusBadRequest, "Invalid sample_rate: use one of %s.",
				strings.Trim(fmt.Sprint(speakRates), "[]"))
		}
	}
	samples := int(seconds * float64(rate))
	sound := bytes.Repeat(encoding.silence, samples)
	switch container {
	case "", "wav":
		header := audio.AppendWAVHeader(nil, encoding.wavFormat, 1, rate, 8*len(encoding.silence), len(sound))
		return speech{contentType: "audio/wav", audio: append(header, sound...)}, nil
	case "none":
		return speech{contentType: fmt.Sprintf("%s;rate=%d", encoding.mediaType, rate), audio: sound}, nil
	default:
		return speech{}, refusal(http.StatusBadRequest,
			"Invalid container: it is wav or none for this encoding.")
	}
}

// pcmEncoding is an encoding with samples of a fixed size.
type pcmEncoding struct {
	mediaType string
	wavFormat int    // its number in a WAV header (RFC 2361)
	rate      int    // the default sample rate
	silence   []byte // one sample of silence
}

var pcmEncodings = map[string]pcmEncoding{
	"linear16": {"audio/l16", 1, 24000, []byte{0, 0}},
	"mulaw":    {"audio/mulaw", 7, 8000, []byte{0xff}}, // ITU-T G.711
	"alaw":     {"audio/alaw", 6, 8000, []byte{0xd5}},
}

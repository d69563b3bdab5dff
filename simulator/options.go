package simulator

// The parameters of a request that change its result. All others are accepted and
// change nothing, as with the vendor.

import (
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/google/uuid"
)

// options are what a request says about its result.
type options struct {
	model        string
	extra        map[string]string
	tags         []string
	punctuate    bool
	paragraphs   bool
	diarize      bool
	utterances   bool
	multichannel bool

	// These are for live streams.
	interim      bool
	vadEvents    bool
	utteranceEnd float64 // in seconds; zero: no UtteranceEnd messages
}

const (
	defaultModel      = "base-general"
	defaultSpeakModel = "aura-asteria-en"
)

func parseOptions(query url.Values, model string) (options, error) {
	o := options{
		model:        model,
		tags:         query["tag"],
		diarize:      isOn(query, "diarize"),
		utterances:   isOn(query, "utterances"),
		multichannel: isOn(query, "multichannel"),
		interim:      isOn(query, "interim_results"),
		vadEvents:    isOn(query, "vad_events"),
	}
	smart := isOn(query, "smart_format")
	o.paragraphs = smart || isOn(query, "paragraphs")
	o.punctuate = o.paragraphs || isOn(query, "punctuate")
	if name := query.Get("model"); name != "" {
		o.model = name
	}
	for _, pair := range query["extra"] {
		if o.extra == nil {
			o.extra = make(map[string]string)
		}
		// Only the first colon separates: a value can be a URL.
		key, value, _ := strings.Cut(pair, ":")
		o.extra[key] = value
	}
	if value := query.Get("utterance_end_ms"); value != "" {
		ms, err := strconv.Atoi(value)
		if err != nil || ms < 1 || ms > 60_000 {
			return o, refusal(http.StatusBadRequest,
				"Invalid utterance_end_ms: it must be a number of milliseconds.")
		}
		o.utteranceEnd = float64(ms) / 1000
	}
	return o, nil
}

func isOn(query url.Values, name string) bool {
	on, err := strconv.ParseBool(query.Get(name))
	return err == nil && on
}

// modelInfo describes the model, as a simulated one.
type modelInfo struct {
	Name    string `json:"name"`
	Version string `json:"version"`
	Arch    string `json:"arch"`
}

func (o options) modelInfo() modelInfo {
	return modelInfo{Name: "simulated-" + o.model, Version: "simulated", Arch: o.model}
}

func (o options) modelUUID() string {
	return uuid.NewSHA1(simulatorNamespace, []byte("model:"+o.model)).String()
}

package simulator

// POST /v1/read: text intelligence.

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"net/http"
	"strings"

	"github.com/google/uuid"
)

// readResult is a result of text intelligence.
type readResult struct {
	Metadata readMetadata `json:"metadata"`
	Results  readResults  `json:"results"`
}

type readMetadata struct {
	RequestID     string            `json:"request_id"`
	Created       string            `json:"created"`
	Language      string            `json:"language"`
	SummaryInfo   *readInfo         `json:"summary_info,omitempty"`
	SentimentInfo *readInfo         `json:"sentiment_info,omitempty"`
	TopicsInfo    *readInfo         `json:"topics_info,omitempty"`
	IntentsInfo   *readInfo         `json:"intents_info,omitempty"`
	Warnings      []warning         `json:"warnings,omitempty"`
	Tags          []string          `json:"tags,omitempty"`
	Extra         map[string]string `json:"extra,omitempty"`
	Simulated     bool              `json:"simulated"`
}

// readInfo is what a feature used.
type readInfo struct {
	ModelUUID    string `json:"model_uuid"`
	InputTokens  int    `json:"input_tokens"`
	OutputTokens int    `json:"output_tokens"`
}

type readResults struct {
	Summary    *readSummary    `json:"summary,omitempty"`
	Sentiments *readSentiments `json:"sentiments,omitempty"`
	Topics     *readSegments   `json:"topics,omitempty"`
	Intents    *readSegments   `json:"intents,omitempty"`
}

type readSummary struct {
	Text string `json:"text"`
}

type readSentiments struct {
	Segments []readSegment `json:"segments"`
	Average  readAverage   `json:"average"`
}

type readAverage struct {
	Sentiment      string  `json:"sentiment"`
	SentimentScore float64 `json:"sentiment_score"`
}

type readSegments struct {
	Segments []readSegment `json:"segments"`
}

type readSegment struct {
	Text      string `json:"text"`
	StartWord int    `json:"start_word"`
	EndWord   int    `json:"end_word"`

	Sentiment      string       `json:"sentiment,omitempty"`
	SentimentScore *float64     `json:"sentiment_score,omitempty"`
	Topics         []readTopic  `json:"topics,omitempty"`
	Intents        []readIntent `json:"intents,omitempty"`
}

type readTopic struct {
	Topic           string  `json:"topic"`
	ConfidenceScore float64 `json:"confidence_score"`
}

type readIntent struct {
	Intent          string  `json:"intent"`
	ConfidenceScore float64 `json:"confidence_score"`
}

func (s *Simulator) serveRead(w http.ResponseWriter, r *http.Request, c *call) error {
	reply, err := s.newReply(c)
	if err != nil {
		return c.refuse(w, err)
	}
	o, err := parseOptions(c.query, "")
	if err != nil {
		return c.refuse(w, err)
	}
	text, notes, err := readText(w, r)
	if err != nil {
		return c.refuse(w, err)
	}

	var body []byte
	if len(s.bodies.read) > 0 {
		sum := sha256.Sum256([]byte(text))
		body, err = patchMetadata(choose(s.bodies.read, hex.EncodeToString(sum[:])), o.ofRequest(c.requestID))
	} else {
		result := newReadResult(c, o, text)
		result.Metadata.Warnings = notes
		body, err = json.Marshal(result)
	}
	if err != nil {
		return c.refuse(w, err)
	}
	return s.answer(w, c, reply, &callback{kind: "read", contentType: "application/json", body: body})
}

// readText returns the text of a request: plain, or in JSON. A text that a URL
// names is not fetched; the URL stands for it.
func readText(w http.ResponseWriter, r *http.Request) (string, []warning, error) {
	if !isJSON(r) {
		text, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxJSON))
		if err != nil {
			return "", nil, unreadable(err)
		}
		if strings.TrimSpace(string(text)) == "" {
			return "", nil, refusal(http.StatusBadRequest, "Bad Request: there is no text in the request body")
		}
		return string(text), nil, nil
	}
	var body struct {
		Text string `json:"text"`
		URL  string `json:"url"`
	}
	if err := readJSON(w, r, &body); err != nil {
		return "", nil, err
	}
	if body.Text == "" && body.URL != "" {
		return body.URL, []warning{{
			Parameter: "url",
			Type:      "simulated",
			Message:   "The simulator does not fetch texts: the result is about the URL.",
		}}, nil
	}
	if strings.TrimSpace(body.Text) == "" {
		return "", nil, errNotJSON
	}
	return body.Text, nil, nil
}

// newReadResult makes the result of those features that the request wants.
func newReadResult(c *call, o options, text string) readResult {
	language := c.query.Get("language")
	if language == "" {
		language = "en"
	}
	result := readResult{Metadata: readMetadata{
		RequestID: c.requestID,
		Created:   now(),
		Language:  language,
		Tags:      o.tags,
		Extra:     o.extra,
		Simulated: true,
	}}

	words := strings.Fields(text)
	info := func(feature string) *readInfo {
		id := uuid.NewSHA1(simulatorNamespace, []byte("model:"+feature)).String()
		return &readInfo{ModelUUID: id, InputTokens: len(words), OutputTokens: 1}
	}
	whole := readSegment{Text: text, EndWord: max(0, len(words)-1)}

	if isOn(c.query, "summarize") || c.query.Get("summarize") == "v2" {
		result.Metadata.SummaryInfo = info("summarize")
		result.Results.Summary = &readSummary{"Simulated summary: " + strings.Join(words[:min(len(words), 20)], " ")}
	}
	if isOn(c.query, "sentiment") {
		segment := whole
		segment.Sentiment, segment.SentimentScore = "neutral", new(0.0)
		result.Metadata.SentimentInfo = info("sentiment")
		result.Results.Sentiments = &readSentiments{Segments: []readSegment{segment}, Average: readAverage{Sentiment: "neutral"}}
	}
	if isOn(c.query, "topics") {
		segment := whole
		segment.Topics = []readTopic{{"Simulated topic", 0.9}}
		result.Metadata.TopicsInfo = info("topics")
		result.Results.Topics = &readSegments{[]readSegment{segment}}
	}
	if isOn(c.query, "intents") {
		segment := whole
		segment.Intents = []readIntent{{"Simulate an intent", 0.9}}
		result.Metadata.IntentsInfo = info("intents")
		result.Results.Intents = &readSegments{[]readSegment{segment}}
	}
	return result
}

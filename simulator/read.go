package simulator

// POST /v1/read: text intelligence. The result consists of the parts of a recording that
// the request asks for.

import (
	"io"
	"net/http"
	"slices"
	"strings"
)

// readFeature is a parameter that asks for a part of a result, and the names of that part
// in the results and in the metadata.
type readFeature struct{ parameter, result, info string }

var readFeatures = []readFeature{
	{"summarize", "summary", "summary_info"},
	{"sentiment", "sentiments", "sentiment_info"},
	{"topics", "topics", "topics_info"},
	{"intents", "intents", "intents_info"},
}

func (s *Simulator) read(w http.ResponseWriter, r *http.Request, c *call) (*callback, error) {
	o, err := parseOptions(c.query, "")
	if err != nil {
		return nil, err
	}
	text, notes, err := readText(w, r)
	if err != nil {
		return nil, err
	}

	metadata, results := o.ofRequest(c.requestID, notes), make(map[string]any)
	if language := c.query.Get("language"); language != "" {
		metadata["language"] = language
	}
	if slices.ContainsFunc(readFeatures, c.asksFor) {
		for _, feature := range readFeatures {
			if !c.asksFor(feature) {
				metadata[feature.info], results[feature.result] = nil, nil
			}
		}
	}
	body, err := patch(choose(s.bodies.read, sha256Of(text)),
		map[string]map[string]any{"metadata": metadata, "results": results})
	return &callback{kind: "read", contentType: "application/json", body: body}, err
}

func (c *call) asksFor(feature readFeature) bool {
	// summarize names a version, of which v2 is the only one.
	return isOn(c.query, feature.parameter) ||
		feature.parameter == "summarize" && c.query.Get("summarize") == "v2"
}

// readText returns the text of a request, which is plain or in JSON. A text that is named
// by a URL is not fetched: the URL is taken for the text.
func readText(w http.ResponseWriter, r *http.Request) (string, []warning, error) {
	if !isJSON(r) {
		text, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxJSON))
		if err != nil {
			return "", nil, unreadable(err)
		}
		if strings.TrimSpace(string(text)) == "" {
			return "", nil, refusal(http.StatusBadRequest,
				"Bad Request: there is no text in the request body")
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

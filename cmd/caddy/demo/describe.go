// What the demo prints of a callback or a message.

package demo

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"unicode/utf8"

	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
)

// shownHeaders are fields that are of interest and hold no credential.
var shownHeaders = []string{
	"Content-Type", "User-Agent", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto",
	spool.HeaderStreamSequence,
}

// excerptLength is how much of a transcript is shown, in characters.
const excerptLength = 200

// result is what the demo reads of Deepgram's results, batch and streaming.
type result struct {
	Type      string `json:"type"`
	RequestID string `json:"request_id"`
	ErrMsg    string `json:"err_msg"`
	IsFinal   bool   `json:"is_final"`
	Metadata  struct {
		RequestID string `json:"request_id"`
	} `json:"metadata"`
	Results struct {
		Channels []channel `json:"channels"`
	} `json:"results"`
	Channel json.RawMessage `json:"channel"` // UtteranceEnd has numbers here
}

type channel struct {
	Alternatives []struct {
		Transcript string `json:"transcript"`
	} `json:"alternatives"`
}

// transcript joins the first transcript of every channel.
func (r *result) transcript() string {
	channels := r.Results.Channels
	var live channel
	if json.Unmarshal(r.Channel, &live) == nil {
		channels = append(channels, live)
	}
	var transcripts []string
	for _, c := range channels {
		if len(c.Alternatives) > 0 {
			transcripts = append(transcripts, c.Alternatives[0].Transcript)
		}
	}
	return strings.Join(transcripts, " / ")
}

func (r *result) requestID() string {
	if r.Metadata.RequestID != "" {
		return r.Metadata.RequestID
	}
	return r.RequestID
}

// describeCallback describes a callback by the beginning of its body and the length
// of all of it.
func describeCallback(name string, r *http.Request, body []byte, length int64) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %s %s, %d bytes\n", name, r.Method, r.URL.EscapedPath(), length)
	for _, header := range shownHeaders {
		if value := r.Header.Get(header); value != "" {
			fmt.Fprintf(&b, "         %s: %s\n", header, value)
		}
	}
	var res result
	if json.Unmarshal(body, &res) != nil {
		return b.String()
	}
	if id := res.requestID(); id != "" {
		fmt.Fprintf(&b, "         request_id: %q\n", excerpt(id))
	}
	if transcript := res.transcript(); transcript != "" {
		fmt.Fprintf(&b, "         transcript: %q\n", excerpt(transcript))
	}
	if res.ErrMsg != "" {
		fmt.Fprintf(&b, "         error: %q\n", excerpt(res.ErrMsg))
	}
	return b.String()
}

// describeMessage describes a result by what was said, and any other message by its
// type or its text.
func describeMessage(message []byte) string {
	var res result
	if json.Unmarshal(message, &res) != nil || res.Type == "" {
		return fmt.Sprintf("%q", excerpt(string(message)))
	}
	if res.Type != "Results" {
		return fmt.Sprintf("%q", excerpt(res.Type))
	}
	state := "interim"
	if res.IsFinal {
		state = "final"
	}
	return fmt.Sprintf("%s %q", state, excerpt(res.transcript()))
}

func excerpt(s string) string {
	if utf8.RuneCountInString(s) <= excerptLength {
		return s
	}
	return string([]rune(s)[:excerptLength]) + "…"
}

package simulator

// POST /v1/listen: pre-recorded audio.

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"
	"net/url"

	"github.com/caddy-deepgram/deepgram-callback/simulator/audio"
)

// maxJSON is how many bytes a request's body of JSON or text may have, which is kept in
// memory.
const maxJSON = 1 << 20

// serveBatch answers a request with the result that produce makes, or sends
// the result to its callback.
func (s *Simulator) serveBatch(w http.ResponseWriter, r *http.Request, c *call,
	produce func(http.ResponseWriter, *http.Request, *call) (*callback, error),
) error {
	// The callback is checked before anything of the body is read.
	to, err := s.newReply(c)
	if err != nil {
		return c.refuse(w, err)
	}
	result, err := produce(w, r, c)
	if err != nil {
		return c.refuse(w, err)
	}
	if to.target == nil {
		return writeBody(w, http.StatusOK, result.contentType, result.body)
	}
	s.address(result, c, to)
	latency, sender := s.latency, s.sender
	if !s.outbox.later(len(result.body), func(ctx context.Context) {
		_ = sender.deliver(ctx, latency, result)
	}) {
		return c.refuse(w, errTooManyPending)
	}
	return c.accepted(w)
}

func (s *Simulator) listen(w http.ResponseWriter, r *http.Request, c *call) (*callback, error) {
	o, err := parseOptions(c.query, defaultModel)
	if err != nil {
		return nil, err
	}
	heard, notes, err := s.hear(w, r, c)
	if err != nil {
		return nil, err
	}

	var body []byte
	metadata := o.ofRequest(c.requestID, notes)
	if len(s.bodies.prerecorded) > 0 {
		body, err = patch(choose(s.bodies.prerecorded, heard.SHA256),
			map[string]map[string]any{"metadata": metadata})
	} else {
		result := newListenResult(c.requestID, o, heard, s.bodies.text)
		result.Metadata.Warnings = notes
		body, err = json.Marshal(result)
	}
	return &callback{kind: "prerecorded", contentType: "application/json", body: body}, err
}

// hear measures the audio of a request. Audio that is named by a URL is not fetched:
// the simulator calls nothing but callback URLs.
func (s *Simulator) hear(
	w http.ResponseWriter, r *http.Request, c *call,
) (audio.Heard, []warning, error) {
	if isJSON(r) {
		var body struct {
			URL string `json:"url"`
		}
		if err := readJSON(w, r, &body); err != nil {
			return audio.Heard{}, nil, err
		}
		if body.URL == "" {
			return audio.Heard{}, nil, errNotJSON
		}
		heard := audio.Heard{SHA256: sha256Of(body.URL), Seconds: s.bodies.text.length(), Channels: 1}
		return heard, []warning{{
			Parameter: "url",
			Type:      "simulated",
			Message: "The simulator does not fetch audio: the duration is that of its text, " +
				"and sha256 is that of the URL.",
		}}, nil
	}

	meter, err := newMeter(c.query)
	if err != nil {
		return audio.Heard{}, nil, err
	}
	if _, err := io.Copy(meter, http.MaxBytesReader(w, r.Body, s.maxBody)); err != nil {
		return audio.Heard{}, nil, unreadable(err)
	}
	// JSON without its content type is a usual mistake here, and no format of audio
	// begins with a brace. The vendor answers it with this error.
	if first, ok := meter.First(); !ok || first == '{' && !c.query.Has("encoding") {
		return audio.Heard{}, nil, errNotAudio
	}
	return meter.Finish(), nil, nil
}

// newMeter makes what measures the audio of a request. Its errors are answers to that.
func newMeter(query url.Values) (*audio.Meter, error) {
	meter, err := audio.NewMeter(query)
	if err != nil {
		return nil, refusal(http.StatusBadRequest, "%s", err)
	}
	return meter, nil
}

// reply is where a batch result goes: to a callback or, where target is nil, into the
// response.
type reply struct {
	target *callbackURL
	method string
}

func (s *Simulator) newReply(c *call) (reply, error) {
	raw := c.query.Get("callback")
	if raw == "" {
		return reply{}, nil
	}
	target, err := s.urls.parse(raw, batchSchemes)
	if err != nil {
		return reply{}, err
	}
	method, err := callbackMethod(c.query)
	return reply{target: target, method: method}, err
}

// address sets where a callback goes, and whose API key has asked for it.
func (s *Simulator) address(cb *callback, c *call, to reply) {
	cb.requestID, cb.target, cb.method = c.requestID, to.target, to.method
	if s.dgTokens {
		cb.keyID = c.keyID
	}
}

func sha256Of(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:])
}

func isJSON(r *http.Request) bool {
	mediaType, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	return err == nil && mediaType == "application/json"
}

func readJSON(w http.ResponseWriter, r *http.Request, into any) error {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxJSON))
	if err != nil {
		return unreadable(err)
	}
	if json.Unmarshal(body, into) != nil {
		return errNotJSON
	}
	return nil
}

// unreadable is the error for a body that could not be read to its end.
func unreadable(err error) error {
	if tooLarge := (*http.MaxBytesError)(nil); errors.As(err, &tooLarge) {
		return err
	}
	return refusal(http.StatusBadRequest, "Bad Request: the request body could not be read")
}

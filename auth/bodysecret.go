// The callback secret: found in the body before anything of the body goes on.

package auth

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os"

	"github.com/caddy-deepgram/deepgram-callback/internal/jsonfind"
	"github.com/caddy-deepgram/deepgram-callback/internal/sender"
)

// secretPlaces are where Deepgram puts what a request was submitted with as
// extra: results have it in their metadata, and the Metadata message that closes
// a stream has it at its top.
//
// What stands first at either place decides, and of members with the same name
// the first: a body that contradicts itself is none of Deepgram's.
var secretPlaces = jsonfind.New(jsonfind.FirstCounts,
	jsonfind.Place{Path: []string{"metadata", "extra", "callback_secret"}, Limit: maxSpeltCredential},
	jsonfind.Place{Path: []string{"extra", "callback_secret"}, Limit: maxSpeltCredential},
)

// maxSpeltCredential is how long any credential can be in JSON, where each of its
// bytes may be spelt \u00XX.
const maxSpeltCredential = 6 * maxCredential

// maxEmptyReads is how often a reader may give nothing, as in package bufio.
const maxEmptyReads = 100

// VerifyBody reads the request's body until it has found the callback secret,
// and puts a body in its place that yields every byte from the first on. What was
// read is kept in memory up to 64 KiB, beyond that in a temporary file; what
// follows the secret streams straight from the connection. The body has to be
// closed, which closes the original one too; after an error, the request's body
// is as it was left, and not closed.
//
// What comes before the secret comes from a stranger, so it has to come at a
// least rate, and each client address has a share of the room for it: see
// bounds.go.
//
// The error is a *Refusal where the secret is missing or wrong, the body is not a
// JSON object, does not come in time, or there is no room to keep it; any other
// error of the body is wrapped in the error that is returned.
//
// Where no callback secret is configured, nothing happens.
func (p *Policy) VerifyBody(w http.ResponseWriter, r *http.Request) error {
	if p.judge.body == nil {
		return nil
	}
	replay, err := p.judge.verifyBody(w, r)
	if err != nil {
		replay.release()
		return err
	}
	r.Body = replay
	return nil
}

// VerifyMessage is VerifyBody for a message that is there as a whole, such as
// that of a WebSocket. The error is a *Refusal.
func (p *Policy) VerifyMessage(message []byte) error {
	j := p.judge
	if j.body == nil {
		return nil
	}
	finder := secretPlaces.Finder()
	_, event := finder.Scan(message)
	if event == jsonfind.More && len(message) > 0 {
		event = jsonfind.Malformed // it is cut off
	}
	if reason := j.judgeSecret(event, finder.Text); reason != "" {
		return j.refuse(reason)
	}
	return nil
}

// verifyBody returns a body that yields every byte whether the secret was right
// or not.
func (j *judge) verifyBody(w http.ResponseWriter, r *http.Request) (*replayBody, error) {
	address := sender.Network(r)
	replay := newReplayBody(r.Body, address)
	pace := newPace(w)
	err := j.searchBody(address, replay, pace)
	pace.end(err)
	return replay, err
}

// searchBody reads a body until it is known whether it carries the secret.
func (j *judge) searchBody(address netip.Prefix, replay *replayBody, pace *pace) error {
	finder := secretPlaces.Finder()
	for empty := 0; ; {
		if err := replay.makeRoom(); err != nil {
			return err
		}
		piece, err := pace.read(replay)
		if _, event := finder.Scan(piece); event != jsonfind.More {
			return j.decideSecret(address, event, finder.Text)
		}
		switch {
		case err == io.EOF && !finder.Begun():
			return j.refuse(ReasonCallbackSecretMissing)
		case err == io.EOF:
			return j.refuse(ReasonCallbackSecretNotJSON)
		case errors.Is(err, os.ErrDeadlineExceeded):
			return &Refusal{Status: http.StatusRequestTimeout, Reason: ReasonBodyTimeout, Cause: err}
		case err != nil:
			return fmt.Errorf("reading the callback's body: %w", err)
		case len(piece) > 0:
			empty = 0
		default:
			if empty++; empty >= maxEmptyReads {
				return fmt.Errorf("reading the callback's body: %w", io.ErrNoProgress)
			}
		}
	}
}

// decideSecret is nil if what was found in a body is a secret that is right.
func (j *judge) decideSecret(address netip.Prefix, event jsonfind.Event, text string) error {
	switch reason := j.judgeSecret(event, text); reason {
	case "":
		return nil
	case ReasonCallbackSecretWrong:
		return j.refuseGuess(address, reason, digestOf(purposeBody, "wrong", text))
	default:
		return j.refuse(reason)
	}
}

// judgeSecret gives the reason to refuse what was found, or "".
func (j *judge) judgeSecret(event jsonfind.Event, text string) (reason string) {
	switch event {
	case jsonfind.Found:
		if j.body.contains(digestOf(purposeBody, text)) {
			return ""
		}
		return ReasonCallbackSecretWrong
	case jsonfind.TooLong, jsonfind.NotString:
		return ReasonCallbackSecretWrong
	case jsonfind.Malformed:
		return ReasonCallbackSecretNotJSON
	}
	return ReasonCallbackSecretMissing
}

// BodySecretMissing is the refusal of a callback that shows no credential but,
// perhaps, the one in its body, where the body comes too late to decide: a
// WebSocket's messages come after its handshake.
func (p *Policy) BodySecretMissing() *Refusal { return p.judge.refuse(ReasonCallbackSecretMissing) }

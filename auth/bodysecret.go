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

// secretPlaces are where Deepgram puts the `extra` parameters of a request: results have them in
// their metadata, and the Metadata message that closes a stream has them at its top.
//
// The first secret at either place decides, and of several members with the same name the first
// one: Deepgram sends no body that contradicts itself.
var secretPlaces = jsonfind.New(jsonfind.FirstCounts,
	jsonfind.Place{Path: []string{"metadata", "extra", "callback_secret"}, Limit: maxSpeltCredential},
	jsonfind.Place{Path: []string{"extra", "callback_secret"}, Limit: maxSpeltCredential},
)

// maxSpeltCredential is how long any credential can be in JSON, where each of its
// bytes may be spelt \u00XX.
const maxSpeltCredential = 6 * maxCredential

// maxEmptyReads is how often in a row a reader may return neither bytes nor an
// error, as in package bufio.
const maxEmptyReads = 100

// VerifyBody reads the request's body until it has found the callback secret, and puts a body in
// its place that yields every byte from the first on. It blocks until the sender has sent the
// secret. What was read until then is kept: 64 KiB in memory, anything beyond in a temporary file.
// What follows the secret is read from the connection when the new body is. That has to be closed,
// which closes the original one too. After an error the request has its original body, partly read
// and not closed.
//
// What comes before the secret comes from a stranger. So it has to come at a certain rate, and what
// is kept of the bodies from one address is limited: see bounds.go.
//
// The error is a *Refusal where the secret is missing or wrong, where the body is not a JSON object
// or does not come in time, and where there is no room to keep it. Any other error of the body is
// wrapped in the error that is returned.
//
// Where no callback secret is configured, VerifyBody does nothing.
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

// VerifyMessage is VerifyBody for a body that is in memory as a whole, such as a
// message of a WebSocket. The error is a *Refusal.
func (p *Policy) VerifyMessage(message []byte) error {
	j := p.judge
	if j.body == nil {
		return nil
	}
	finder := secretPlaces.Finder()
	_, event := finder.Scan(message)
	if event == jsonfind.More && len(message) > 0 {
		event = jsonfind.Malformed // the message ends in the middle of the document
	}
	if reason := j.judgeSecret(event, finder.Text); reason != "" {
		return j.refuse(reason)
	}
	return nil
}

// verifyBody is VerifyBody without a change to the request. The body that it
// returns yields every byte, also where there is an error.
func (j *judge) verifyBody(w http.ResponseWriter, r *http.Request) (*replayBody, error) {
	address := sender.Network(r)
	replay := newReplayBody(r.Body, address)
	pace := newPace(w)
	err := j.searchBody(address, replay, pace)
	pace.end(err)
	return replay, err
}

// searchBody reads a body until it is known whether it carries the right secret.
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

// decideSecret returns nil if what was found in a body is a right secret. A wrong
// one is counted as a guess of the address.
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

// judgeSecret returns the reason to refuse what was found, or "" if it is right.
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

// BodySecretMissing is the refusal of a WebSocket's handshake where only the
// callback secret could let it in, since messages come after the handshake.
func (p *Policy) BodySecretMissing() *Refusal { return p.judge.refuse(ReasonCallbackSecretMissing) }

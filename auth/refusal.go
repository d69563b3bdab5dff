// A refusal: the answer to a caller that is not let in.

package auth

import (
	"maps"
	"net/http"
	"slices"
	"strconv"
	"time"
)

// Refusal is the error for a caller that is not let in, by this package or by the
// gateway's handler, which has reasons of its own. It never holds anything of a
// credential.
type Refusal struct {
	// The status of the answer.
	Status int

	// Why, in a word that logs and metrics show and that does not change: one of
	// the Reason constants, or one of the handler's.
	Reason string

	// The values of WWW-Authenticate, for a 401.
	Challenges []string

	// When it makes sense to try again, for 429 and 503.
	RetryAfter time.Duration

	// The other fields of the answer's header.
	Header http.Header

	// What happened, for the log; or nil, where the reason says it all.
	Cause error
}

// The reasons of this package's refusals. Their status is 401 where none is given.
const (
	ReasonBasicAuthMissing      = "basic_auth_missing"
	ReasonBasicAuthWrong        = "basic_auth_wrong"
	ReasonBasicAuthError        = "basic_auth_error" // the hash module failed
	ReasonGuessLimit            = "guess_limit"      // 429: too many wrong guesses from the address
	ReasonHashQueue             = "hash_queue"       // 429: too many unknown passwords at a time
	ReasonDGTokenMissing        = "dg_token_missing"
	ReasonDGTokenWrong          = "dg_token_wrong"
	ReasonQuerySecretMissing    = "query_secret_missing"
	ReasonQuerySecretWrong      = "query_secret_wrong"
	ReasonCallbackSecretMissing = "callback_secret_missing"
	ReasonCallbackSecretWrong   = "callback_secret_wrong"
	ReasonCallbackSecretNotJSON = "callback_secret_not_json" // the body is not a JSON object
	ReasonCallbackSecretStorage = "callback_secret_storage"  // 503: no room to keep the body
	ReasonBodyTimeout           = "body_timeout"             // 408: the body did not come in time
)

// Error names the reason.
func (e *Refusal) Error() string {
	if e.Cause != nil {
		return "callback refused: " + e.Reason + ": " + e.Cause.Error()
	}
	return "callback refused: " + e.Reason
}

// Unwrap gives the cause, if there is one.
func (e *Refusal) Unwrap() error { return e.Cause }

// WriteHeaders sets the header fields of the answer: WWW-Authenticate with every
// challenge, Retry-After in whole seconds, rounded up, and those of Header.
func (e *Refusal) WriteHeaders(h http.Header) {
	maps.Copy(h, e.Header)
	if len(e.Challenges) > 0 {
		h["Www-Authenticate"] = slices.Clone(e.Challenges)
	}
	if e.RetryAfter > 0 {
		seconds := e.RetryAfter / time.Second
		if e.RetryAfter%time.Second > 0 {
			seconds++
		}
		h.Set("Retry-After", strconv.FormatInt(int64(seconds), 10))
	}
}

// Interface guard
var _ error = (*Refusal)(nil)

// Refusal: the answer to a caller that is not let in.

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
// credential that the caller sent.
type Refusal struct {
	// The status of the answer.
	Status int

	// A short stable token for logs and metrics, such as one of the Reason
	// constants.
	Reason string

	// The values of WWW-Authenticate, for a 401.
	Challenges []string

	// After which time a try makes sense, for 429 and 503.
	RetryAfter time.Duration

	// What else the answer's header has.
	Header http.Header

	// What happened, for the log; or nil, where the reason says it all.
	Cause error
}

// The reasons of this package's refusals: with 401 unless it says otherwise.
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
	// the body or message is not a JSON object
	ReasonCallbackSecretNotJSON = "callback_secret_not_json"
	// 503: no room to keep the body while searching it
	ReasonCallbackSecretStorage = "callback_secret_storage"
	ReasonBodyTimeout           = "body_timeout" // 408: the body did not come in time
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

// WriteHeaders sets the fields that belong to the answer: WWW-Authenticate with
// every challenge, Retry-After in whole seconds, at least 1, and what else there
// is.
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

// Refusal: the answer to a caller that is not let in.

package auth

import (
	"net/http"
	"slices"
	"strconv"
	"time"
)

// Refusal is the error for a caller that is not let in. It never holds anything
// of what the caller sent.
type Refusal struct {
	// The status of the answer: 401, 429, or where the body was searched for its
	// secret, 408 if it did not come in time and 503 if it could not be kept.
	Status int

	// The values of WWW-Authenticate, for a 401.
	Challenges []string

	// After which time a try makes sense, for 429 and 503.
	RetryAfter time.Duration

	// A short stable token for logs and metrics: one of the Reason constants.
	Reason string

	cause error
}

// The reasons of refusals.
const (
	ReasonBasicAuthMissing      = "basic_auth_missing"
	ReasonBasicAuthWrong        = "basic_auth_wrong"
	ReasonBasicAuthError        = "basic_auth_error" // the hash module failed
	ReasonGuessLimit            = "guess_limit"      // too many wrong guesses from the address
	ReasonHashQueue             = "hash_queue"       // too many unknown passwords at a time
	ReasonDGTokenMissing        = "dg_token_missing"
	ReasonDGTokenWrong          = "dg_token_wrong"
	ReasonQuerySecretMissing    = "query_secret_missing"
	ReasonQuerySecretWrong      = "query_secret_wrong"
	ReasonCallbackSecretMissing = "callback_secret_missing"
	ReasonCallbackSecretWrong   = "callback_secret_wrong"
	ReasonCallbackSecretNotJSON = "callback_secret_not_json" // the body or message is not a JSON object
	ReasonCallbackSecretStorage = "callback_secret_storage"  // no room to keep the body while searching it
	ReasonBodyTimeout           = "body_timeout"             // the body did not come in time
)

// Error names the reason.
func (e *Refusal) Error() string {
	if e.cause != nil {
		return "callback refused: " + e.Reason + ": " + e.cause.Error()
	}
	return "callback refused: " + e.Reason
}

// Unwrap gives the technical cause, if there is one.
func (e *Refusal) Unwrap() error { return e.cause }

// WriteHeaders sets the fields that belong to the answer: WWW-Authenticate with
// every challenge, Retry-After in whole seconds, at least 1.
func (e *Refusal) WriteHeaders(h http.Header) {
	if len(e.Challenges) > 0 {
		h["Www-Authenticate"] = slices.Clone(e.Challenges)
	}
	if e.RetryAfter > 0 {
		seconds := (e.RetryAfter + time.Second - 1) / time.Second
		h.Set("Retry-After", strconv.FormatInt(int64(seconds), 10))
	}
}

// Interface guard
var _ error = (*Refusal)(nil)

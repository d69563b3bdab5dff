// Keeping the dg-token out of the proxy's own logs.

package relay

import (
	"maps"
	"net/http"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/caddy-deepgram/deepgram-callback/internal/sender"
)

const (
	// redacted is what Caddy's own logs show in place of a credential.
	redacted = "REDACTED"

	// tokenVar keeps the token of a request for the next attempt.
	tokenVar = "deepgram_callback.dg_token"
)

// redactToken returns a request to send in place of r, and replaces dg-token in r. After the round
// trip the proxy logs r's header, at level DEBUG and when an answer breaks off, and hides only
// credentials that every HTTP server knows, such as Authorization. The token cannot be replaced any
// earlier, since header_up operations come before, and may need it.
func redactToken(r *http.Request) *http.Request {
	token, ok := r.Header[sender.TokenHeader]
	if !ok {
		return r
	}
	// Without header_up operations, the next attempt gets this very header again.
	kept, again := caddyhttp.GetVar(r.Context(), tokenVar).([]string)
	if again && len(token) == 1 && token[0] == redacted {
		token = kept
	} else {
		caddyhttp.SetVar(r.Context(), tokenVar, token)
	}
	sent := r.WithContext(r.Context())
	sent.Header = maps.Clone(r.Header)
	sent.Header[sender.TokenHeader] = token
	r.Header[sender.TokenHeader] = []string{redacted}
	return sent
}

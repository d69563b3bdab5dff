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

// redactToken returns the request to send in place of r, and takes dg-token out
// of r: after the round trip the proxy logs r's headers, at debug level and as a
// warning when an answer breaks off, and of the credentials in them it hides
// only those that every HTTP server knows. It is done here because header_up
// operations come before, and have to see the token.
func redactToken(r *http.Request) *http.Request {
	token, ok := r.Header[sender.TokenHeader]
	if !ok {
		return r
	}
	// Without header_up operations the next attempt has the headers of this one.
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

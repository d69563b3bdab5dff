// What the target of a request may be.

package handler

import (
	"errors"
	"net/http"
	"strings"

	"github.com/caddy-deepgram/deepgram-callback/app"
	"github.com/caddy-deepgram/deepgram-callback/auth"
	"github.com/caddy-deepgram/deepgram-callback/internal/sender"
)

// checkTarget refuses a request whose target (RFC 9112, section 3.2) no callback can have: an
// asterisk, an authority, or a URI that has another scheme, a name and a password, or no path. It
// comes before everything else, since such a request, once stored, could never be sent on. Whether
// an absolute URI names a host of this site need not be asked: it takes the place of the Host
// field, and Caddy has found the site by it.
func checkTarget(r *http.Request) error {
	u := r.URL
	if u.Opaque != "" || !strings.HasPrefix(u.RequestURI(), "/") || r.RequestURI == "*" {
		return badTarget("it is not a path")
	}
	if u.User != nil { // forbidden in a target by RFC 9110, section 4.2.4
		return badTarget("it has userinfo")
	}
	if u.Scheme != "" && !calledBy(r, u.Scheme) {
		return badTarget("it has another scheme than the request")
	}
	if u.Host != "" && !strings.EqualFold(u.Host, r.Host) {
		return badTarget("it has another host than the request")
	}
	return nil
}

func badTarget(detail string) error {
	return &auth.Refusal{
		Status: http.StatusBadRequest,
		Reason: app.ReasonTarget,
		Cause:  errors.New("the request's target cannot be a callback's: " + detail),
	}
}

// calledBy reports whether the sender has used a scheme: the connection's, or the
// one that a trusted proxy in front names.
func calledBy(r *http.Request, scheme string) bool {
	if sender.FromTrustedProxy(r) && strings.EqualFold(scheme, r.Header.Get("X-Forwarded-Proto")) {
		return true
	}
	if r.TLS != nil {
		return strings.EqualFold(scheme, "https")
	}
	return strings.EqualFold(scheme, "http")
}

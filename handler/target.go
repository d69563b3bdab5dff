package handler

import (
	"errors"
	"net/http"
	"strings"

	"github.com/caddy-deepgram/deepgram-callback/auth"
	"github.com/caddy-deepgram/deepgram-callback/internal/sender"
)

// checkTarget refuses a request whose target is nothing that a callback can be for (RFC 9112,
// section 3.2): an asterisk, an authority, a URI of another scheme, with a name and a password,
// or without a path. It comes before everything else, since what is stored of such a
// request could never be sent on. Whether an absolute URI names a host of this site is
// decided before: a host that stands there replaces the Host field, by which Caddy finds the site.
func checkTarget(r *http.Request) error {
	u := r.URL
	if u.Opaque != "" || !strings.HasPrefix(u.RequestURI(), "/") || r.RequestURI == "*" {
		return badTarget("it is not a path")
	}
	if u.User != nil { // which has no place in the target of a request (RFC 9110, section 4.2.4)
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
		Reason: "target",
		Cause:  errors.New("the request's target cannot be a callback's: " + detail),
	}
}

// calledBy reports whether a scheme is the one by which the sender called: that of the connection,
// or what a trusted proxy in front says.
func calledBy(r *http.Request, scheme string) bool {
	if sender.FromTrustedProxy(r) && strings.EqualFold(scheme, r.Header.Get("X-Forwarded-Proto")) {
		return true
	}
	if r.TLS != nil {
		return strings.EqualFold(scheme, "https")
	}
	return strings.EqualFold(scheme, "http")
}

// What is removed from a request before it goes on to the service.

package auth

import (
	"io"
	"net/http"
	"strings"

	"github.com/caddy-deepgram/deepgram-callback/internal/sender"
)

// Strip removes what must not go on to the service: always the Authorization
// field, and where a query secret is configured, its parameter from r.URL and
// r.RequestURI. All other bytes of the query stay as they are. The trailer is
// treated as [StripTrailer] says. The request is changed in place.
func (p *Policy) Strip(r *http.Request) {
	delete(r.Header, "Authorization")
	StripTrailer(r)
	c := p.judge.query
	if c == nil {
		return
	}
	r.URL.RawQuery = c.strip(r.URL.RawQuery)
	path, query, found := strings.Cut(r.RequestURI, "?")
	if !found {
		return
	}
	switch left := c.strip(query); {
	case left == query:
	case left == "":
		r.RequestURI = path
	default:
		r.RequestURI = path + "?" + left
	}
}

// notInTrailers are the fields that never go on in a trailer. Nobody has checked them there, but a
// service may treat trailer fields like header fields. They are those that say who is calling,
// those that admission or the proxy sets or removes in the header, and those that frame and route a
// request, which RFC 9110, section 6.5.1, forbids in trailers anyway.
var notInTrailers = []string{
	"Authorization", sender.TokenHeader, "Proxy-Authorization", "Cookie",
	"Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Port", "X-Forwarded-Proto",
	"X-Real-Ip", "Via",
	"Connection", "Keep-Alive", "Proxy-Connection", "Te", "Trailer", "Transfer-Encoding", "Upgrade",
	"Expect", "Host",
	"Content-Encoding", "Content-Length", "Content-Range", "Content-Type",
}

// StripTrailer removes the trailer fields that must not go on to a service. They
// come with the end of the body, so it puts a body in the request's place that
// removes them when it ends.
func StripTrailer(r *http.Request) {
	if r.Trailer == nil || r.Body == nil {
		return // net/http ignores trailer fields where none is announced
	}
	removeFrom(r.Trailer)
	r.Body = &trailerGuard{ReadCloser: r.Body, trailer: r.Trailer}
}

func removeFrom(trailer http.Header) {
	for _, name := range notInTrailers {
		delete(trailer, name)
	}
}

// trailerGuard is a body at whose end trailer fields are removed, before anybody
// can look at them.
type trailerGuard struct {
	io.ReadCloser
	trailer http.Header
}

// Read implements [io.Reader].
func (g *trailerGuard) Read(p []byte) (int, error) {
	n, err := g.ReadCloser.Read(p)
	if err == io.EOF {
		removeFrom(g.trailer)
	}
	return n, err
}

// What is taken off a request before it goes on to the service.

package auth

import (
	"io"
	"net/http"
	"strings"

	"github.com/caddy-deepgram/deepgram-callback/internal/sender"
)

// Strip removes what must not go on to the service: the Authorization header,
// always, and the parameter of the query secret, where one is configured, from
// r.URL and from r.RequestURI. The rest of the query keeps its every byte. What
// comes after the body is treated as [StripTrailer] says. The request is changed
// in place.
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

// notInTrailers are the fields that never go on from behind a body. Nobody has
// checked them there, but a service may take trailer fields for header fields:
// what says who is calling, what admission or the proxy says or removes in the
// header, and what frames and routes a request, which RFC 9110, section 6.5.1,
// wants out of trailers anyway.
var notInTrailers = []string{
	"Authorization", sender.TokenHeader, "Proxy-Authorization", "Cookie",
	"Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Port", "X-Forwarded-Proto",
	"X-Real-Ip", "Via",
	"Connection", "Keep-Alive", "Proxy-Connection", "Te", "Trailer", "Transfer-Encoding", "Upgrade",
	"Expect", "Host",
	"Content-Encoding", "Content-Length", "Content-Range", "Content-Type",
}

// StripTrailer removes the trailer fields that must not go on to a service. They
// come with the end of the body, so it is read through a guard that removes them
// then.
func StripTrailer(r *http.Request) {
	if r.Trailer == nil || r.Body == nil {
		return // none was announced, so that net/http keeps none where r shows it
	}
	removeFrom(r.Trailer)
	r.Body = &trailerGuard{ReadCloser: r.Body, trailer: r.Trailer}
}

func removeFrom(trailer http.Header) {
	for _, name := range notInTrailers {
		delete(trailer, name)
	}
}

// trailerGuard is a body whose trailer fields are looked through before anybody
// else can.
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

// What is stored of a request beside its body, and the request that is made of that.

package deliver

import (
	"context"
	"crypto/tls"
	"fmt"
	"maps"
	"net/http"
	"net/textproto"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"golang.org/x/net/http/httpguts"

	"github.com/caddy-deepgram/deepgram-callback/internal/sender"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/webhook"
)

// HeaderRequestID is the header field with the request id of a callback, where its body has one, so
// that `lb_policy header Deepgram-Request-Id` keeps what belongs together on one upstream.
const HeaderRequestID = "Deepgram-Request-Id"

// What a delivery needs of a request, and is no header field, is stored among the
// header fields, under names that no field can have.
const (
	storedHost    = ":host"
	storedScheme  = ":scheme"
	storedPeer    = ":peer"    // the address at the other side of the connection
	storedClient  = ":client"  // the client's address, which trusted proxies may have named
	storedTrusted = ":trusted" // whether the peer is a trusted proxy
)

// hopByHop are the fields that concern one connection (RFC 9110, section 7.6.1), and
// those that are about the length of the body, which is known when it is stored.
var hopByHop = []string{
	"Connection", "Proxy-Connection", "Keep-Alive", "Proxy-Authenticate", "Proxy-Authorization",
	"Te", "Trailer", "Transfer-Encoding", "Upgrade", "Content-Length", "Expect",
}

// own are the fields that the gateway adds to a delivery. What a sender has put there is not to be
// taken for it.
var own = []string{
	HeaderRequestID, spool.HeaderStreamID, spool.HeaderStreamSequence, spool.HeaderStreamEnd,
	webhook.HeaderID, webhook.HeaderTimestamp, webhook.HeaderSignature,
}

var notStored = slices.Concat(hopByHop, own)

// Stored returns what is stored of a request beside its body.
func Stored(r *http.Request) http.Header {
	header := maps.Clone(r.Header)
	if header == nil {
		header = make(http.Header)
	}
	// The fields that Connection names concern this connection too. Each name is looked up among
	// the fields: looking for each field among the names would take fields times names.
	for _, names := range r.Header["Connection"] {
		for name := range strings.SplitSeq(names, ",") {
			delete(header, textproto.CanonicalMIMEHeaderKey(textproto.TrimString(name)))
		}
	}
	for _, name := range notStored {
		delete(header, name)
	}
	header[storedHost] = []string{r.Host}
	header[storedPeer] = []string{r.RemoteAddr}
	header[storedClient] = []string{sender.IP(r)}
	if r.TLS != nil {
		header[storedScheme] = []string{"https"}
	}
	if sender.FromTrustedProxy(r) {
		header[storedTrusted] = []string{"true"}
	}
	return header
}

// Host is the host that the sender of a stored callback called.
func Host(msg *spool.Message) string {
	if values := msg.Header[storedHost]; len(values) > 0 {
		return values[0]
	}
	return ""
}

// backgroundServer is the server of the requests that are made here.
var backgroundServer = new(caddyhttp.Server)

// request makes of a message the request that it was, without its body. The error wraps
// [spool.ErrUndeliverable] where no request can be made of it.
func (s *Service) request(
	ctx context.Context, msg *spool.Message, body spool.Body, w http.ResponseWriter,
) (*http.Request, error) {
	header := maps.Clone(msg.Header)
	if header == nil {
		header = make(http.Header)
	}
	stored := func(name string) string {
		defer delete(header, name)
		if values := header[name]; len(values) > 0 {
			return values[0]
		}
		return ""
	}
	r := (&http.Request{
		Method:        msg.Method,
		RequestURI:    msg.URI,
		Proto:         "HTTP/1.1",
		ProtoMajor:    1,
		ProtoMinor:    1,
		Header:        header,
		Host:          stored(storedHost),
		RemoteAddr:    stored(storedPeer),
		ContentLength: body.Size(),
	}).WithContext(ctx)
	if stored(storedScheme) == "https" {
		r.TLS = &tls.ConnectionState{HandshakeComplete: true}
	}
	client, trusted := stored(storedClient), stored(storedTrusted) == "true"
	if err := makeSendable(r); err != nil {
		return nil, fmt.Errorf("%w: %w", spool.ErrUndeliverable, err)
	}
	if msg.RequestID != "" && httpguts.ValidHeaderFieldValue(msg.RequestID) {
		header.Set(HeaderRequestID, msg.RequestID)
	}
	if err := s.Signer.Sign(header, msg.ID.String(), body, time.Now()); err != nil {
		return nil, err
	}

	r = caddyhttp.PrepareRequest(r, caddy.NewReplacer(), w, backgroundServer)
	sender.Set(r.Context(), client, trusted)
	return r, nil
}

// makeSendable sets the URL of r, and returns an error for what every transport would refuse. That
// is found out here, since the proxy would take it for a failure of the service.
func makeSendable(r *http.Request) error {
	if !strings.HasPrefix(r.RequestURI, "/") {
		return fmt.Errorf("stored URI: it does not begin with a slash: %q", r.RequestURI)
	}
	target, err := url.ParseRequestURI(r.RequestURI)
	if err != nil {
		return fmt.Errorf("stored URI: %w", err)
	}
	r.URL = target
	if !httpguts.ValidHeaderFieldName(r.Method) { // a method is a token, as a field's name is
		return fmt.Errorf("stored method: %q is no method", r.Method)
	}
	if !httpguts.ValidHostHeader(r.Host) {
		return fmt.Errorf("stored host: %q is no host", r.Host)
	}
	for name, values := range r.Header {
		if !httpguts.ValidHeaderFieldName(name) {
			return fmt.Errorf("stored header: %q is no name of a field", name)
		}
		for _, value := range values {
			if !httpguts.ValidHeaderFieldValue(value) {
				return fmt.Errorf("stored header: the value of %s cannot be sent", name)
			}
		}
	}
	return nil
}

package console

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strings"

	"github.com/caddy-deepgram/deepgram-callback/internal/sender"
	"github.com/caddy-deepgram/deepgram-callback/operate"
)

// policy allows the pages what they consist of and nothing else: scripts and styles that are
// files of the console, requests to it, audio that a page has fetched before. Nothing that is
// inline, nothing that evaluates a text, no frame around it.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; " +
	"media-src 'self' blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; " +
	"frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"

// protect says what no answer may be used for, also where it is an error.
func protect(header http.Header) {
	header.Set("Content-Security-Policy", policy)
	header.Set("X-Content-Type-Options", "nosniff")
	header.Set("X-Frame-Options", "DENY")
	header.Set("Referrer-Policy", "no-referrer")
	header.Set("Cross-Origin-Opener-Policy", "same-origin")
	header.Set("Cross-Origin-Resource-Policy", "same-origin")
	header.Set("Cache-Control", "no-store")
}

// changes reports whether a request is one that changes something, by its method (RFC 9110,
// section 9.2.1).
func changes(r *http.Request) bool {
	return r.Method != http.MethodGet && r.Method != http.MethodHead
}

// ownHeader is sent by the console's pages. Pages of another origin have to ask before they may
// send it (the Fetch standard's CORS preflight), and get no such permission here.
const ownHeader = "Deepgram-Console"

// checkOrigin refuses what another site has a browser send: the browser adds the credentials by
// itself, as the user's.
func (c *Console) checkOrigin(r *http.Request) error {
	switch site := r.Header.Get("Sec-Fetch-Site"); site {
	case "", "same-origin", "none": // none: the user typed the address
	default:
		return forbidden(fmt.Errorf("a page of another origin asks (Sec-Fetch-Site: %q)", site))
	}
	if !changes(r) {
		return nil
	}
	if err := c.origins.Check(r); err != nil {
		return forbidden(fmt.Errorf("a page of another origin asks: %w; "+
			"a proxy in front has to pass Host on as it comes", err))
	}
	if r.Header.Get(ownHeader) == "" {
		return forbidden(errors.New("actions need the header field " + ownHeader + ": 1"))
	}
	return nil
}

func forbidden(err error) error { return &operate.Error{Kind: operate.Forbidden, Err: err} }

// checkHost refuses names that a page of another site can have made to mean this machine (DNS
// rebinding): where nobody has to log in, its scripts could read everything, as being of the same
// origin. On loopback that is any name but localhost. Over TLS there is no certificate for such
// a name, and what comes from elsewhere is for what is in front.
func checkHost(r *http.Request) error {
	if r.TLS != nil || sender.FromTrustedProxy(r) || !onLoopback(r) {
		return nil
	}
	host := r.Host
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	host = strings.ToLower(strings.Trim(host, "[]"))
	if _, err := netip.ParseAddr(host); err == nil {
		return nil
	}
	if host == "localhost" || strings.HasSuffix(host, ".localhost") {
		return nil
	}
	return fmt.Errorf("the console is anonymous and this is loopback, so it answers to localhost and "+
		"addresses alone, not to %q; a proxy in front has to be among trusted_proxies", host)
}

// onLoopback reports whether the connection came over the loopback interface.
func onLoopback(r *http.Request) bool {
	local, ok := r.Context().Value(http.LocalAddrContextKey).(*net.TCPAddr)
	return ok && local.IP.IsLoopback()
}

package simulator

// Who may call: whoever has an API key; where none is configured, everybody but web
// pages of other origins.

import (
	"crypto/sha256"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"strings"

	"github.com/google/uuid"
	"github.com/gorilla/websocket"

	"github.com/caddyserver/caddy/v2"
)

// loadKeys fills keyIDs. Keys are looked up by their hash, so that the time this takes
// tells nothing of them.
func (s *Simulator) loadKeys(repl *caddy.Replacer) error {
	s.keyIDs = make(map[[sha256.Size]byte]string, len(s.APIKeys))
	for i, k := range s.APIKeys {
		key, id := repl.ReplaceKnown(k.Key, ""), repl.ReplaceKnown(k.ID, "")
		if key == "" || id == "" {
			return fmt.Errorf("api_keys: number %d lacks its key or its id", i+1)
		}
		sum := sha256.Sum256([]byte(key))
		if _, ok := s.keyIDs[sum]; ok {
			return fmt.Errorf("api_keys: number %d repeats an earlier key", i+1)
		}
		s.keyIDs[sum] = id
	}
	return nil
}

// authenticate returns the identifier of the request's API key, and whether the key is
// accepted. SDKs write the scheme in upper or lower case. Browsers, which cannot set
// header fields of a WebSocket's handshake, send scheme and key as subprotocols.
func (s *Simulator) authenticate(r *http.Request) (string, bool) {
	scheme, key, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if scheme == "" {
		if protocols := websocket.Subprotocols(r); len(protocols) == 2 {
			scheme, key = protocols[0], protocols[1]
		}
	}
	key = strings.TrimSpace(key)
	if key == "" || !strings.EqualFold(scheme, "token") && !strings.EqualFold(scheme, "bearer") {
		return "", false
	}
	if len(s.keyIDs) == 0 {
		return uuid.NewSHA1(simulatorNamespace, []byte("key:"+key)).String(), true
	}
	id, ok := s.keyIDs[sha256.Sum256([]byte(key))]
	return id, ok
}

// fromForeignPage reports whether a browser sends the request for a web page of another
// origin. Without a configured key, any page could make the simulator call servers on
// this machine, since browsers let every page open a WebSocket to anywhere. Programs
// that are no browsers send no Origin, or that of their target.
func fromForeignPage(r *http.Request) bool {
	for _, origin := range r.Header.Values("Origin") {
		if !ownOrigin(origin, r) {
			return true
		}
	}
	// Browsers send this field, of https://www.w3.org/TR/fetch-metadata/, also where
	// they send no Origin.
	switch r.Header.Get("Sec-Fetch-Site") {
	case "", "none", "same-origin":
		return false
	default:
		return true
	}
}

// ownOrigin reports whether an Origin (RFC 6454) is the simulator's own: that of the
// request's target, under a name that nobody else can have. A page of evil.example,
// a name that its owner rebinds to this machine, has an Origin that equals its Host. So
// without TLS the name must be one that no stranger's DNS server can answer for. With
// TLS, the certificate has proved the name.
func ownOrigin(origin string, r *http.Request) bool {
	scheme := "http"
	if r.TLS != nil {
		scheme = "https"
	}
	u, err := url.Parse(origin)
	if err != nil || u.Scheme != scheme || !strings.EqualFold(u.Host, r.Host) {
		return false
	}
	host := strings.ToLower(u.Hostname())
	if _, err := netip.ParseAddr(host); err == nil || r.TLS != nil {
		return true
	}
	// Names without a dot belong to the local network, and RFC 6761 reserves these
	// two top-level domains.
	return host != "" && !strings.Contains(host, ".") ||
		strings.HasSuffix(host, ".localhost") || strings.HasSuffix(host, ".test")
}

package simulator

// Which callback URLs are taken.

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// callbackURL is where a result goes. Its credentials are kept apart from the
// URL, so that no log and no error can show them.
type callbackURL struct {
	url           *url.URL
	authorization string
}

// webSocket reports whether results go there as messages of a WebSocket.
func (c *callbackURL) webSocket() bool { return c.url.Scheme == "ws" || c.url.Scheme == "wss" }

// header returns the header fields of every handshake and every attempt. Without an
// identifier of the key, there is no dg-token.
func (c *callbackURL) header(keyID string) http.Header {
	header := http.Header{"User-Agent": {"deepgram-simulator"}}
	if c.authorization != "" {
		header.Set("Authorization", c.authorization)
	}
	if keyID != "" {
		header.Set("Dg-Token", keyID)
	}
	return header
}

// urlPolicy decides which callback URLs are taken.
type urlPolicy struct {
	ports     []int
	anyPort   bool
	addresses addressPolicy
}

var (
	batchSchemes  = []string{"http", "https"}
	streamSchemes = []string{"http", "https", "ws", "wss"}
	defaultPort   = map[string]string{"http": "80", "ws": "80", "https": "443", "wss": "443"}
)

// parse reads the callback URL of a request. Which schemes it may have depends on the
// kind of the request. The error is a refusal with 400. Its message repeats nothing of
// the URL but scheme, port and address, because the rest can be secret.
func (p urlPolicy) parse(raw string, schemes []string) (*callbackURL, error) {
	u, err := url.Parse(raw)
	if err != nil || u.Hostname() == "" || u.Opaque != "" {
		return nil, refusal(http.StatusBadRequest,
			"Invalid callback URL: not an absolute URL with a host.")
	}
	if !slices.Contains(schemes, u.Scheme) {
		return nil, refusal(http.StatusBadRequest,
			"Invalid callback URL: the scheme must be one of %s.", strings.Join(schemes, ", "))
	}

	port := u.Port()
	if port == "" {
		port = defaultPort[u.Scheme]
	}
	number, err := strconv.Atoi(port)
	if err != nil || number < 1 || number > 65535 {
		return nil, refusal(http.StatusBadRequest, "Invalid callback URL: %s is not a port.", port)
	}
	if !p.anyPort && !slices.Contains(p.ports, number) {
		return nil, refusal(http.StatusBadRequest,
			"Invalid callback URL: port %d is not allowed; use one of %s.",
			number, strings.Trim(fmt.Sprint(p.ports), "[]"))
	}

	// An address can be refused at once. A name is resolved when it is dialled,
	// and its address is checked then.
	if addr, err := netip.ParseAddr(u.Hostname()); err == nil {
		if err := p.addresses.check(netip.AddrPortFrom(addr, uint16(number))); err != nil {
			return nil, refusal(http.StatusBadRequest, "Invalid callback URL: %v.", err)
		}
	}

	target := &callbackURL{url: u}
	if u.User != nil && u.User.String() != "" {
		password, _ := u.User.Password()
		target.authorization = "Basic " +
			base64.StdEncoding.EncodeToString([]byte(u.User.Username()+":"+password))
	}
	u.User = nil
	u.Fragment, u.RawFragment = "", ""
	return target, nil
}

// callbackMethod returns the method of a batch callback.
func callbackMethod(query url.Values) (string, error) {
	switch method := strings.ToUpper(query.Get("callback_method")); method {
	case "", http.MethodPost:
		return http.MethodPost, nil
	case http.MethodPut:
		return http.MethodPut, nil
	default:
		return "", refusal(http.StatusBadRequest, "Invalid callback_method: it must be post or put.")
	}
}

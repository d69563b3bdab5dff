package relay

import (
	"errors"
	"fmt"
	"net/http"
	"strings"

	"golang.org/x/net/http/httpguts"
)

// ErrUnwritable is in the [RequestError] of what cannot be written as HTTP.
var ErrUnwritable = errors.New("cannot be written as HTTP")

// checkWritable says what in r cannot be written as HTTP: header_up operations
// and rewrites can put anything there with their placeholders, such as a line
// break out of a query. net/http refuses the same, but in part only when it has
// a connection, and the proxy would take it for a failure of the upstream. No
// value is shown: it may be a secret.
func checkWritable(r *http.Request) error {
	if !httpguts.ValidHeaderFieldName(r.Method) { // a token as well (RFC 9110, section 9.1)
		return fmt.Errorf("%w: the method %q", ErrUnwritable, r.Method)
	}
	for _, fields := range []http.Header{r.Header, r.Trailer} {
		for name, values := range fields {
			if !httpguts.ValidHeaderFieldName(name) {
				return fmt.Errorf("%w: a field with the name %q", ErrUnwritable, name)
			}
			for _, value := range values {
				if !httpguts.ValidHeaderFieldValue(value) {
					return fmt.Errorf("%w: the value of the field %s", ErrUnwritable, name)
				}
			}
		}
	}
	// Where net/http would send none instead.
	if host, err := httpguts.PunycodeHostPort(r.Host); err != nil || !httpguts.ValidHostHeader(host) {
		return fmt.Errorf("%w: the host", ErrUnwritable)
	}
	// A path is escaped on its way out.
	if strings.ContainsFunc(r.URL.RawQuery, isControl) ||
		strings.ContainsFunc(r.URL.Opaque, isControl) {
		return fmt.Errorf("%w: the URI", ErrUnwritable)
	}
	return nil
}

func isControl(c rune) bool { return c < ' ' || c == 0x7f }

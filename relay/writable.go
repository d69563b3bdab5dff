// What of a request cannot be written as HTTP.

package relay

import (
	"errors"
	"fmt"
	"net/http"
	"strings"

	"golang.org/x/net/http/httpguts"
)

// ErrUnwritable is wrapped by the [RequestError] of a request that cannot be written
// as HTTP.
var ErrUnwritable = errors.New("cannot be written as HTTP")

// checkWritable returns an error if something in r cannot be written as HTTP. The placeholders of
// header_up operations and rewrites can put anything into r, such as a line break out of a query.
// net/http refuses such a request too, but partly only after it has dialled, and the proxy would
// take that for a failure of the upstream. The error shows no value, which may be a secret.
func checkWritable(r *http.Request) error {
	if !httpguts.ValidHeaderFieldName(r.Method) { // a token, as a method is (RFC 9110, section 9.1)
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
	// net/http would send an empty host instead.
	if host, err := httpguts.PunycodeHostPort(r.Host); err != nil || !httpguts.ValidHostHeader(host) {
		return fmt.Errorf("%w: the host", ErrUnwritable)
	}
	// The path is escaped when it is written.
	if strings.ContainsFunc(r.URL.RawQuery, isControl) ||
		strings.ContainsFunc(r.URL.Opaque, isControl) {
		return fmt.Errorf("%w: the URI", ErrUnwritable)
	}
	return nil
}

func isControl(c rune) bool { return c < ' ' || c == 0x7f }

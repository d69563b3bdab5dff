// The dg-token header, in which Deepgram names the API key that a request was
// submitted with.

package auth

import (
	"errors"
	"fmt"
	"net/http"

	"github.com/caddyserver/caddy/v2"
	"github.com/google/uuid"

	"github.com/caddy-deepgram/deepgram-callback/internal/sender"
)

type tokenCheck struct {
	keyIDs    digestSet
	ifPresent bool
	strange   []int // the numbers, from 1, of those that do not look like an identifier
}

func newTokenCheck(repl *caddy.Replacer, config *DGToken) (*tokenCheck, error) {
	if len(config.KeyIDs) == 0 {
		return nil, errors.New("no API key identifier is configured")
	}
	check := &tokenCheck{ifPresent: config.IfPresent}
	for i, configured := range config.KeyIDs {
		value, err := resolve(repl, configured)
		if err != nil {
			return nil, fmt.Errorf("API key identifier %d: %w", i+1, err)
		}
		if !isIdentifier(value) {
			check.strange = append(check.strange, i+1)
		}
		check.keyIDs = append(check.keyIDs, digestOf(purposeToken, value))
	}
	return check, nil
}

// isIdentifier reports whether a value has the form in which Deepgram's
// management API names its API keys.
func isIdentifier(value string) bool {
	if len(value) != 36 && len(value) != 32 { // uuid.Parse takes more spellings
		return false
	}
	_, err := uuid.Parse(value)
	return err == nil
}

// check decides about the header field. Several are wrong, since it is unknown
// which of them the service would read.
func (c *tokenCheck) check(header http.Header) verdict {
	if c == nil {
		return notConfigured
	}
	values := header[sender.TokenHeader]
	switch {
	case len(values) == 0:
		return absent
	case len(values) > 1 || len(values[0]) > maxCredential:
		return wrong
	case c.keyIDs.contains(digestOf(purposeToken, values[0])):
		return right
	}
	return wrong
}

// tried is a digest of the wrong values that a request has tried.
func (c *tokenCheck) tried(header http.Header) digest {
	return digestOf(append([]string{purposeToken, "wrong"}, header[sender.TokenHeader]...)...)
}

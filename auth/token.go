// The dg-token header, in which Deepgram names the API key that a request was
// submitted with.

package auth

import (
	"net/http"

	"github.com/caddyserver/caddy/v2"
)

// tokenHeader is dg-token in the canonical form that net/http stores.
const tokenHeader = "Dg-Token"

type tokenCheck struct {
	keyIDs    digestSet
	ifPresent bool
}

func newTokenCheck(repl *caddy.Replacer, config *DGToken) (*tokenCheck, error) {
	keyIDs, err := resolveSecrets(repl, purposeToken, "API key identifier", config.KeyIDs)
	if err != nil {
		return nil, err
	}
	return &tokenCheck{keyIDs: keyIDs, ifPresent: config.IfPresent}, nil
}

// check takes several values for a wrong one: which of them a service behind
// would read is anyone's guess.
func (c *tokenCheck) check(header http.Header) verdict {
	if c == nil {
		return notConfigured
	}
	values := header[tokenHeader]
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

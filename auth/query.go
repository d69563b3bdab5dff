// The query secret: one parameter of the callback URL.

package auth

import (
	"errors"
	"net/url"
	"strings"

	"github.com/caddyserver/caddy/v2"
)

type queryCheck struct {
	parameter string
	secrets   digestSet
}

func newQueryCheck(repl *caddy.Replacer, config *QuerySecret) (*queryCheck, error) {
	if config.Parameter == "" {
		return nil, errors.New("parameter: it is empty")
	}
	secrets, err := resolveSecrets(repl, purposeQuery, config.Secrets)
	if err != nil {
		return nil, err
	}
	return &queryCheck{parameter: config.Parameter, secrets: secrets}, nil
}

// check decides about the parameter. If it stands more than once it is wrong.
func (c *queryCheck) check(rawQuery string) verdict {
	if c == nil {
		return notConfigured
	}
	found := absent
	for rawQuery != "" {
		var pair string
		pair, rawQuery, _ = strings.Cut(rawQuery, "&")
		value, named := c.valueOf(pair)
		if !named {
			continue
		}
		if found != absent {
			return wrong
		}
		found = c.checkValue(value)
	}
	return found
}

func (c *queryCheck) checkValue(escaped string) verdict {
	value, err := url.QueryUnescape(escaped)
	if err != nil || len(value) > maxCredential {
		return wrong
	}
	if !c.secrets.contains(digestOf(purposeQuery, value)) {
		return wrong
	}
	return right
}

// tried is a digest of the wrong values that a request has tried.
func (c *queryCheck) tried(rawQuery string) digest {
	fields := []string{purposeQuery, "wrong"}
	for pair := range strings.SplitSeq(rawQuery, "&") {
		if value, named := c.valueOf(pair); named {
			fields = append(fields, value)
		}
	}
	return digestOf(fields...)
}

// valueOf returns the value of a pair, still escaped, if its name is the parameter.
func (c *queryCheck) valueOf(pair string) (value string, named bool) {
	name, value, _ := strings.Cut(pair, "=")
	if !strings.ContainsAny(name, "%+") {
		return value, name == c.parameter
	}
	name, err := url.QueryUnescape(name)
	return value, err == nil && name == c.parameter
}

// strip removes every pair whose name is the parameter. All other bytes stay as they came. To
// decode the query and encode it again would sort it, and break a URL whose signature is over its
// bytes.
func (c *queryCheck) strip(rawQuery string) string {
	var kept strings.Builder
	stripped, first := false, true
	for rest, more := rawQuery, true; more; {
		var pair string
		pair, rest, more = strings.Cut(rest, "&")
		if _, named := c.valueOf(pair); named {
			stripped = true
			continue
		}
		if !first {
			kept.WriteByte('&')
		}
		first = false
		kept.WriteString(pair)
	}
	if !stripped {
		return rawQuery
	}
	return kept.String()
}

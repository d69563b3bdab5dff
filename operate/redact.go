package operate

import "strings"

// redacted is what Caddy's own logs show in place of a credential.
const redacted = "REDACTED"

// redactQuery hides all values in the query of a URI. The path and the names
// of the parameters tell which callback it is; among the values may be the
// signature of a presigned URL or a token of the service's own, and nobody
// here can tell which. A parameter without a name is all value.
func redactQuery(uri string) string {
	path, query, ok := strings.Cut(uri, "?")
	if !ok {
		return uri
	}
	parts := strings.Split(query, "&")
	for i, part := range parts {
		name, _, named := strings.Cut(part, "=")
		switch {
		case named:
			parts[i] = name + "=" + redacted
		case part != "":
			parts[i] = redacted
		}
	}
	return path + "?" + strings.Join(parts, "&")
}

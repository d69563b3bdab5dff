package operate

import (
	"net/http"
	"slices"
	"strings"
)

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

// telltales are parts of the names of fields in which credentials are sent.
var telltales = []string{
	"auth", "token", "secret", "key", "cookie", "password", "passwd", "signature", "credential", "session",
}

// redactHeader is what is shown of a header: all fields, but of those that may have a credential in
// them only the names.
func redactHeader(header http.Header) http.Header {
	shown := make(http.Header, len(header))
	for name, values := range header {
		switch {
		case strings.HasPrefix(name, ":"): // kept beside the fields, see deliver
		case mayBeCredential(name):
			shown[name] = []string{redacted}
		default:
			shown[name] = values
		}
	}
	return shown
}

func mayBeCredential(name string) bool {
	name = strings.ToLower(name)
	return slices.ContainsFunc(
		telltales,
		func(part string) bool { return strings.Contains(name, part) },
	)
}

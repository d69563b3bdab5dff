package handler_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// advice is what a log says of fields that show credentials.
func (g *gateway) advice() (fields [][]any) {
	g.t.Helper()
	for _, line := range g.logLines() {
		if text, _ := line["msg"].(string); strings.HasPrefix(text, "access and error logs show") {
			fields = append(fields, line["log_fields"].([]any))
		}
	}
	return fields
}

// Whoever adds a credential, or reads the log of today alone, is to have the advice as
// well; but not once for each of many sites.
func TestEachConfigurationAdvisesOnceOnLogs(t *testing.T) {
	const token = "deepgram_callback 127.0.0.1:1 {\ndg_token key\n}"
	const query = "deepgram_callback 127.0.0.1:1 {\nquery_secret token query-0123456789\n}"
	g := start(t, "handle /a {\n"+token+"\n}\nhandle {\n"+token+"\n}")
	require.Equal(t, [][]any{{"request>headers>Dg-Token"}}, g.advice())

	g.reload("handle /a {\n" + token + "\n}\nhandle /b {\n" + query + "\n}\nhandle {\n" + query +
		"\n}")
	advice := slices.Concat(g.advice()...)
	require.ElementsMatch(t, []any{"request>headers>Dg-Token", "request>uri (parameter token)"},
		advice)

	g.reload(callback("127.0.0.1:1", "anonymous"))
	require.Empty(t, g.advice())
}

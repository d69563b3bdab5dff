package admin

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/stretchr/testify/require"

	"github.com/caddy-deepgram/deepgram-callback/operate"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
)

func TestStatusNamesTheGatewaysOfASharedInbox(t *testing.T) {
	var out strings.Builder
	hourAgo := time.Now().Add(-time.Hour)
	require.NoError(t, showInbox(&out, "postgres://db/inbox", operate.InboxStatus{
		Stats: spool.Stats{Routes: map[string]spool.RouteStats{"r": {Configured: true}}},
		Gateways: []spool.Gateway{
			{Name: "gw1\x1b[2J", Version: "v1", Since: hourAgo, LastSeen: time.Now(), LiveStreams: 7, Self: true},
			{Name: "gw2", Version: "v2", Since: hourAgo, LastSeen: hourAgo, Leases: 3},
		},
	}))
	lines := strings.Split(out.String(), "\n")
	require.Equal(t, []string{"GATEWAY", "VERSION", "SINCE", "LAST", "SEEN", "LIVE", "STREAMS", "DELIVERING"},
		strings.Fields(lines[len(lines)-4]))
	require.Regexp(t, `^gw1.*\(this one\) +v1 +1 hour ago +now +7 +0$`, lines[len(lines)-3])
	require.Regexp(t, `^gw2 +v2 +1 hour ago +1 hour ago +0 +3$`, lines[len(lines)-2])
	require.NotContains(t, out.String(), "\x1b")
}

// What is not known is not shown as nothing.
func TestStatusOfAnInboxThatIsAwaySaysOnlyWhy(t *testing.T) {
	var out strings.Builder
	require.NoError(t, showInbox(&out, "postgres://db/inbox", operate.InboxStatus{
		Stats: spool.Stats{Refusing: spool.ReasonUnavailable, RefusingSince: time.Now()},
		Error: "connection refused",
	}))
	require.Contains(t, out.String(), "accepts:  no: store_unavailable, since ")
	require.Contains(t, out.String(), "cause:    connection refused")
	require.NotContains(t, out.String(), "PENDING")
}

// tables is a store that somebody else can make the tables of.
type tables struct{}

func (tables) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "deepgram_callback.stores.with_tables",
		New: func() caddy.Module { return tables{} },
	}
}

func (tables) SchemaSQL(schema string) (string, error) {
	if schema == "no" {
		return "", errors.New("no such name")
	}
	return "\n\nCREATE TABLE " + schema + ";\n\n", nil
}

func TestTheSchemaIsThatOfAStoreThatIsBuiltIn(t *testing.T) {
	var out strings.Builder
	require.ErrorContains(t, printSchema(&out, ""), "no store of this binary has tables; build it with --with ")
	require.Empty(t, out.String())

	caddy.RegisterModule(tables{})
	require.NoError(t, printSchema(&out, "x"))
	require.Equal(t, "CREATE TABLE x;\n", out.String())
	require.ErrorContains(t, printSchema(&out, "no"), "no such name")
}

package admin

import (
	"net/http"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/stretchr/testify/require"

	"github.com/caddy-deepgram/deepgram-callback/operate"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
)

func TestTerminalsAreNotSteeredByWhatIsShown(t *testing.T) {
	const steering = "\x1b[2J\u009b31m\u202e"
	var out strings.Builder
	m := operate.Message{Path: steering}
	m.Route, m.Method, m.URI = steering, steering, "/"+steering
	m.RequestID, m.LastError, m.ContentType = steering, steering, steering
	list := newTable(&out)
	messageRow(list, m)
	require.NoError(t, list.flush())
	require.NoError(t, messageDetails(&out, operate.Details{
		Message: m, Host: steering, Header: http.Header{"X-" + steering: {steering}},
		History: []operate.Attempt{{Error: steering, Upstream: steering, Gateway: steering}},
	}))
	require.NoError(t, streamTable(&out, []operate.Stream{{
		ID: steering, Route: steering, ClientIP: steering, Path: steering, Upstream: steering,
	}}))
	require.NoError(t, inboxStatus(&out, steering,
		spool.Stats{Refusing: steering, Routes: map[string]spool.RouteStats{
			steering: {Configured: true, Down: true, LastError: steering},
		}}))
	require.Contains(t, out.String(), `\x1b[2J\u009b31m\u202e`)
	for _, r := range out.String() {
		require.True(t, r == '\n' || unicode.IsPrint(r), "%U", r)
	}
}

func TestLongCellsAreCutBetweenCharacters(t *testing.T) {
	require.Equal(t, "ééé", shorten("ééé", 3))
	require.Equal(t, "éé…", shorten("éééé", 3))
}

func TestTrafficIsCountedInWords(t *testing.T) {
	require.Equal(t, "0 messages, 0 B", traffic(0, 0))
	require.Equal(t, "1 message, 1 B", traffic(1, 1))
	require.Equal(t, "12,345 messages, 2.0 MiB", traffic(12345, 2<<20))
}

func TestStatusTellsAnInboxThatRefusesAndAServiceThatIsDown(t *testing.T) {
	var out strings.Builder
	require.NoError(t, inboxStatus(&out, "/data", spool.Stats{
		DiskBytes:     3 << 20,
		Refusing:      spool.ReasonDisk,
		RefusingSince: time.Now().Add(-5 * time.Minute),
		Routes: map[string]spool.RouteStats{
			"b": {Configured: true, Down: true, LastError: "no answer",
				NextProbe: time.Now().Add(time.Hour + time.Second)},
			"a": {Configured: true, Totals: spool.Totals{Pending: 1234567, PendingBytes: 1 << 30,
				InFlight: 16, OldestPending: time.Now().Add(-3 * time.Hour),
				Delivered: 4321, DeliveredBytes: 1 << 20}},
			"c": {Configured: true, Paused: true},
			"d": {Paused: true},
		},
	}))
	require.Regexp(t, `^inbox: +/data
on disk: +3\.0 MiB
accepts: +no: disk_full, since 20.* \(5 minutes ago\)
ROUTE +PENDING +SIZE +IN FLIGHT +OLDEST +DEAD +SIZE +DELIVERED +SIZE +SERVICE
a +1,234,567 +1\.0 GiB +16 +3 hours ago +0 +0 B +4,321 +1\.0 MiB +up
b +0 +0 B +0 +- +0 +0 B +0 +0 B +down \(no answer\), next try 1 hour from now
c +0 +0 B +0 +- +0 +0 B +0 +0 B +paused
d +0 +0 B +0 +- +0 +0 B +0 +0 B +paused; not configured
$`, out.String())
}

func TestNextAttemptOfAPendingMessage(t *testing.T) {
	later, past := time.Now().Add(2*time.Minute+time.Second), time.Now().Add(-time.Minute)
	for _, test := range []struct {
		m    operate.Message
		want string
	}{
		{operate.Message{State: spool.Pending}, "in turn"},
		{operate.Message{State: spool.Pending, NextAttemptAt: &past}, "in turn"},
		{operate.Message{State: spool.Pending, NextAttemptAt: &later}, "2 minutes from now"},
		{operate.Message{State: spool.Dead}, ""},
		{operate.Message{State: spool.Delivered}, ""},
	} {
		require.Equal(t, test.want, next(test.m))
	}
	require.Equal(t, "in turn", nextExactly(operate.Message{State: spool.Pending}))
	require.Contains(t, nextExactly(operate.Message{State: spool.Pending, NextAttemptAt: &later}),
		"Z (2 minutes from now)")
}

package app

import (
	"net"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"

	"github.com/caddy-deepgram/deepgram-callback/relay/stream"
)

// endAll ends streams from the caller's side, one after the other.
func endAll(t *testing.T, r *Registry, callers, backends []net.Conn) {
	t.Helper()
	for i := range callers {
		before := len(r.List())
		_ = callers[i].Close()
		_ = backends[i].Close()
		require.Eventually(t, func() bool { return len(r.List()) < before }, patience, time.Millisecond)
	}
}

func TestEndedStreamsAreRemembered(t *testing.T) {
	r := newRegistry(zap.NewNop)
	require.Empty(t, r.Ended())
	began := time.Now()
	var callers, backends []net.Conn
	for _, name := range []string{"a", "b", "c"} {
		caller, backend := openStream(t, r, StreamInfo{
			Route: "route", User: name, ClientIP: "192.0.2.1",
			Path: "/" + name, Upstream: name + ":1", Drain: time.Minute,
		})
		callers, backends = append(callers, caller), append(backends, backend)
	}
	_, err := callers[0].Write([]byte("\x81\x82\x00\x00\x00\x00hi"))
	require.NoError(t, err)
	_, err = backends[0].Read(make([]byte, 8))
	require.NoError(t, err)
	require.Empty(t, r.Ended(), "they are live")
	endAll(t, r, callers, backends)

	ended := r.Ended()
	var users []string
	for _, s := range ended {
		users = append(users, s.User)
		require.NotEmpty(t, s.ID)
		require.Equal(t, "route", s.Route)
		require.Equal(t, "192.0.2.1", s.ClientIP)
		require.Equal(t, "/"+s.User, s.Path)
		require.Equal(t, s.User+":1", s.Upstream)
		require.Equal(t, stream.EndDropped, s.Reason)
		require.Equal(t, stream.CloseGoingAway, s.Code)
		require.Contains(t, s.Text, "gone")
		require.NotEmpty(t, s.Error)
		require.WithinRange(t, s.StartedAt, began, time.Now())
		require.WithinRange(t, s.EndedAt, s.StartedAt, time.Now())
	}
	require.Equal(t, []string{"c", "b", "a"}, users, "the newest first")
	require.Equal(t, stream.Traffic{Messages: 1, Bytes: 2}, ended[2].FromCaller)
}

// Callers choose their paths.
func TestLongPathsAreNotKept(t *testing.T) {
	for _, path := range []string{"/" + strings.Repeat("x", 1<<20), "/" + strings.Repeat("é", 1<<19),
		"/" + strings.Repeat("\x80", 1<<20)} {
		r := newRegistry(zap.NewNop)
		caller, backend := openStream(t, r, StreamInfo{Path: path, Drain: time.Minute})
		require.LessOrEqual(t, len(r.List()[0].Path), maxPath+4)
		endAll(t, r, []net.Conn{caller}, []net.Conn{backend})
		kept := r.Ended()[0].Path
		require.LessOrEqual(t, len(kept), maxPath+4)
		require.Greater(t, len(kept), maxPath-utf8.UTFMax)
		require.True(t, strings.HasPrefix(path, strings.TrimSuffix(kept, "…")))
		require.Equal(t, utf8.ValidString(path), utf8.ValidString(kept))
	}
	require.Equal(t, "/short", clip("/short", maxPath))
}

func TestStreamsAreSelected(t *testing.T) {
	s := &StreamInfo{Route: "r", User: "u", Path: "/live/1", Upstream: "h:1"}
	for _, f := range []StreamFilter{
		{}, {Route: "r"}, {User: "u"}, {Upstream: "h:1"}, {Path: "/live/1"}, {Path: "/live/*"},
		{Path: "*"}, {Path: "/live/1*"},
		{Route: "r", User: "u", Path: "/live/1", Upstream: "h:1"},
	} {
		require.True(t, f.Selects(s), "%+v", f)
	}
	for _, f := range []StreamFilter{
		{Route: "R"}, {User: "v"}, {User: "*"}, {Upstream: "h"}, {Path: "/live"}, {Path: "/live/"},
		{Path: "/live/2*"}, {Path: "/live/1/*"},
		{Route: "r", User: "v"}, {User: "u", Path: "/other"},
	} {
		require.False(t, f.Selects(s), "%+v", f)
	}
}

func TestStreamsAreKilledBySelection(t *testing.T) {
	r := newRegistry(zap.NewNop)
	var callers, backends []net.Conn
	for _, user := range []string{"a", "b", "a"} {
		caller, backend := openStream(t, r, StreamInfo{User: user, Drain: 10 * time.Millisecond})
		callers, backends = append(callers, caller), append(backends, backend)
	}
	require.Zero(t, r.KillAll(StreamFilter{User: "c"}))
	require.Equal(t, 2, r.KillAll(StreamFilter{User: "a"}))
	for _, i := range []int{0, 2} {
		require.Equal(t, int(stream.CloseGoingAway), closeCode(t, callers[i], false))
		require.Equal(t, int(stream.CloseGoingAway), closeCode(t, backends[i], true))
	}
	require.Eventually(t, func() bool { return len(r.List()) == 1 }, patience, time.Millisecond)
	require.Equal(t, "b", r.List()[0].User)
	endAll(t, r, callers[1:2], backends[1:2])
}

func TestUpstreamWithTheFewestStreamsIsPicked(t *testing.T) {
	r := newRegistry(zap.NewNop)
	upstreams := []string{"a", "b", "c"}
	picks := make(map[string]int)
	var releases []func()
	for range 30 { // all of them being opened at a time
		i, release := r.Pick(upstreams)
		picks[upstreams[i]]++
		releases = append(releases, release)
	}
	require.Equal(t, map[string]int{"a": 10, "b": 10, "c": 10}, picks)

	i, release := r.Pick([]string{"a", "new", "b"})
	require.Equal(t, 1, i)
	release()
	release() // counts once
	for _, release := range releases {
		release()
	}
	require.Empty(t, r.perUpstream, "nothing is left of them")

	// Those that live count as well.
	callerA, backendA := openStream(t, r, StreamInfo{Upstream: "a", Drain: time.Minute})
	callerB, backendB := openStream(t, r, StreamInfo{Upstream: "b", Drain: time.Minute})
	for range 20 {
		i, release := r.Pick(upstreams)
		require.Equal(t, 2, i)
		release()
	}
	endAll(t, r, []net.Conn{callerA, callerB}, []net.Conn{backendA, backendB})
	require.Empty(t, r.perUpstream)
}

func TestTiesAreBrokenAtRandom(t *testing.T) {
	r := newRegistry(zap.NewNop)
	picks := make([]int, 3)
	const n = 3000
	for range n {
		i, release := r.Pick([]string{"a", "b", "c"})
		release()
		picks[i]++
	}
	require.InDelta(t, n/3, slices.Min(picks), n/10)
}

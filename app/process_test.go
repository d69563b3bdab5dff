package app

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/caddy-deepgram/deepgram-callback/internal/caddytest"
)

// started starts a configuration with some routes.
func started(t *testing.T, process *Process, routes ...*Route) *App {
	t.Helper()
	a := process.NewApp()
	for _, r := range routes {
		require.NoError(t, a.AddRoute(r))
	}
	require.NoError(t, a.Start())
	return a
}

func ended(t *testing.T, a *App) {
	t.Helper()
	require.NoError(t, a.Stop())
	require.NoError(t, a.Cleanup())
}

func TestAnInboxIsOpenForAsLongAsAConfigurationNamesIt(t *testing.T) {
	process := NewProcess()
	kept, left, fresh := t.TempDir(), t.TempDir(), t.TempDir()
	// two handlers with one route, as several sites have
	first := started(t, process, answering(t, kept, "r"), answering(t, kept, "r"),
		answering(t, left, "r"))
	inbox := process.Inboxes()[kept]
	require.Len(t, process.Inboxes(), 2)

	second := started(t, process, answering(t, kept, "r"), answering(t, fresh, "r"))
	require.Len(t, process.Inboxes(), 3)
	require.Same(t, inbox, process.Inboxes()[kept], "it is shared")
	ended(t, first)
	require.Len(t, process.Inboxes(), 2)
	require.NotContains(t, process.Inboxes(), left)

	// A configuration that ends before the one that it replaced leaves that one's.
	third := started(t, process, answering(t, left, "r"))
	ended(t, third)
	require.Len(t, process.Inboxes(), 2)
	require.NotContains(t, process.Inboxes(), left)
	require.Same(t, inbox, process.Inboxes()[kept])
	require.Same(t, second, process.newest.Load())

	ended(t, second)
	require.Empty(t, process.Inboxes())
	require.Nil(t, process.newest.Load())
}

func TestProcessesShareNothing(t *testing.T) {
	one, other := NewProcess(), NewProcess()
	a := started(t, one, answering(t, t.TempDir(), "r"))
	require.Empty(t, other.Inboxes())
	require.Nil(t, other.newest.Load())
	_, err := one.Streams.Reserve("r", 1)
	require.NoError(t, err)
	_, err = other.Streams.Reserve("r", 1)
	require.NoError(t, err)
	ended(t, a)
}

// A configuration that is only checked, as for `caddy validate`, is cleaned up while another
// one runs.
func TestCleaningUpWhatWasNotStartedLeavesTheOthers(t *testing.T) {
	process := NewProcess()
	dir := t.TempDir()
	running := started(t, process, answering(t, dir, "r"))
	checked := process.NewApp()
	require.NoError(t, checked.AddRoute(answering(t, dir, "other")))
	require.NoError(t, checked.Cleanup())
	require.Len(t, process.Inboxes(), 1)
	require.Same(t, running, process.newest.Load())
	require.True(t, caddytest.Stats(t, process.Inboxes()[dir]).Routes["r"].Configured)
	ended(t, running)
}

func TestEachConfigurationSaysOnceWhatConcernsAllOfIt(t *testing.T) {
	for range 2 {
		a := NewProcess().NewApp()
		require.True(t, a.Once("advice"))
		require.False(t, a.Once("advice"))
		require.True(t, a.Once("other advice"))
	}
}

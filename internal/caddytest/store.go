package caddytest

import (
	"context"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/stretchr/testify/require"

	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/disk"
)

// DiskStore returns the module of a store in a directory.
func DiskStore(t testing.TB, dir string) spool.StoreModule {
	t.Helper()
	module := &disk.Module{Dir: dir}
	require.NoError(t, module.Provision(caddy.Context{}))
	return module
}

// OpenInbox opens an inbox on disk that no Caddy has open.
func OpenInbox(t testing.TB, dir string) *spool.Inbox {
	t.Helper()
	store, err := disk.Open(dir, disk.Options{})
	require.NoError(t, err)
	return spool.New(store, spool.Hooks{})
}

// Stats returns what an inbox holds.
func Stats(t testing.TB, inbox *spool.Inbox) spool.Stats {
	t.Helper()
	stats, err := inbox.Stats(context.Background())
	require.NoError(t, err)
	return stats
}

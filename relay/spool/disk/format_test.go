package disk

import (
	"archive/tar"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/disk/internal/disktest"
)

// unpack makes an inbox of one that is stored in testdata.
func unpack(t *testing.T, name string) (dir string) {
	t.Helper()
	packed, err := os.Open(filepath.Join("testdata", name))
	require.NoError(t, err)
	defer func() { require.NoError(t, packed.Close()) }()
	unzipped, err := gzip.NewReader(packed)
	require.NoError(t, err)
	dir = disktest.TempDir(t)
	for r := tar.NewReader(unzipped); ; {
		header, err := r.Next()
		if errors.Is(err, io.EOF) {
			return dir
		}
		require.NoError(t, err)
		path := filepath.Join(dir, filepath.Clean("/"+header.Name))
		if header.FileInfo().IsDir() {
			require.NoError(t, os.MkdirAll(path, 0o700))
			continue
		}
		content, err := io.ReadAll(r)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(path, content, 0o600))
	}
}

// Inboxes are for longer than programs. This one was written by the program of 25 November 2026,
// before stores were modules: six callbacks, of which one was delivered, one has failed once, one
// waits behind that, one is a dead letter, one was never tried, and one is large and of another
// route.
func TestAnInboxThatAnEarlierVersionWroteIsReadOn(t *testing.T) {
	dir := unpack(t, "inbox-before-stores.tar.gz")
	d := openTestDisk(t, dir, Options{})
	ctx := context.Background()

	large := `{"metadata":{"request_id":"large"},"text":"` + strings.Repeat("large ", 20000) + `"}`
	small := func(request, text string) string {
		return fmt.Sprintf(`{"metadata":{"request_id":%q},"text":%q}`, request, text)
	}
	type found struct {
		state    spool.State
		route    string
		request  string
		attempts int
		err      string
		body     string
	}
	want := map[string]found{
		"01a215c3-6246-7000-a498-8a40df88a1c5": {
			"pending",
			"r",
			"retried",
			1,
			"503",
			small("retried", "retried"),
		},
		"01a215c3-6247-7000-a15f-1233ea092934": {
			"pending",
			"r",
			"retried",
			0,
			"",
			small("retried", "behind"),
		},
		"01a215c3-6248-7000-a846-bc0f6f08eda3": {"dead", "r", "dead", 1, "410", small("dead", "dead")},
		"01a215c3-6249-7000-959b-6dc4b4b4a326": {"pending", "r", "fresh", 0, "", small("fresh", "fresh")},
		"01a215c3-624c-7000-988f-4a43af46a5e8": {"pending", "other", "large", 0, "", large},
	}
	list, err := d.List(ctx, spool.Filter{})
	require.NoError(t, err)
	bodies := disktest.Everything(t, d)
	got := make(map[string]found)
	for _, m := range list {
		got[m.ID.String()] = found{m.State, m.Route, m.RequestID, m.Tries, m.LastError, bodies[m.ID]}
		require.Equal(t, "POST", m.Method)
		require.Equal(t, "/hook?route="+m.Route, m.URI)
		require.Equal(t, "alice", m.User)
		require.Equal(t, []string{"a", "b"}, m.Header["X-Many"])
		require.Equal(t, int64(len(bodies[m.ID])), m.Size)
		require.NotZero(t, m.OrderKey)
		require.NotZero(t, m.Destination)
	}
	require.Equal(t, want, got)
	require.Equal(t, time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC), list[0].NextAttemptAt.UTC())
	require.Equal(t, time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), list[2].DiedAt.UTC())
	require.EqualValues(t, 6, counts(t, d).Fingerprints)

	// Its duplicates are known, and its order goes on.
	again := spool.New(d, spool.Hooks{})
	t.Cleanup(func() { require.NoError(t, again.Close(ctx)) })
	text := small("delivered", "delivered")
	receipt, err := again.Accept(ctx, spool.Envelope{
		Route: "r", Method: "POST", URI: "/hook?route=r", ContentLength: int64(len(text)), User: "alice",
		Header: map[string][]string{"Content-Type": {"application/json"}, "X-Many": {"a", "b"}},
	}, strings.NewReader(text))
	require.NoError(t, err)
	require.Equal(t, "01a215c3-6242-7000-86e8-2fa8513413d5", receipt.ID.String())
	require.True(t, receipt.Duplicate, "of the delivered one")

	leased, err := d.Lease(ctx, spool.LeaseRequest{Route: "r", Max: 10})
	require.NoError(t, err)
	require.Len(t, leased.Leases, 1, "nothing overtakes the one that has failed")
	require.Equal(t, "fresh", leased.Leases[0].Message.RequestID)
	require.NoError(t, d.Replay(ctx, list[0].ID))
	leased, err = d.Lease(ctx, spool.LeaseRequest{Route: "r", Max: 10})
	require.NoError(t, err)
	require.Len(t, leased.Leases, 1)
	require.Equal(t, list[0].ID, leased.Leases[0].Message.ID)
	both, err := d.List(ctx, spool.Filter{RequestID: "retried"})
	require.NoError(t, err)
	require.Len(t, both, 2)
}

//go:build unix

package shared_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-deepgram/deepgram-callback/internal/caddytest"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/transfer"
)

// onDisk is the configuration of a gateway with its inbox in a directory.
func (g *gateway) onDisk(dir string) string {
	config := g.config("")
	before, after, _ := strings.Cut(config, "store postgres")
	_, after, _ = strings.Cut(after, "}")
	return before + fmt.Sprintf("store disk %q", dir) + after
}

// copyOf is `spool copy`, where {env.INBOX} is the database.
func copyOf(t *testing.T, dsn string, args ...string) *exec.Cmd {
	command := caddytest.Command(t, append([]string{"deepgram-callback", "spool", "copy"}, args...)...)
	command.Env = append(command.Env, "INBOX="+dsn)
	return command
}

type copyReport struct {
	Complete     bool
	Total        int
	Routes       map[string]map[spool.State]transfer.Counts
	Fingerprints int
}

// copyAll copies an inbox as soon as nobody uses it: one who was killed counts for a time.
func copyAll(t *testing.T, dsn string, args ...string) (report copyReport) {
	t.Helper()
	require.Eventually(t, func() bool {
		command := copyOf(t, dsn, append(args, "--json")...)
		var errs caddytest.Output
		command.Stderr = &errs
		out, err := command.Output()
		if err != nil {
			require.Contains(t, errs.String(), "in use")
			return false
		}
		require.NoError(t, json.Unmarshal(out, &report))
		return true
	}, 2*patience, 100*time.Millisecond)
	require.True(t, report.Complete)
	return report
}

// An inbox on disk becomes a shared one under a gateway that goes on accepting, and its callbacks
// are delivered once and in order although the copy is killed in the middle. Then all is copied back.
func TestAnInboxIsCopiedIntoADatabaseAndBack(t *testing.T) {
	const streams, each = 20, 125
	dsn, dir := newDatabase(t).DSN(), filepath.Join(t.TempDir(), "inbox")
	var up atomic.Bool
	s := newService(t, func(_ context.Context, d delivery) int {
		switch {
		case d.stream == "dead":
			return http.StatusGone
		case d.stream == "kept" || up.Load():
			return http.StatusOK
		}
		return http.StatusBadRequest
	})
	g := newGateway(t, "one", dsn, s)
	g.reload(g.onDisk(dir))

	accepted := make(map[string][]string)
	var mu sync.Mutex
	var senders sync.WaitGroup
	for n := range streams {
		senders.Go(func() {
			stream := "s" + strconv.Itoa(n)
			var ids []string
			for i := range each {
				text := strconv.Itoa(i)
				if i == 7 && n < 3 {
					text = strings.Repeat("large ", 1<<20)
				}
				ids = append(ids, g.acceptAtLast(stream, text))
			}
			mu.Lock()
			defer mu.Unlock()
			accepted[stream] = ids
		})
	}
	senders.Wait()
	g.accept("dead", "")
	kept := g.accept("kept", "")
	s.waitFor(kept)
	require.Eventually(t, func() bool {
		in := g.inbox()
		return in.Dead == 1 && in.Delivered == 1 && in.Pending == streams*each
	}, patience, 10*time.Millisecond)

	said, err := copyOf(t, dsn, "--from", dir, "--to", "{env.INBOX}").CombinedOutput()
	require.Error(t, err)
	require.Contains(t, string(said), "in use by another process, which would deliver what is copied")

	g.reload(g.config(""))
	first := copyOf(t, dsn, "--from", dir, "--to", "{env.INBOX}")
	require.NoError(t, first.Start())
	require.Eventually(t, func() bool { return g.inbox().Pending > 100 }, patience, time.Millisecond)
	require.NoError(t, first.Process.Kill())
	require.Error(t, first.Wait(), "it was killed in the middle")
	up.Store(true)
	report := copyAll(t, dsn, "--from", dir, "--to", "{env.INBOX}")
	pending := report.Routes["hooks"][spool.Pending]
	require.Greater(t, pending.Present, int64(99))
	require.Equal(t, int64(streams*each), pending.Present+pending.Copied)
	require.Equal(t, int64(1), report.Routes["hooks"][spool.Dead].Copied)
	require.Equal(t, int64(1), report.Routes["hooks"][spool.Delivered].Copied)

	all := []string{kept}
	for _, ids := range accepted {
		all = append(all, ids...)
	}
	s.waitFor(all...)
	accepted["kept"] = []string{kept}
	requireOrder(t, s.all(), accepted)
	again := copyAll(t, dsn, "--from", dir, "--to", "{env.INBOX}")
	require.Zero(t, again.Routes["hooks"][spool.Pending].Copied)
	require.Equal(t, accepted["s3"][9], g.accept("s3", "9"), "a repetition is recognised")
	require.Equal(t, accepted["s0"][7], g.accept("s0", strings.Repeat("large ", 1<<20)))
	require.Equal(t, kept, g.accept("kept", ""))
	require.Eventually(t, func() bool { return g.inbox().Delivered == len(all) }, patience,
		10*time.Millisecond)
	for id, times := range s.taken() {
		require.Equal(t, 1, times, id)
	}

	// And back, into a new directory.
	back := filepath.Join(t.TempDir(), "back")
	said, err = copyOf(t, dsn, "--from", "{env.INBOX}", "--to", back).CombinedOutput()
	require.Error(t, err)
	require.Contains(t, string(said), "is in use")
	g.reload(g.onDisk(filepath.Join(t.TempDir(), "other")))
	report = copyAll(t, dsn, "--from", "{env.INBOX}", "--to", back)
	require.Equal(t, int64(len(all)), report.Routes["hooks"][spool.Delivered].Copied)
	require.Equal(t, len(all)+1, report.Fingerprints)
	g.reload(g.onDisk(back))
	require.Equal(t, len(all), g.inbox().Delivered)
	require.Equal(t, 1, g.inbox().Dead)
	for _, id := range []string{accepted["s0"][7], accepted["s19"][9]} {
		body := g.command("spool", "body", id)
		require.True(t, delivered(s, id) == body, "the bytes are those that were accepted")
	}
	require.Equal(t, accepted["s3"][9], g.accept("s3", "9"), "a repetition is recognised")
	for id, times := range s.taken() {
		require.Equal(t, 1, times, id)
	}
}

func delivered(s *service, id string) string {
	for _, d := range s.all() {
		if d.webhook == id {
			return d.body
		}
	}
	return ""
}

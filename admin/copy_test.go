package admin_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/caddy-deepgram/deepgram-callback/internal/caddytest"
)

func TestCopyNamesWhatIsDamagedAndCopiesTheRest(t *testing.T) {
	path, ids := closedInbox(t)
	spoil(t, path, "/second")
	segments, err := filepath.Glob(filepath.Join(path, "segments", "*"))
	require.NoError(t, err)
	require.Len(t, segments, 1)
	content, err := os.ReadFile(segments[0])
	require.NoError(t, err)
	last := strings.LastIndex(string(content), "request_id") // in the body of the third
	content[last] ^= 1
	require.NoError(t, os.WriteFile(segments[0], content, 0o600))

	into := filepath.Join(t.TempDir(), "new")
	o := run(t, "spool", "copy", "--from", path, "--to", into)
	require.ErrorContains(t, o.err, "2 callbacks could not be copied")
	require.Equal(t, 1, o.code)
	for _, part := range []string{
		"from: " + path, "to:   " + into, "not copied, as they are damaged:",
		ids[1].String() + " route away", ids[2].String() + " route away request_id request-",
		"damaged on disk", "Both inboxes were counted, and agree.",
		`.copied'`, "delivers what is pending there again",
	} {
		require.Contains(t, o.out, part)
	}

	g := start(t, map[string][]string{into: {"hooks", "other"}}, nil)
	require.Equal(t, []string{ids[0].String()}, g.list(""))
}

func TestCopyReportsForPrograms(t *testing.T) {
	path, _ := closedInbox(t)
	into := filepath.Join(t.TempDir(), "new")
	for _, want := range []map[string]any{
		{"copied": 3.0, "present": 0.0, "lost": 0.0}, {"copied": 0.0, "present": 3.0, "lost": 0.0},
	} {
		o := run(t, "spool", "copy", "--from", path, "--to", into, "--json")
		require.NoError(t, o.err)
		var report map[string]any
		require.NoError(t, json.Unmarshal([]byte(o.out), &report))
		require.Equal(t, want, report["routes"].(map[string]any)["away"].(map[string]any)["pending"])
		require.Equal(t, true, report["complete"])
		require.Equal(t, true, report["counted"])
		require.Equal(t, 3.0, report["fingerprints"])
	}
}

func TestCopyOpensNoInboxThatCaddyHas(t *testing.T) {
	_, path := one(t)
	closed, _ := closedInbox(t)
	o := run(t, "spool", "copy", "--from", path, "--to", filepath.Join(t.TempDir(), "new"))
	require.ErrorContains(t, o.err, "in use by another process, which would deliver what is copied")
	require.ErrorContains(t, o.err, "reload it")
	require.Equal(t, 1, o.code)
	o = run(t, "spool", "copy", "--from", closed, "--to", path)
	require.ErrorContains(t, o.err, "stop that Caddy")
	require.Equal(t, 1, o.code)
}

func TestCopyRefusesWhatCannotBeMeant(t *testing.T) {
	path, _ := closedInbox(t)
	t.Setenv("COPY_PASSWORD", "hidden")
	none := filepath.Join(t.TempDir(), "none")
	for _, c := range []struct {
		args []string
		want string
		code int
	}{
		{[]string{"--to", path}, "--from is missing", 1},
		{[]string{"--from", path}, "--to is missing", 1},
		{[]string{"--from", path, "--to", path + "/."}, "the same inbox", 1},
		{[]string{"--from", none, "--to", path}, "there is no inbox in " + none, 5},
		{[]string{"--from", path, "--to", "{env.COPY_NOTHING}"}, "COPY_NOTHING", 1},
		{[]string{"--from", path, "--to", "redis://db"}, "postgres:// URL is expected", 1},
		{[]string{"--from", path, "--to", none, "--to-schema", "x"}, "which has none", 1},
		{[]string{"--from", path, "--to", "postgres://a:hidden@db/x"}, "--to has a password", 1},
		{[]string{"--from", path, "--to", "host=db password = hidden"}, "--to has a password", 1},
		{[]string{"--from", path, "--to", "postgres://db/x?password=hidden"}, "a password in it", 1},
		// There is no such store in this binary; the password is not in the way.
		{[]string{"--from", path, "--to", "postgres://a:{env.COPY_PASSWORD}@db/x"}, "--with", 1},
		{[]string{"--from", path, "--to", "host=db password={env.COPY_PASSWORD} user=a"}, "--with", 1},
	} {
		o := run(t, append([]string{"spool", "copy"}, c.args...)...)
		require.ErrorContains(t, o.err, c.want)
		require.Equal(t, c.code, o.code, c.want)
		require.NotContains(t, o.err.Error(), "hidden")
		require.NotContains(t, o.out+o.notes, "hidden")
	}
	require.NoDirExists(t, none)
	require.Equal(t, int64(3), caddytest.Stats(t, caddytest.OpenInbox(t, path)).Pending)
}

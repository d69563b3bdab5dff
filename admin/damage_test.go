package admin_test

import (
	"bytes"
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/caddy-deepgram/deepgram-callback/internal/caddytest"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
)

// closedInbox has three callbacks of a route that no test here configures.
func closedInbox(t *testing.T) (path string, ids []spool.ID) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "it's an inbox")
	inbox := caddytest.OpenInbox(t, path)
	for _, uri := range []string{"/first", "/second", "/third"} {
		receipt, err := inbox.Accept(t.Context(), spool.Envelope{
			Route: "away", Method: http.MethodPost, URI: uri, ContentLength: -1,
		}, body())
		require.NoError(t, err)
		ids = append(ids, receipt.ID)
	}
	require.NoError(t, inbox.Close(t.Context()))
	return path, ids
}

// spoil changes a text wherever it is in the index.
func spoil(t *testing.T, path, text string) {
	t.Helper()
	index := filepath.Join(path, "inbox.db")
	content, err := os.ReadFile(index)
	require.NoError(t, err)
	require.Contains(t, string(content), text)
	require.NoError(t, os.WriteFile(index,
		bytes.ReplaceAll(content, []byte(text), bytes.ToUpper([]byte(text))), 0o600))
}

func TestADamagedCallbackIsListedAndDropped(t *testing.T) {
	path, ids := closedInbox(t)
	spoil(t, path, "/second")
	g := start(t, map[string][]string{path: {"hooks", "other"}}, nil)
	require.Len(t, g.list(""), 3)
	require.Contains(t, g.ok("spool", "list"), ids[1].String())
	require.Contains(t, g.ok("spool", "list", "--json"), "damaged on disk")

	require.Equal(t, http.StatusNoContent,
		g.do(http.MethodDelete, "/spool/messages/"+ids[1].String()).StatusCode)
	require.Len(t, g.list(""), 2)
	require.Equal(t, http.StatusNotFound,
		g.do(http.MethodDelete, "/spool/messages/"+ids[1].String()).StatusCode)
	require.Equal(t, http.StatusNotFound, g.do(http.MethodDelete, "/spool/messages/none").StatusCode)
}

func TestRecoverNeedsNoRunningCaddy(t *testing.T) {
	path, ids := closedInbox(t)
	spoil(t, path, "/second")
	o := run(t, "spool", "recover", path)
	require.NoError(t, o.err)
	require.Zero(t, o.code)
	into := path + ".recovered"
	for _, part := range []string{
		"saved 2 callbacks in " + into + ": 2 pending, 0 dead letters",
		"lost 1 callback:", ids[1].String() + " route away",
		"saved 1 body in " + into + ".bodies",
		`mv '` + strings.ReplaceAll(into, "'", `'\''`) + `' '` +
			strings.ReplaceAll(path, "'", `'\''`) + `'`,
	} {
		require.Contains(t, o.out, part)
	}
	saved, err := os.ReadFile(filepath.Join(into+".bodies", ids[1].String()+".body"))
	require.NoError(t, err)
	require.Contains(t, string(saved), "request_id")

	require.NoError(t, os.Rename(path, path+".damaged"))
	require.NoError(t, os.Rename(into, path))
	g := start(t, map[string][]string{path: {"hooks", "other"}}, nil)
	require.Equal(t, []string{ids[0].String(), ids[2].String()}, g.list(""))

	o = run(t, "spool", "recover", path, "--into", into+".again")
	require.ErrorContains(t, o.err, "in use by another process")
	require.Equal(t, 1, o.code)
}

func TestRecoverReportsForPrograms(t *testing.T) {
	path, _ := closedInbox(t)
	into := filepath.Join(t.TempDir(), "new")
	o := run(t, "spool", "recover", path, "--into", into, "--json")
	require.NoError(t, o.err)
	var report map[string]any
	require.NoError(t, json.Unmarshal([]byte(o.out), &report))
	require.Equal(t, map[string]any{
		"into": into, "pending": 3.0, "dead": 0.0, "delivered": 0.0, "uncertain": 0.0, "lost": []any{}, "missing": 0.0,
		"bodies": 0.0, "damage": []any{},
	}, report)
}

func TestRecoverOfNothingIsAnError(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "none")
	o := run(t, "spool", "recover", dir)
	require.ErrorContains(t, o.err, dir)
	require.Equal(t, 1, o.code)
	require.NoDirExists(t, dir)
	require.NoDirExists(t, dir+".recovered")
}

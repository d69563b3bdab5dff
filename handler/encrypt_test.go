package handler_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/stretchr/testify/require"

	"github.com/caddy-deepgram/deepgram-callback/internal/caddytest"
	"github.com/caddy-deepgram/deepgram-callback/operate"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
)

// encryptionKey is the text of a key that a test knows by a name.
func encryptionKey(name string) string {
	key := sha256.Sum256([]byte(name))
	return base64.StdEncoding.EncodeToString(key[:])
}

// requireNowhere requires that no file of a directory has one of some texts in it.
func requireNowhere(t testing.TB, dir string, texts ...string) {
	t.Helper()
	files := 0
	require.NoError(t, filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		content, err := os.ReadFile(path)
		files++
		for _, text := range texts {
			require.NotContains(t, path, text)
			require.False(t, bytes.Contains(content, []byte(text)), "%q is in %s", text, path)
		}
		return err
	}))
	require.Positive(t, files)
}

// Bodies of one block, and of more than a store has in its index.
func TestNothingOfAnEncryptedCallbackIsReadableOnDisk(t *testing.T) {
	t.Setenv("TEST_KEY", encryptionKey("a"))
	book := &ledger{}
	service := newSwitchable(t, book)
	dir := t.TempDir()
	g := start(t, spooled(service.addr, dir, soon+"keep 1h\nencrypt {env.TEST_KEY}"))
	const transcript, field = "the patient said on the phone", "a-value-of-a-field"
	bodies := []string{
		`{"metadata":{"request_id":"call-1"},"transcript":"` + transcript + `"}`,
		`{"metadata":{"request_id":"call-2"},"transcript":"` +
			strings.Repeat(transcript+" ", 10_000) + `"}`,
	}
	secret := []string{transcript, transcript[10:], field, encryptionKey("a"), "x-tenant", "X-Tenant"}
	var ids []string
	for _, body := range bodies {
		ids = append(ids, accepted(t, send(t, "POST", g.url+"/c", strings.NewReader(body),
			http.Header{"X-Tenant": {field}, "Content-Type": {"application/json"}})))
	}
	requireNowhere(t, dir, secret...)

	service.up()
	for _, d := range book.waitFor(t, len(bodies)) {
		require.Contains(t, bodies, string(d.body))
		require.Equal(t, field, d.header.Get("X-Tenant"))
	}
	kept(t, operate.Selection{}, len(bodies))
	requireNowhere(t, dir, secret...)
	for i, id := range ids {
		body, err := operator().Body(t.Context(), operate.Ref{ID: id})
		require.NoError(t, err)
		content, err := io.ReadAll(body)
		require.NoError(t, err)
		require.NoError(t, body.Close())
		require.Equal(t, bodies[i], string(content))
		require.EqualValues(t, len(bodies[i]), body.Size())
	}
	require.NoError(t, caddy.Stop())
	requireNowhere(t, dir, secret...)
	require.NotContains(t, caddytest.Log(g.log).Text(t), encryptionKey("a"))
}

// A key is replaced by a new one before it. What is of the time of one that is gone is not
// delivered, and is when that is back and it is sent again.
func TestKeysAreReplacedByReloads(t *testing.T) {
	book := &ledger{}
	service := newSwitchable(t, book)
	dir := t.TempDir()
	with := func(keys ...string) string {
		var texts []string
		for _, name := range keys {
			texts = append(texts, encryptionKey(name))
		}
		return spooled(service.addr, dir, soon+"keep 1h\nencrypt "+strings.Join(texts, " "))
	}
	g := start(t, with("old"))
	first := accepted(t, callbackOf(t, g, "call-1", 1))
	g.reload(with("new", "old"))
	accepted(t, callbackOf(t, g, "call-2", 1))
	waitForStats(t, dir, "the service is not found to be down", func(s spool.Stats) bool {
		return s.Routes[service.addr].Down
	})
	require.NoError(t, caddy.Stop()) // no attempt is under way, as one has its keys
	g.reload(with("new"))
	service.up()
	require.Equal(t, "call-2", book.waitFor(t, 1)[0].key)
	waitForStats(t, dir, "no dead letter", func(s spool.Stats) bool { return s.Dead == 1 })

	details, err := operator().Message(t.Context(), operate.Ref{ID: first})
	require.NoError(t, err)
	require.Equal(t, spool.Dead, details.State)
	require.Contains(t, details.LastError, "undecryptable")
	require.Empty(t, details.Header)
	require.Equal(t, "call-1", details.RequestID)
	_, err = operator().Body(t.Context(), operate.Ref{ID: first})
	require.ErrorIs(t, err, spool.ErrUndecryptable)
	require.Len(t, book.deliveries(), 1)
	require.NotContains(t, caddytest.Log(g.log).Text(t), encryptionKey("new"))

	g.reload(with("new", "old"))
	replay(t, operate.Selection{State: spool.Dead})
	taken := book.waitFor(t, 2)
	require.Equal(t, "call-1", taken[1].key)
	require.Equal(t, first, taken[1].id)
	waitUntilEmpty(t, dir)
}

// loadError is the error with which a site is not loaded, be it the Caddyfile's or that of what it
// configures.
func loadError(t testing.TB, g *gateway, site string) error {
	t.Helper()
	g.log = string(caddytest.NewLog(t))
	config, _, err := caddyconfig.GetAdapter("caddyfile").Adapt(
		[]byte(g.caddyfile(site, options{})), nil)
	if err != nil {
		return err
	}
	return caddy.Load(config, true)
}

func TestAKeyThatIsNoneIsAnErrorThatDoesNotShowIt(t *testing.T) {
	g := &gateway{t: t, port: freePort(t)}
	dir := filepath.Join(t.TempDir(), "inbox")
	for key, says := range map[string]string{
		"bm90LWxvbmctZW5vdWdo":                  "key 1 of 1: it has 15 bytes, not 32",
		"no-base64-but-a-secret!":               "key 1 of 1: it is not base64",
		encryptionKey("a")[1:]:                  "key 1 of 1: it is not base64",
		encryptionKey("a") + encryptionKey("b"): "key 1 of 1: it is not base64",
	} {
		t.Setenv("TEST_KEY", key)
		for _, text := range []string{key, "{env.TEST_KEY}"} {
			err := loadError(t, g, spooled("127.0.0.1:1", dir, "encrypt "+text))
			require.ErrorContains(t, err, says)
			require.NotContains(t, err.Error(), key)
		}
		require.NotContains(t, caddytest.Log(g.log).Text(t), key)
	}
	t.Setenv("TEST_KEY", "")
	err := loadError(t, g, spooled("127.0.0.1:1", dir, "encrypt {env.TEST_KEY}"))
	require.ErrorContains(t, err, "a placeholder in it is unknown or empty")
	err = loadError(t, g, spooled("127.0.0.1:1", dir,
		"encrypt "+encryptionKey("a")+" "+encryptionKey("a")))
	require.ErrorContains(t, err, "it stands there twice")
	require.NoDirExists(t, dir)
}

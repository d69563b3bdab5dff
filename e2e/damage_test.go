package e2e_test

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/stretchr/testify/require"

	"github.com/caddy-deepgram/deepgram-callback/app"
	"github.com/caddy-deepgram/deepgram-callback/internal/caddytest"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
)

const indexPage = 4096

// killedInbox is an inbox as a process leaves it that is killed while callbacks wait.
func killedInbox(t *testing.T, callbacks int) (dir string) {
	t.Helper()
	ctx, running := context.Background(), filepath.Join(t.TempDir(), "running")
	inbox := caddytest.OpenInbox(t, running)
	for i := range callbacks {
		body := fmt.Sprintf(`{"metadata":{"request_id":"%d"}}`, i)
		envelope := spool.Envelope{
			Route:         "calls",
			Method:        http.MethodPost,
			URI:           "/hook",
			ContentLength: int64(len(body)),
		}
		_, err := inbox.Accept(ctx, envelope, strings.NewReader(body))
		require.NoError(t, err)
	}
	dir = filepath.Join(t.TempDir(), "inbox")
	require.NoError(t, os.CopyFS(dir, os.DirFS(running)))
	require.NoError(t, inbox.Close(ctx))
	return dir
}

// However an inbox's index is damaged, a reload that opens it is refused, and neither the running
// configuration nor the process ends.
func TestAReloadOntoADamagedInboxIsRefused(t *testing.T) {
	s, late := newService(t), newService(t)
	l := start(t, setup{upstream: s.addr, gateway: plainAuth})
	dir := killedInbox(t, 60)
	index := filepath.Join(dir, "inbox.db")
	whole, err := os.ReadFile(index)
	require.NoError(t, err)
	inbox := plainAuth + "spool {\npath " + dir + "\nroute calls\n}\n"

	refused := 0
	for page := range min(len(whole)/indexPage, 12) {
		damaged := append([]byte(nil), whole...)
		clear(damaged[page*indexPage : (page+1)*indexPage])
		require.NoError(t, os.WriteFile(index, damaged, 0o600))

		running := l.setup
		l.setup.gateway, l.setup.upstream = inbox, late.addr
		config := l.adapt(l.gatewaySite(), l.simulatorSite())
		l.setup = running
		err := caddy.Load(config, true)
		if err == nil { // nothing was on that page
			require.NoError(t, caddy.Load(l.adapt(l.gatewaySite(), l.simulatorSite()), true))
			continue
		}
		refused++
		require.ErrorContains(t, err, index)
		require.ErrorContains(t, err, "caddy deepgram-callback spool recover "+dir)
		require.Empty(t, app.ThisProcess().Inboxes())
		if refused%5 == 1 {
			l.transcribe(1, "callback", l.callback("http", login, "/hook"))
			take(t, s.requests)
		}
	}
	require.Greater(t, refused, 3)
}

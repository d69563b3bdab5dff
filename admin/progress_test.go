package admin

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-deepgram/deepgram-callback/app"
)

func TestProgressIsALineNowAndThen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out strings.Builder
		p := newProgress(&out)
		for i := range 120 { // a minute
			p.show("replayed " + outOf(app.Replay{Selected: 12_000, Replayed: i * 100}) + " so far")
			time.Sleep(lastLook)
		}
		p.clear()
		require.Equal(t, "replayed 200 of 12,000 so far\nreplayed 2,200 of 12,000 so far\n"+
			"replayed 4,200 of 12,000 so far\nreplayed 6,200 of 12,000 so far\n"+
			"replayed 8,200 of 12,000 so far\nreplayed 10,200 of 12,000 so far\n", out.String())
	})
}

func TestProgressIsOneLineOnATerminal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out strings.Builder
		p := newProgress(&out)
		p.terminal = true
		for _, replayed := range []int{0, 1, 200, 3000} {
			p.show("replayed " + outOf(app.Replay{Selected: 2000, Replayed: replayed}) + " so far")
			time.Sleep(lastLook)
		}
		p.clear()
		p.clear()
		gone := "\r" + strings.Repeat(" ", len("replayed 200 of 2,000 so far")) + "\r"
		longer := "\r" + strings.Repeat(" ", len("replayed 3,000 of 3,000 so far")) + "\r"
		require.Equal(t, "replayed 200 of 2,000 so far"+gone+"replayed 3,000 of 3,000 so far"+longer,
			out.String())
	})
}

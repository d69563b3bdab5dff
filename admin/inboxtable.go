package admin

import (
	"fmt"
	"io"
	"strconv"

	"github.com/caddy-deepgram/deepgram-callback/operate"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
)

// showInbox shows what one inbox has, and who uses it where several can.
func showInbox(out io.Writer, path string, in operate.InboxStatus) error {
	if in.Error != "" {
		t := newTable(out)
		t.row("inbox:", path)
		t.row("accepts:", accepts(in.Stats))
		t.row("cause:", in.Error)
		return t.flush()
	}
	if err := inboxStatus(out, path, in.Stats); err != nil || len(in.Gateways) == 0 {
		return err
	}
	_, _ = fmt.Fprintln(out) // an error comes back from flush
	return gatewayTable(out, in.Gateways)
}

func gatewayTable(out io.Writer, gateways []spool.Gateway) error {
	t := newTable(out)
	t.row("GATEWAY", "VERSION", "SINCE", "LAST SEEN", "LIVE STREAMS", "DELIVERING")
	for _, g := range gateways {
		name := g.Name
		if g.Self {
			name += " (this one)"
		}
		t.row(name, g.Version, ago(g.Since), ago(g.LastSeen),
			strconv.Itoa(g.LiveStreams), strconv.Itoa(g.Leases))
	}
	return t.flush()
}

package admin

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/caddyserver/caddy/v2"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"

	"github.com/caddy-deepgram/deepgram-callback/internal/printable"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/disk/rescue"
)

// recoverCommand is `spool recover`: the one command that needs no running
// Caddy, as it is for when Caddy refuses to open an inbox.
func recoverCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "recover <directory>",
		Short: "Saves what is whole of a damaged inbox",
		Long: `
Copies every callback that is still whole from an inbox into a new one beside
it, and says what was lost. Nothing is changed in the old one. No running Caddy
is needed, and none may have the inbox open.

A callback is whole if its record in the index is, with its URL and headers, and
its body. Records are found also where the index does not lead to them any more;
such callbacks may have been delivered before, under the same webhook-id. Of a
callback whose record is destroyed, only the body can be saved: as a file, in
<directory>.recovered.bodies.
`,
		Args: cobra.ExactArgs(1),
	}
	cmd.Flags().String("into", "", "Directory of the new inbox (default: <directory>.recovered)")
	asJSON(cmd)
	cmd.RunE = caddycmd.WrapCommandFuncForCobra(func(flags caddycmd.Flags) (int, error) {
		dir, err := filepath.Abs(flags.Arg(0))
		if err != nil {
			return caddy.ExitCodeFailedStartup, err
		}
		into := flags.String("into")
		if into == "" {
			into = dir + ".recovered"
		}
		recovery, err := rescue.Recover(context.Background(), dir, into)
		if err != nil {
			return caddy.ExitCodeFailedStartup, err
		}
		if flags.Bool("json") {
			return caddy.ExitCodeSuccess, json.NewEncoder(cmd.OutOrStdout()).Encode(recovery)
		}
		_, err = fmt.Fprint(cmd.OutOrStdout(), report(dir, recovery))
		return exitCode(err), err
	})
	return cmd
}

// report says in words what came of a recovery, and what to do next.
func report(dir string, r *rescue.Recovery) string {
	var b strings.Builder
	say := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	say("saved %s in %s: %d pending, %d dead letters",
		callbacks(r.Pending+r.Dead), r.Into, r.Pending, r.Dead)
	if r.Uncertain > 0 {
		say("%s of these left the index only old traces: some may have been delivered before, "+
			"under the same webhook-id", callbacks(r.Uncertain))
	}
	if len(r.Lost) > 0 {
		say("\nlost %s:", callbacks(len(r.Lost)))
		for _, l := range r.Lost {
			say("  %s route %s request_id %s: %s", l.ID,
				printable.Escape(l.Route), printable.Escape(l.RequestID), printable.Escape(l.Reason))
		}
	}
	if r.Missing > 0 {
		say("\nlost without a trace, by the totals of the index: %s", callbacks(int(r.Missing)))
	}
	if r.Bodies > 0 {
		say("\nsaved %s in %s whose record is gone: of lost callbacks, or of delivered ones",
			count(r.Bodies, "body", "bodies"), r.BodiesIn)
	}
	if len(r.Damage) > 0 {
		say("\nfound damaged:")
		for _, text := range r.Damage {
			say("  %s", printable.Escape(text))
		}
	}
	say("\nTo use the new inbox, while no Caddy has the old one open:")
	say("  mv %s %s", shellWord(dir), shellWord(dir+".damaged"))
	say("  mv %s %s", shellWord(r.Into), shellWord(dir))
	return b.String()
}

func callbacks(n int) string { return count(n, "callback", "callbacks") }

func count(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

// shellWord is text as a shell takes it for one word.
func shellWord(text string) string {
	return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'"
}

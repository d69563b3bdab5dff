package admin

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/caddy-deepgram/deepgram-callback/app"
	"github.com/caddy-deepgram/deepgram-callback/operate"
	"github.com/caddy-deepgram/deepgram-callback/operate/api"
)

func refusalsCommand() *cobra.Command {
	cmd := leaf("refusals", "Lists the callbacks that were refused last, and what to do about it", `
Lists the last 200 callbacks that were refused since the process began, the newest
first, and below them in words what each of the reasons means and what to do about
it. Of a callback's URL the query is not shown, as it may hold credentials.
`, cobra.NoArgs, listRefusals)
	cmd.Flags().String("reason", "", "Only those that were refused for this reason")
	cmd.Flags().String("since", "",
		"Only those from this time on: as '2026-11-25T14:00:00Z', or how long ago, as '2h'")
	cmd.Flags().String("until", "", "Only those before this time")
	cmd.Flags().Int("limit", 0, "At most so many (default: all)")
	asJSON(cmd)
	complete(cmd, "reason",
		cobra.FixedCompletions(app.Reasons(), cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

func listRefusals(in *invocation) error {
	answer, err := in.fetch(http.MethodGet, "/refusals"+in.query(api.RefusalFilters()))
	if err != nil {
		return err
	}
	if in.Bool("json") {
		return in.printJSON(answer)
	}
	var refusals []operate.Refusal
	if err := json.Unmarshal(answer, &refusals); err != nil {
		return fmt.Errorf("reading the answer: %w", err)
	}
	if len(refusals) == 0 {
		in.tell("no callback was refused, of those that are remembered since the process began")
		return nil
	}
	if err := refusalTable(in.out, refusals); err != nil {
		return err
	}
	in.tell("")
	return remedyTable(in.out, refusals)
}

func refusalTable(out io.Writer, refusals []operate.Refusal) error {
	t := newTable(out)
	t.row("REFUSED", "REASON", "STATUS", "KIND", "METHOD", "HOST", "PATH", "SIZE", "CLIENT")
	for _, r := range refusals {
		var declared string
		if r.Size != nil {
			declared = size(*r.Size)
		}
		t.row(ago(r.At), r.Reason, strconv.Itoa(r.Status), r.Kind,
			r.Method, shorten(r.Host, 40), shorten(r.Path, 50), declared, r.ClientIP)
	}
	return t.flush()
}

// remedyTable says of each reason once what it means, that of the newest refusal
// first.
func remedyTable(out io.Writer, refusals []operate.Refusal) error {
	t := newTable(out)
	t.row("REASON", "WHAT IT MEANS: WHAT TO DO")
	var told []string
	for _, r := range refusals {
		if !slices.Contains(told, r.Reason) {
			told = append(told, r.Reason)
			t.row(r.Reason, app.Remedy(r.Reason))
		}
	}
	return t.flush()
}

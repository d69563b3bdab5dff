package admin

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"slices"
	"strconv"

	"github.com/spf13/cobra"

	"github.com/caddy-deepgram/deepgram-callback/internal/printable"
	"github.com/caddy-deepgram/deepgram-callback/operate"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
)

func spoolCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use: "spool <command>",
		Short: "Callbacks that are kept: what waits to be delivered, the dead letters, " +
			"and what was delivered",
	}
	group(cmd)
	cmd.PersistentFlags().String("path", "",
		"Directory of the inbox, or address of its database (default: all that are open)")

	status := leaf("status", "Shows how much there is, and whether the services answer", "",
		cobra.NoArgs, spoolStatus)
	asJSON(status)

	list := leaf("list", "Lists callbacks, the oldest first or the newest first", `
Lists callbacks, the oldest first, or with --newest the newest first. Those that were
delivered are there for as long as 'keep' in the configuration says.
`, cobra.NoArgs, spoolList)
	selectMessages(list, "Only those ")
	list.Flags().Bool("newest", false, "The newest first")
	list.Flags().Int("limit", 0, "At most so many (default: all)")
	list.Flags().String("after", "", "Only those that are listed after the one with this id")
	asJSON(list)

	show := leaf("show <id>", "Shows one callback, with its header and its last attempts", "",
		cobra.ExactArgs(1), spoolShow)
	asJSON(show)

	body := leaf("body <id>", "Writes the body of a callback", `
Writes the body of a callback, byte for byte as it came, to the standard output
or to a file. A file that is new can be read by its owner only.
`, cobra.ExactArgs(1), spoolBody)
	body.Flags().StringP("output", "o", "", "File to write to, in place of the standard output")

	cmd.AddCommand(status, list, show, body, replayCommand(), dropCommand(),
		pauseCommand(), resumeCommand(), recoverCommand(), copyCommand())
	return cmd
}

// messageFilters are the flags that select messages, besides --path. The parameters of the API
// have the same names, with an underscore for a hyphen.
var messageFilters = []string{"state", "route", "request-id", "user", "since", "until"}

// selectMessages gives cmd a flag for each of messageFilters.
func selectMessages(cmd *cobra.Command, those string) {
	flags := cmd.Flags()
	flags.String("state", "", those+"that are 'pending', 'dead' or 'delivered'")
	flags.String("route", "", those+"of this route")
	flags.String("request-id", "", those+"whose body has this request id")
	flags.String("user", "", those+"that this user's credential brought in")
	flags.String("since", "", those+
		"that came from this time on: as '2026-11-25T14:00:00Z', or how long ago, as '2h'")
	flags.String("until", "", those+"that came before this time")
	states := []string{string(spool.Pending), string(spool.Dead), string(spool.Delivered)}
	complete(cmd, "state", cobra.FixedCompletions(states, cobra.ShellCompDirectiveNoFileComp))
	complete(cmd, "route", routeNames)
}

// complete has the shell complete the values of a flag.
func complete(cmd *cobra.Command, flag string, values cobra.CompletionFunc) {
	if err := cmd.RegisterFlagCompletionFunc(flag, values); err != nil {
		panic(err) // there is no such flag
	}
}

// routeNames completes the names of routes, as the running gateway has them. Where none can be
// asked there is nothing to offer.
func routeNames(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
	in, err := invoked(cmd)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var all operate.Status
	if err := in.decode(http.MethodGet, "/spool"+in.query([]string{"path"}), &all); err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	names := make(map[string]bool)
	for _, inbox := range all.Inboxes {
		for name := range inbox.Routes {
			// A shell takes what is completed for a part of its own input.
			if printable.Escape(name) == name {
				names[name] = true
			}
		}
	}
	return sortedKeys(names), cobra.ShellCompDirectiveNoFileComp
}

func spoolStatus(in *invocation) error {
	uri := "/spool" + in.query([]string{"path"})
	if in.Bool("json") {
		answer, err := in.fetch(http.MethodGet, uri)
		if err != nil {
			return err
		}
		return in.printJSON(answer)
	}
	var all operate.Status
	if err := in.decode(http.MethodGet, uri, &all); err != nil {
		return err
	}
	for i, path := range sortedKeys(all.Inboxes) {
		if i > 0 {
			_, _ = fmt.Fprintln(in.out)
		}
		if err := showInbox(in.out, path, all.Inboxes[path]); err != nil {
			return err
		}
	}
	return nil
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

func spoolList(in *invocation) error {
	if in.Int("limit") < 0 {
		return fmt.Errorf("--limit %d is less than nothing", in.Int("limit"))
	}
	if in.Bool("json") {
		return listJSON(in)
	}
	t := newTable(in.out)
	messageHeader(t)
	return eachPage(in, func(page []json.RawMessage) error {
		for _, raw := range page {
			var m operate.Message
			if err := json.Unmarshal(raw, &m); err != nil {
				return fmt.Errorf("reading the answer: %w", err)
			}
			messageRow(t, m)
		}
		return t.flush()
	})
}

// listJSON prints an array with a message in every line.
func listJSON(in *invocation) error {
	separator := "[\n"
	err := eachPage(in, func(page []json.RawMessage) error {
		for _, raw := range page {
			if _, err := fmt.Fprintf(in.out, "%s%s", separator, printable.JSON(raw)); err != nil {
				return err
			}
			separator = ",\n"
		}
		return nil
	})
	if err != nil {
		return err
	}
	end := "\n]\n"
	if separator == "[\n" {
		end = "[]\n"
	}
	_, err = io.WriteString(in.out, end)
	return err
}

// eachPage goes through the messages that the flags select, and calls print at
// least once.
func eachPage(in *invocation, print func([]json.RawMessage) error) error {
	left := in.Int("limit")
	unlimited := left == 0
	after := in.String("after")
	order := "oldest"
	if in.Bool("newest") {
		order = "newest"
	}
	for {
		limit := operate.MaxPage
		if !unlimited {
			limit = min(left, operate.MaxPage)
		}
		more := []string{"limit", strconv.Itoa(limit), "order", order}
		if after != "" {
			more = append(more, "after", after)
		}
		var page []json.RawMessage
		uri := "/spool/messages" + in.query(append(messageFilters, "path"), more...)
		if err := in.decode(http.MethodGet, uri, &page); err != nil {
			return err
		}
		if err := print(page); err != nil {
			return err
		}
		left -= len(page)
		// A page with room left is not the last one for sure: what the
		// inbox cannot read is left out.
		if len(page) == 0 || !unlimited && left <= 0 {
			return nil
		}
		var last struct{ ID string }
		if err := json.Unmarshal(page[len(page)-1], &last); err != nil {
			return fmt.Errorf("reading the answer: %w", err)
		}
		after = last.ID
	}
}

func spoolShow(in *invocation) error {
	uri, err := in.messageURI(in.Arg(0), "")
	if err != nil {
		return err
	}
	answer, err := in.fetch(http.MethodGet, uri)
	if err != nil {
		return err
	}
	if in.Bool("json") {
		return in.printJSON(answer)
	}
	var details operate.Details
	if err := json.Unmarshal(answer, &details); err != nil {
		return fmt.Errorf("reading the answer: %w", err)
	}
	return messageDetails(in.out, details)
}

func spoolBody(in *invocation) (err error) {
	uri, err := in.messageURI(in.Arg(0), "/body")
	if err != nil {
		return err
	}
	response, err := in.do(http.MethodGet, uri)
	if err != nil {
		return err
	}
	defer response.Body.Close()

	out, name := in.out, in.String("output")
	if name != "" {
		f, err := os.OpenFile(name, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, f.Close()) }()
		out = f
	}
	if n, err := io.Copy(out, response.Body); err != nil {
		return fmt.Errorf("only %d of %d bytes: %w", n, response.ContentLength, err)
	}
	return nil
}

package admin

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strconv"

	"github.com/caddyserver/caddy/v2"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"

	"github.com/caddy-deepgram/deepgram-callback/internal/printable"
	"github.com/caddy-deepgram/deepgram-callback/operate"
)

// Command is `caddy deepgram-callback`.
func Command() caddycmd.Command {
	return caddycmd.Command{
		Name:  "deepgram-callback",
		Usage: "<command>",
		Short: "Shows and changes what a running deepgram_callback gateway keeps",
		Long: `
Shows the callbacks that a running gateway has in its inboxes, its live streams,
and the callbacks that it refused; replays and drops callbacks, and ends streams.

The commands use the admin API of the running Caddy, except for 'spool recover',
which saves what is whole of a damaged inbox and needs none. Its address is that of
--address; otherwise that of the given --config; otherwise '` + caddy.DefaultAdminListen + `'.

Of the query of a callback's URL only the names are shown, as its values may be
credentials; headers are not shown at all. The body is given as it came.

Exit codes:

	0  done
	1  failed, or used in a wrong way
	4  the admin API cannot be reached, or no inbox is open
	5  no such message, stream or inbox
	6  the message is being delivered right now, so it was left alone

Where several ids are given all are tried, and the code is that of the first
one that failed.
`,
		CobraFunc: func(cmd *cobra.Command) {
			group(cmd)
			flags := cmd.PersistentFlags()
			flags.StringP("address", "", "",
				"Address of the administration API listener (if --config is not used)")
			flags.StringP("config", "c", "",
				"Configuration file to take that address from (if --address is not used)")
			flags.StringP("adapter", "a", "",
				"Name of config adapter to apply (if --config is used)")
			cmd.AddCommand(spoolCommand(), streamsCommand(), refusalsCommand())
		},
	}
}

func spoolCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "spool <command>",
		Short: "Callbacks that are kept: what waits to be delivered, and the dead letters",
	}
	group(cmd)
	cmd.PersistentFlags().String("path", "", "Directory of the inbox (default: all that are open)")

	status := leaf("status", "Shows how much there is, and whether the services answer", "",
		cobra.NoArgs, spoolStatus)
	asJSON(status)

	list := leaf("list", "Lists callbacks, the oldest first", "", cobra.NoArgs, spoolList)
	list.Flags().String("state", "", "Only those that are 'pending' or 'dead'")
	list.Flags().String("route", "", "Only those of this route")
	list.Flags().String("user", "", "Only those that this user's credential brought in")
	list.Flags().Int("limit", 0, "At most so many (default: all)")
	asJSON(list)

	show := leaf("show <id>", "Shows one callback", "", cobra.ExactArgs(1), spoolShow)
	asJSON(show)

	body := leaf("body <id>", "Writes the body of a callback", `
Writes the body of a callback, byte for byte as it came, to the standard output
or to a file. A file that is new can be read by its owner only.
`, cobra.ExactArgs(1), spoolBody)
	body.Flags().StringP("output", "o", "", "File to write to, in place of the standard output")

	replay := leaf("replay <id>... | --all", "Has callbacks delivered again, now", `
Makes callbacks due now, with a fresh schedule: dead letters become pending
again, and those that wait for their next attempt wait no more. Their ids stay
the same, so a service that knows a webhook-id recognises them.
`, cobra.ArbitraryArgs, spoolReplay)
	replay.Flags().Bool("all", false, "All dead letters")
	replay.Flags().String("route", "", "With --all, only those of this route")
	asJSON(replay)

	drop := leaf("drop <id>... | --all | --user <name>", "Forgets callbacks for good", `
Forgets callbacks, whatever their state. There is no way back, and the vendor
keeps no transcripts: save the body first if it may be needed. One that is being
delivered is forgotten when that has ended.
`, cobra.ArbitraryArgs, spoolDrop)
	drop.Flags().Bool("all", false, "All dead letters; pending callbacks stay")
	drop.Flags().String("user", "",
		"Whatever this user's credential brought in: for one that has leaked")
	drop.Flags().String("route", "", "With --all or --user, only those of this route")
	asJSON(drop)

	cmd.AddCommand(status, list, show, body, replay, drop, recoverCommand())
	return cmd
}

// group makes cmd one that only has others below it. By itself it helps; a
// misspelt one is an error, which cobra would let pass.
func group(cmd *cobra.Command) {
	cmd.Args = cobra.NoArgs
	cmd.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
}

// An invocation is what a command needs when it runs.
type invocation struct {
	client
	caddycmd.Flags
	out, notes io.Writer // the result, and what is said beside it
}

// leaf is a command that does something.
func leaf(
	use, short, long string, args cobra.PositionalArgs, run func(*invocation) error,
) *cobra.Command {
	cmd := &cobra.Command{Use: use, Short: short, Long: long, Args: args}
	cmd.RunE = caddycmd.WrapCommandFuncForCobra(func(flags caddycmd.Flags) (int, error) {
		address, err := caddycmd.DetermineAdminAPIAddress(
			flags.String("address"), nil, flags.String("config"), flags.String("adapter"))
		if err != nil {
			return caddy.ExitCodeFailedStartup, fmt.Errorf("determining the admin API's address: %w", err)
		}
		err = run(&invocation{client{address}, flags, cmd.OutOrStdout(), cmd.ErrOrStderr()})
		return exitCode(err), err
	})
	return cmd
}

func asJSON(cmd *cobra.Command) {
	cmd.Flags().Bool("json", false, "Prints JSON, for programs")
}

// query makes a query of the flags that are set, and of what else is given in
// pairs.
func (in *invocation) query(flags []string, more ...string) string {
	query := url.Values{}
	for _, name := range flags {
		if in.Changed(name) {
			query.Set(name, in.String(name))
		}
	}
	for i := 0; i < len(more); i += 2 {
		query.Set(more[i], more[i+1])
	}
	if len(query) == 0 {
		return ""
	}
	return "?" + query.Encode()
}

// messageURI is the resource of one message.
func (in *invocation) messageURI(id, below string) (string, error) {
	uri, err := resource("/spool/messages", id)
	return uri + below + in.query([]string{"path"}), err
}

// resource is what has an id below a path. Escaping is not enough for an id
// that cannot be one: the server cleans paths after it has unescaped them, so
// that of two dots would be another resource.
func resource(path, id string) (string, error) {
	for _, r := range id {
		if r != '-' && (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') {
			return "", &exitError{exitNotFound, fmt.Errorf("not an id: %q", id)}
		}
	}
	if id == "" {
		return "", &exitError{exitNotFound, errors.New("an id is empty")}
	}
	return path + "/" + id, nil
}

// printJSON prints an answer of the API, which says the same as it came.
func (in *invocation) printJSON(answer []byte) error {
	_, err := in.out.Write(printable.JSON(answer))
	return err
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
		if err := inboxStatus(in.out, path, all.Inboxes[path]); err != nil {
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
	var after string
	for {
		limit := operate.MaxPage
		if !unlimited {
			limit = min(left, operate.MaxPage)
		}
		more := []string{"limit", strconv.Itoa(limit)}
		if after != "" {
			more = append(more, "after", after)
		}
		var page []json.RawMessage
		uri := "/spool/messages" + in.query([]string{"path", "state", "route", "user"}, more...)
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
	var m operate.Message
	if err := json.Unmarshal(answer, &m); err != nil {
		return fmt.Errorf("reading the answer: %w", err)
	}
	return messageDetails(in.out, m)
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

package admin

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"strings"

	"github.com/caddyserver/caddy/v2"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"

	"github.com/caddy-deepgram/deepgram-callback/internal/printable"
)

// Command is `caddy deepgram-callback`.
func Command() caddycmd.Command {
	return caddycmd.Command{
		Name:  "deepgram-callback",
		Usage: "<command>",
		Short: "Shows and changes what a running deepgram_callback gateway keeps",
		Long: `
Shows the callbacks that a running gateway has in its inboxes, its live streams,
and the callbacks that it refused; replays and drops callbacks, pauses and resumes
their delivery, and ends streams.

The commands use the admin API of the running Caddy, except for 'spool recover',
which saves what is whole of a damaged inbox, and 'spool copy', which copies an
inbox into another one: they need none. The API's address is that of --address;
otherwise that of the given --config; otherwise '` + caddy.DefaultAdminListen + `'.

Of the query of a callback's URL only the names are shown, as its values may be
credentials, and so it is with the fields of its header that may have one in them.
The body is given as it came.

Exit codes:

	0  done
	1  failed, or used in a wrong way
	4  the admin API cannot be reached, or no inbox is open
	5  no such message, stream, route or inbox
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
			cmd.AddCommand(withSchema(spoolCommand()), streamsCommand(), refusalsCommand())
		},
	}
}

// group makes cmd one that only has others below it. By itself it helps; a
// misspelt one is an error, which cobra would let pass.
func group(cmd *cobra.Command) {
	cmd.Args = cobra.NoArgs
	cmd.RunE = func(cmd *cobra.Command, _ []string) error { return cmd.Help() }
}

// An invocation is what a command needs when it runs.
type invocation struct {
	ctx context.Context
	client
	caddycmd.Flags
	out, notes io.Writer // the result, and what is said beside it
}

// leaf is a command that does something.
func leaf(
	use, short, long string, args cobra.PositionalArgs, run func(*invocation) error,
) *cobra.Command {
	cmd := &cobra.Command{Use: use, Short: short, Long: long, Args: args}
	cmd.RunE = caddycmd.WrapCommandFuncForCobra(func(caddycmd.Flags) (int, error) {
		in, err := invoked(cmd)
		if err == nil {
			err = run(in)
		}
		return exitCode(err), err
	})
	return cmd
}

// invoked is the invocation of a command by its flags.
func invoked(cmd *cobra.Command) (*invocation, error) {
	flags := caddycmd.Flags{FlagSet: cmd.Flags()}
	address, err := caddycmd.DetermineAdminAPIAddress(
		flags.String("address"), nil, flags.String("config"), flags.String("adapter"))
	if err != nil {
		return nil, fmt.Errorf("determining the admin API's address: %w", err)
	}
	return &invocation{
		ctx: cmd.Context(), client: client{address}, Flags: flags,
		out: cmd.OutOrStdout(), notes: cmd.ErrOrStderr(),
	}, nil
}

func asJSON(cmd *cobra.Command) {
	cmd.Flags().Bool("json", false, "Prints JSON, for programs")
}

// query makes a query of the flags that are set, whose parameters have an underscore for a
// hyphen, and of what else is given in pairs.
func (in *invocation) query(flags []string, more ...string) string {
	query := url.Values{}
	for _, name := range flags {
		if in.Changed(name) {
			query.Set(strings.ReplaceAll(name, "-", "_"), in.String(name))
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

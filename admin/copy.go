package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"regexp"
	"strings"
	"syscall"

	"github.com/caddyserver/caddy/v2"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/dustin/go-humanize"
	"github.com/spf13/cobra"

	"github.com/caddy-deepgram/deepgram-callback/internal/printable"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/transfer"
)

// copyCommand is `spool copy`, which needs no running Caddy: it opens both inboxes itself.
func copyCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "copy --from <inbox> --to <inbox>",
		Short: "Copies all of an inbox into another one, such as from disk into a database",
		Long: `
Copies all that an inbox keeps into another one: callbacks in every state, with
their ids, attempts, place in the order and bodies, the fingerprints by which
repeated ones are recognised, which routes are paused and which streams were
live. It delivers nothing, and changes nothing in the first inbox. What is
encrypted stays so; no key is needed. No running Caddy is needed either. Run it
as the user that Caddy runs as.

An inbox is a directory, or a data source name of PostgreSQL: a URL or pairs.
Placeholders work as in a configuration. A password does not belong on a command
line, which anyone on the machine can read: put the name into the environment,

	caddy deepgram-callback spool copy --from /var/lib/caddy/inbox --to '{env.INBOX_DSN}'

or leave the password out and use PGPASSWORD, a password file or a service file.

No gateway may use the first inbox, as it would deliver what is being copied.
Give its configuration the new inbox and reload it, which closes the old one when
deliveries under way have ended, or stop it; then copy. Gateways may use the
second one meanwhile, where several can at all.

A copy that was interrupted is repeated: what was copied before is not copied
again, even if it was delivered since. The exit code is 1 if anything could not be
copied, which is named; the rest is copied all the same.
`,
		Args: cobra.NoArgs,
	}
	flags := cmd.Flags()
	flags.String("from", "", "Inbox to copy: a directory or a data source name")
	flags.String("to", "", "Inbox to copy it into, which is made if it is not there")
	flags.String("from-schema", "", "Schema in the database of --from (default: that of the store)")
	flags.String("to-schema", "", "Schema in the database of --to (default: that of the store)")
	asJSON(cmd)
	cmd.RunE = caddycmd.WrapCommandFuncForCobra(func(flags caddycmd.Flags) (int, error) {
		c := &copyInvocation{flags: flags, out: cmd.OutOrStdout(), notes: cmd.ErrOrStderr()}
		err := c.run(cmd.Context())
		return exitCode(err), err
	})
	return cmd
}

type copyInvocation struct {
	flags      caddycmd.Flags
	out, notes io.Writer
}

func (c *copyInvocation) run(ctx context.Context) (err error) {
	ctx, restore := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
	defer restore()
	context.AfterFunc(ctx, restore) // another one ends the command at once
	provision, cancel := caddy.NewContext(caddy.Context{Context: context.Background()})
	defer cancel()

	from, err := c.place(provision, "from")
	if err != nil {
		return err
	}
	to, err := c.place(provision, "to")
	if err != nil {
		return err
	}
	if from.Identity() == to.Identity() {
		return fmt.Errorf("--from and --to are the same inbox, %s", from.Identity())
	}
	if err := from.open(ctx, true); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, from.close()) }()
	if err := checkUnused(ctx, from); err != nil {
		return err
	}
	if err := to.open(ctx, false); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, to.close()) }()

	shown := newProgress(c.notes)
	copied, err := transfer.Copy(ctx, from.store, to.store, func(so *transfer.Copied) {
		shown.show(fmt.Sprintf("copied %s of %s so far",
			humanize.Comma(so.Seen), humanize.Comma(max(so.Total, so.Seen))))
	})
	shown.clear()
	if reported := c.report(from, to, copied, err == nil); reported != nil {
		return errors.Join(err, reported)
	}
	switch {
	case err != nil && ctx.Err() != nil:
		return errors.New("stopped: run it again to go on, what was copied is not copied twice")
	case err != nil:
		return fmt.Errorf("%w; run it again to go on, what was copied is not copied twice", err)
	case len(copied.Lost) > 0:
		return fmt.Errorf("%s could not be copied", callbacks(len(copied.Lost)))
	}
	return nil
}

// checkUnused refuses to copy what gateways are delivering.
func checkUnused(ctx context.Context, from *place) error {
	others, err := transfer.OtherGateways(ctx, from.store)
	if err != nil || len(others) == 0 {
		return err
	}
	var names []string
	for _, g := range others {
		names = append(names, fmt.Sprintf("%s (seen %s)", printable.Escape(g.Name), ago(g.LastSeen)))
	}
	return fmt.Errorf("inbox %s is in use, so what is copied could be delivered twice, by %s: %s; "+
		"one that has died counts for 15 seconds", from.Identity(), strings.Join(names, ", "), letGo)
}

const letGo = "give that Caddy the new inbox in its configuration and reload it, or stop it, and " +
	"copy then"

// place is an inbox that the command line names.
type place struct {
	spool.StoreModule
	flag  string
	store spool.Portable
}

var (
	// pairs is the beginning of a data source name that is not a URL.
	pairs = regexp.MustCompile(`^\s*[a-z_]+\s*=`)

	placeholder = regexp.MustCompile(`\{[^{}]*\}`)

	// password is one that stands in a data source name itself, whose placeholders are empty.
	password = regexp.MustCompile(
		`://[^/?#@]*:[^/?#@{][^/?#@]*@|(?i:(^|[\s?&])(ssl)?password\s*=\s*[^\s&{])`)
)

// place finds the store that a flag names.
func (c *copyInvocation) place(ctx caddy.Context, flag string) (*place, error) {
	text, schema := c.flags.String(flag), c.flags.String(flag+"-schema")
	if strings.TrimSpace(text) == "" {
		return nil, fmt.Errorf("--%s is missing: a directory, or a data source name", flag)
	}
	name, err := caddy.NewReplacer().ReplaceOrErr(text, true, true)
	if err != nil {
		return nil, fmt.Errorf("--%s: %w", flag, err)
	}
	engine, config := "disk", map[string]string{"dir": text}
	scheme, _, isURL := strings.Cut(name, "://")
	switch {
	case isURL && scheme != "postgres" && scheme != "postgresql":
		return nil, fmt.Errorf("--%s: a directory or a postgres:// URL is expected, not %s://",
			flag, printable.Escape(scheme))
	case isURL, pairs.MatchString(name):
		engine, config = "postgres", map[string]string{"dsn": text}
	}
	if engine == "postgres" && password.MatchString(placeholder.ReplaceAllString(text, "{}")) {
		return nil, fmt.Errorf("--%[1]s has a password in it, which anyone on this machine can read "+
			"in the list of processes: put the data source name into the environment and give "+
			"--%[1]s '{env.INBOX_DSN}', or set PGPASSWORD; nothing was copied", flag)
	}
	if schema != "" {
		if engine == "disk" {
			return nil, fmt.Errorf("--%[1]s-schema: --%[1]s is a directory, which has none", flag)
		}
		config["schema"] = schema
	}
	id := "deepgram_callback.stores." + engine
	if _, err := caddy.GetModule(id); err != nil {
		return nil, fmt.Errorf("--%s: the store %s is not in this binary; build it with "+
			"--with github.com/caddy-deepgram/deepgram-callback/relay/spool/%[2]s", flag, engine)
	}
	raw, err := json.Marshal(config)
	if err != nil {
		return nil, err
	}
	module, err := ctx.LoadModuleByID(id, raw)
	if err != nil {
		return nil, fmt.Errorf("--%s: %w", flag, err)
	}
	return &place{StoreModule: module.(spool.StoreModule), flag: flag}, nil
}

// open opens the store, which has to be there if it is to be copied.
func (p *place) open(ctx context.Context, mustExist bool) error {
	if finder, ok := p.StoreModule.(spool.WithExists); ok {
		exists, err := finder.Exists(ctx)
		switch {
		case err != nil:
			return &exitError{exitUnavailable, fmt.Errorf("--%s: %w", p.flag, err)}
		case !exists && mustExist:
			return &exitError{exitNotFound,
				fmt.Errorf("--%s: there is no inbox in %s", p.flag, p.Identity())}
		}
	}
	store, err := p.Open(ctx, spool.Limits{}, spool.StoreEvents{})
	switch {
	case errors.Is(err, spool.ErrLocked) && mustExist:
		return fmt.Errorf("%w, which would deliver what is copied: %s", err, letGo)
	case errors.Is(err, spool.ErrLocked):
		return fmt.Errorf("%w: stop that Caddy, or take this inbox out of its configuration", err)
	case err != nil:
		return err
	}
	portable, ok := store.(spool.Portable)
	if !ok {
		return errors.Join(fmt.Errorf("--%s: this store cannot be copied", p.flag),
			store.Close(context.WithoutCancel(ctx)))
	}
	p.store = portable
	return nil
}

func (p *place) close() error { return p.store.Close(context.Background()) }

// report says what was copied, and what to do next.
func (c *copyInvocation) report(from, to *place, copied *transfer.Copied, complete bool) error {
	if c.flags.Bool("json") {
		return json.NewEncoder(c.out).Encode(struct {
			From     string `json:"from"`
			To       string `json:"to"`
			Complete bool   `json:"complete"`
			*transfer.Copied
		}{from.Identity(), to.Identity(), complete, copied})
	}
	say := func(format string, args ...any) {
		_, _ = fmt.Fprintf(c.out, format+"\n", args...) // an error comes back from flush
	}
	say("from: %s", from.Identity())
	say("to:   %s\n", to.Identity())
	t := newTable(c.out)
	t.row("ROUTE", "STATE", "COPIED", "THERE BEFORE", "NOT COPIED")
	for _, route := range sortedKeys(copied.Routes) {
		for _, state := range []spool.State{spool.Pending, spool.Dead, spool.Delivered} {
			n := copied.Routes[route][state]
			if n == nil || *n == (transfer.Counts{}) {
				continue
			}
			t.row(route, string(state), humanize.Comma(n.Copied), humanize.Comma(n.Present),
				humanize.Comma(n.Lost))
		}
	}
	if err := t.flush(); err != nil {
		return err
	}
	say("\nfingerprints: %s", humanize.Comma(copied.Fingerprints))
	if copied.Streams > 0 {
		say("live streams whose ends are still to be delivered: %s", humanize.Comma(copied.Streams))
	}
	for _, route := range copied.Paused {
		say("paused there as here: route %s", printable.Escape(route))
	}
	if len(copied.Lost) > 0 {
		say("\nnot copied, as they are damaged:")
		for _, l := range copied.Lost {
			say("  %s route %s request_id %s: %s", l.ID, printable.Escape(l.Route),
				printable.Escape(l.RequestID), printable.Escape(l.Reason))
		}
	}
	if complete {
		reportNext(from, copied, say)
	}
	return nil
}

// reportNext says how sure it is, and what becomes of the old inbox.
func reportNext(from *place, copied *transfer.Copied, say func(format string, args ...any)) {
	if copied.Counted {
		say("\nBoth inboxes were counted, and agree.")
	} else {
		say("\nThe old inbox was counted, and all of it was looked at. The new one was not: it is in use.")
	}
	say("The old inbox is as it was. A gateway that opens it again delivers what is pending there " +
		"again.")
	if info, err := os.Stat(from.Identity()); err == nil && info.IsDir() {
		say("So move it away:")
		say("  mv %s %s", shellWord(from.Identity()), shellWord(from.Identity()+".copied"))
	}
}

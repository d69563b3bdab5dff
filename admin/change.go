package admin

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/caddy-deepgram/deepgram-callback/internal/printable"
	"github.com/caddy-deepgram/deepgram-callback/operate"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
)

func replayCommand() *cobra.Command {
	cmd := leaf("replay <id>... | --all | --state <state> [--since <time>] …",
		"Has callbacks delivered again, now", `
Makes callbacks due now, with a fresh schedule: dead letters and what was delivered
become pending again, and those that wait for their next attempt wait no more. Their
ids stay the same, so a service that knows a webhook-id recognises them.

Callbacks are named by their ids, or selected by flags, of which all have to match:
dead letters, delivered ones, those of a request id or of a time. --dry-run only
counts them. What comes in meanwhile is delivered first. Ctrl-C stops the replay;
what it has replayed until then stays so, and the others are as they were.
`, cobra.ArbitraryArgs, spoolReplay)
	cmd.Flags().Bool("all", false, "All dead letters, as --state dead")
	selectMessages(cmd, "Those ")
	cmd.Flags().Bool("dry-run", false, "Only says how many it would be")
	asJSON(cmd)
	return cmd
}

func dropCommand() *cobra.Command {
	cmd := leaf("drop <id>... | --all | --user <name> | --state <state> …",
		"Forgets callbacks for good", `
Forgets callbacks, whatever their state. There is no way back, and the vendor
keeps no transcripts: save the body first if it may be needed. One that is being
delivered is forgotten when that has ended.

Callbacks are named by their ids, or selected by flags, of which all have to match:
dead letters, delivered ones, those of a request id or of a user whose credential has
leaked. --dry-run only counts them.
`, cobra.ArbitraryArgs, spoolDrop)
	cmd.Flags().Bool("all", false, "All dead letters, as --state dead; pending callbacks stay")
	selectMessages(cmd, "Those ")
	cmd.Flags().Bool("dry-run", false, "Only says how many it would be")
	asJSON(cmd)
	return cmd
}

func pauseCommand() *cobra.Command {
	cmd := leaf("pause <route>", "Has a route deliver nothing until it is resumed", `
Has a route go on accepting callbacks and deliver none, until 'spool resume', also
over a restart. Attempts that are under way end. 'spool status' shows it.
`, cobra.ExactArgs(1), func(in *invocation) error { return setPaused(in, true) })
	cmd.ValidArgsFunction = oneRoute
	asJSON(cmd)
	return cmd
}

func resumeCommand() *cobra.Command {
	cmd := leaf("resume <route>", "Has a route deliver again", "",
		cobra.ExactArgs(1), func(in *invocation) error { return setPaused(in, false) })
	cmd.ValidArgsFunction = oneRoute
	asJSON(cmd)
	return cmd
}

// oneRoute completes the only argument.
func oneRoute(
	cmd *cobra.Command, args []string, typed string,
) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return routeNames(cmd, args, typed)
}

// A choice is which messages a command is to change: those of the ids that are its arguments, or
// those that its flags select.
type choice struct {
	selected bool
	state    spool.State // of those that are selected; empty: any
}

// choose checks that the arguments are either ids or flags that select.
func choose(in *invocation) (choice, error) {
	all := in.Bool("all")
	c := choice{
		selected: all || slices.ContainsFunc(messageFilters, in.Changed),
		state:    spool.State(in.String("state")),
	}
	switch {
	case c.selected && in.NArg() > 0:
		return c, errors.New("either ids or flags that select callbacks, not both")
	case !c.selected && in.Bool("dry-run"):
		return c, errors.New("--dry-run goes with flags that select callbacks")
	case !c.selected && in.NArg() == 0:
		return c, errors.New("ids are needed, or --all for all dead letters, " +
			"or other flags that select callbacks")
	case all && in.Changed("user"):
		return c, errors.New("--all means all dead letters; " +
			"those of a user are --state dead --user <name>")
	case all && in.Changed("state") && c.state != spool.Dead:
		return c, errors.New("--all means all dead letters, as --state dead does")
	case all:
		c.state = spool.Dead
	}
	return c, nil
}

// ended reports whether all that is selected is dead or was delivered.
func (c choice) ended() bool { return c.state == spool.Dead || c.state == spool.Delivered }

// query is that of what the flags select.
func (c choice) query(in *invocation, more ...string) string {
	if c.state != "" {
		more = append(more, "state", string(c.state))
	}
	return in.query(append(messageFilters, "path"), more...)
}

// words says how many are selected, and of what.
func (c choice) words(in *invocation, n int) string {
	var text string
	switch {
	case c.state == spool.Dead:
		text = count(n, "dead letter", "dead letters")
	case c.state == spool.Delivered:
		text = count(n, "delivered callback", "delivered callbacks")
	case in.Changed("user"):
		text = fmt.Sprint(n)
	default:
		text = callbacks(n)
	}
	if in.Changed("user") {
		text += " of the user " + printable.Escape(in.String("user"))
	}
	return text
}

// eachID does something with all ids that are given. That one fails does not
// keep the others from it.
func eachID(in *invocation, do func(id string) error) error {
	var first error
	for _, id := range in.Args() {
		err := do(id)
		switch {
		case err == nil:
		case in.NArg() == 1:
			return err
		default:
			_, _ = fmt.Fprintf(in.notes, "%s: %v\n", printable.Escape(id), err)
			if first == nil {
				first = err
			}
		}
	}
	if first == nil {
		return nil
	}
	all := strings.Join(in.Args(), " ")
	return &exitError{exitCode(first), fmt.Errorf("not done for all of %s", all)}
}

// tell prints a line for people.
func (in *invocation) tell(format string, args ...any) {
	if !in.Bool("json") {
		_, _ = fmt.Fprintf(in.out, format+"\n", args...)
	}
}

// total prints the outcome for programs.
func (in *invocation) total(value any) error {
	if !in.Bool("json") {
		return nil
	}
	return json.NewEncoder(in.out).Encode(value)
}

func spoolReplay(in *invocation) error {
	chosen, err := choose(in)
	if err != nil {
		return err
	}
	if chosen.selected {
		return replaySelected(in, chosen)
	}
	var done operate.Replayed
	err = eachID(in, func(id string) error {
		uri, err := in.messageURI(id, "/replay")
		if err != nil {
			return err
		}
		var one operate.Replayed
		if err := in.decode(http.MethodPost, uri, &one); err != nil {
			return err
		}
		done.Replayed++
		in.tell("replayed %s", id)
		in.tellRevoked(one.RevokedUsers)
		done.RevokedUsers = append(done.RevokedUsers, one.RevokedUsers...)
		return nil
	})
	return errors.Join(err, in.total(done))
}

// tellRevoked says that what is delivered again came in under credentials that were removed since.
func (in *invocation) tellRevoked(users []string) {
	for _, user := range users {
		in.tell("  accepted for the user %s, of whom the configuration has no account any more",
			printable.Escape(user))
	}
}

func spoolDrop(in *invocation) error {
	chosen, err := choose(in)
	if err != nil {
		return err
	}
	if chosen.selected {
		return dropSelected(in, chosen)
	}
	var done operate.Dropped
	err = eachID(in, func(id string) error {
		uri, err := in.messageURI(id, "")
		if err != nil {
			return err
		}
		response, err := in.do(http.MethodDelete, uri)
		if err != nil {
			return err
		}
		done.Dropped++
		if response.StatusCode == http.StatusAccepted {
			in.tell("%s is being delivered, and is dropped when that has ended", id)
		} else {
			in.tell("dropped %s", id)
		}
		return response.Body.Close()
	})
	return errors.Join(err, in.total(done))
}

// dropSelected forgets what the flags select. What they may select is as in the API, which a
// count has not got to check.
func dropSelected(in *invocation, chosen choice) error {
	if !chosen.ended() && !in.Changed("user") && !in.Changed("request-id") {
		return errors.New("what waits for its delivery cannot be dropped all at once: " +
			"add --state dead or --state delivered, --user or --request-id")
	}
	if in.Bool("dry-run") {
		return countDropped(in, chosen)
	}
	var done operate.Dropped
	if err := in.decode(http.MethodDelete, "/spool/messages"+chosen.query(in), &done); err != nil {
		return err
	}
	in.tell("dropped %s", chosen.words(in, done.Dropped))
	return in.total(done)
}

// countDropped only says how many would be forgotten.
func countDropped(in *invocation, chosen choice) error {
	for _, name := range append(messageFilters, "path") {
		if in.Changed(name) && in.String(name) == "" {
			return fmt.Errorf("--%s is empty; leave it out to mean all", name)
		}
	}
	var counted struct{ Count int }
	if err := in.decode(http.MethodGet, "/spool/count"+chosen.query(in), &counted); err != nil {
		return err
	}
	in.tell("%s would be dropped", chosen.words(in, counted.Count))
	return in.total(selected{Selected: counted.Count})
}

// setPaused pauses or resumes the route that is the argument.
func setPaused(in *invocation, paused bool) error {
	route, action, said := in.Arg(0), "resume", "resumed"
	if paused {
		action, said = "pause", "paused"
	}
	if route == "" {
		return &exitError{exitNotFound, errors.New("the name of a route is empty")}
	}
	// Of a name of dots alone, servers would make another path.
	name := strings.ReplaceAll(url.PathEscape(route), ".", "%2E")
	uri := "/spool/routes/" + name + "/" + action + in.query([]string{"path"})
	if _, err := in.fetch(http.MethodPost, uri); err != nil {
		return err
	}
	in.tell("%s %s", said, printable.Escape(route))
	return in.total(struct {
		Route  string `json:"route"`
		Paused bool   `json:"paused"`
	}{route, paused})
}

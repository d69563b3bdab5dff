package admin

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"

	"github.com/spf13/cobra"

	"github.com/caddy-deepgram/deepgram-callback/operate"
	"github.com/caddy-deepgram/deepgram-callback/operate/api"
)

func streamsCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "streams <command>", Short: "Live streams, and the last that ended"}
	group(cmd)

	list := leaf("list",
		"Lists the live streams, the oldest first, or the last that ended, the newest first", `
Lists the live streams, the oldest first. With --ended it lists the last 200 that
ended since the process began, the newest first, and how each of them ended.
`, cobra.NoArgs, streamsList)
	list.Flags().Bool("ended", false, "The last that ended, in place of the live ones")
	selectStreams(list, "Only those ")
	asJSON(list)

	kill := leaf("kill <id>... | --user <name>", "Ends live streams", `
Ends live streams: both sides get a Close frame (1001) and the time of the
configured drain to finish.

Streams are named by their ids, or selected by who opened them, their path, their
backend or their route; where several of these are given, all have to match. A
credential that was revoked lets nobody in any more, but what it opened before
lives on: --user ends that.
`, cobra.ArbitraryArgs, streamsKill)
	selectStreams(kill, "Those ")
	asJSON(kill)

	cmd.AddCommand(list, kill)
	return cmd
}

// selectStreams gives cmd a flag for each of api.StreamFilters().
func selectStreams(cmd *cobra.Command, those string) {
	cmd.Flags().String("user", "", those+"that this user opened")
	cmd.Flags().String("path", "",
		those+"with this path; with an asterisk behind it, whose paths begin so")
	cmd.Flags().String("upstream", "", those+"to the backend at this address")
	cmd.Flags().String("route", "", those+"of this route")
}

func streamsList(in *invocation) error {
	var more []string
	if in.Bool("ended") {
		more = []string{"state", "ended"}
	}
	answer, err := in.fetch(http.MethodGet, "/streams"+in.query(api.StreamFilters(), more...))
	if err != nil {
		return err
	}
	if in.Bool("json") {
		return in.printJSON(answer)
	}
	if in.Bool("ended") {
		var streams []operate.EndedStream
		if err := json.Unmarshal(answer, &streams); err != nil {
			return fmt.Errorf("reading the answer: %w", err)
		}
		return endedTable(in.out, streams)
	}
	var streams []operate.Stream
	if err := json.Unmarshal(answer, &streams); err != nil {
		return fmt.Errorf("reading the answer: %w", err)
	}
	return streamTable(in.out, streams)
}

func streamsKill(in *invocation) error {
	selected := slices.ContainsFunc(api.StreamFilters(), in.Changed)
	switch {
	case selected && in.NArg() > 0:
		return errors.New("either ids or flags that select streams, not both")
	case !selected && in.NArg() == 0:
		return errors.New("ids are needed, or a flag that selects streams, such as --user")
	}
	var done operate.Killed
	if selected {
		uri := "/streams" + in.query(api.StreamFilters())
		if err := in.decode(http.MethodDelete, uri, &done); err != nil {
			return err
		}
		in.tell("told %s to end", liveStreams(done.Killed))
		return in.total(done)
	}
	err := eachID(in, func(id string) error {
		uri, err := resource("/streams", id)
		if err != nil {
			return err
		}
		if _, err := in.fetch(http.MethodDelete, uri); err != nil {
			return err
		}
		done.Killed++
		in.tell("told %s to end", id)
		return nil
	})
	return errors.Join(err, in.total(done))
}

func liveStreams(n int) string {
	if n == 1 {
		return "1 stream"
	}
	return fmt.Sprintf("%d streams", n)
}

package admin

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"

	"github.com/caddy-deepgram/deepgram-callback/internal/printable"
	"github.com/caddy-deepgram/deepgram-callback/operate"
)

// selection checks that the arguments are either ids or --all.
func selection(in *invocation) (all bool, err error) {
	all = in.Bool("all")
	switch {
	case all && in.NArg() > 0:
		return all, errors.New("either ids or --all, not both")
	case !all && in.NArg() == 0:
		return all, errors.New("ids are needed, or --all for all dead letters")
	case !all && in.Changed("route"):
		return all, errors.New("--route goes with --all")
	}
	return all, nil
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
	all, err := selection(in)
	if err != nil {
		return err
	}
	var done operate.Replayed
	if all {
		uri := "/spool/replay" + in.query([]string{"path", "route"}, "state", "dead")
		if err := in.decode(http.MethodPost, uri, &done); err != nil {
			return err
		}
		in.tell("replayed %s", deadLetters(done.Replayed))
		in.tellRevoked(done.RevokedUsers)
		return in.total(done)
	}
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

func spoolDrop(in *invocation) error {
	if in.Changed("user") {
		return dropUser(in)
	}
	all, err := selection(in)
	if err != nil {
		return err
	}
	var done operate.Dropped
	if all {
		uri := "/spool/messages" + in.query([]string{"path", "route"}, "state", "dead")
		if err := in.decode(http.MethodDelete, uri, &done); err != nil {
			return err
		}
		in.tell("dropped %s", deadLetters(done.Dropped))
		return in.total(done)
	}
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

// dropUser forgets what a user brought in.
func dropUser(in *invocation) error {
	if in.NArg() > 0 || in.Bool("all") {
		return errors.New("either ids, --all or --user")
	}
	var done operate.Dropped
	uri := "/spool/messages" + in.query([]string{"path", "route", "user"})
	if err := in.decode(http.MethodDelete, uri, &done); err != nil {
		return err
	}
	in.tell("dropped %d of the user %s", done.Dropped, printable.Escape(in.String("user")))
	return in.total(done)
}

// tellRevoked says that what is delivered again came in under credentials that were removed since.
func (in *invocation) tellRevoked(users []string) {
	for _, user := range users {
		in.tell("  accepted for the user %s, of whom the configuration has no account any more",
			printable.Escape(user))
	}
}

func deadLetters(n int) string {
	if n == 1 {
		return "1 dead letter"
	}
	return fmt.Sprintf("%d dead letters", n)
}

package admin

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/dustin/go-humanize"
	"golang.org/x/term"

	"github.com/caddy-deepgram/deepgram-callback/app"
	"github.com/caddy-deepgram/deepgram-callback/operate"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
)

const (
	// A replay is asked how far it is after a moment, as most are done then, and later less
	// often.
	firstLook, lastLook = 5 * time.Millisecond, 500 * time.Millisecond

	// quiet is how long nothing is said of a replay, as it may be done by then. Where what is
	// said stays, which is not on a terminal, there is a line in each period alone.
	quiet, period = time.Second, 10 * time.Second
)

// selected says how many messages something would be done with.
type selected struct {
	Selected     int      `json:"selected"`
	RevokedUsers []string `json:"revoked_users,omitempty"`
}

// replaySelected has what the flags select delivered again, and says how far that is.
func replaySelected(in *invocation, chosen choice) error {
	if !chosen.ended() && chosen.state != spool.Pending &&
		!slices.ContainsFunc([]string{"request-id", "since", "until"}, in.Changed) {
		return errors.New("more is needed to select callbacks: " +
			"--state dead or --state delivered, --request-id, --since or --until")
	}
	if in.Bool("dry-run") {
		var would selected
		uri := "/spool/replay" + chosen.query(in, "dry_run", "true")
		if err := in.decode(http.MethodPost, uri, &would); err != nil {
			return err
		}
		in.tell("%s would be replayed", chosen.words(in, would.Selected))
		in.tellRevoked(would.RevokedUsers)
		return in.total(would)
	}
	// A signal that comes while the replay is being started is not to leave it to itself.
	interrupted, restore := signal.NotifyContext(in.ctx, os.Interrupt, syscall.SIGTERM)
	defer restore()
	context.AfterFunc(interrupted, restore) // another one ends the command at once
	var started struct {
		app.Replay
		RevokedUsers []string `json:"revoked_users"`
	}
	uri := "/spool/replay" + chosen.query(in, "wait", "false")
	if err := in.decode(http.MethodPost, uri, &started); err != nil {
		return err
	}
	done, err := in.follow(interrupted, started.ID)
	if err != nil {
		return err
	}
	outcome := in.total(operate.Replayed{
		Replayed: done.Replayed, RevokedUsers: started.RevokedUsers,
	})
	switch done.State {
	case app.ReplayStopped:
		return errors.Join(fmt.Errorf("stopped: replayed %s, the others are as they were",
			outOf(done)), outcome)
	case app.ReplayFailed:
		return errors.Join(fmt.Errorf("replayed %s, then: %s", outOf(done), done.Error), outcome)
	}
	in.tell("replayed %s", chosen.words(in, done.Replayed))
	in.tellRevoked(started.RevokedUsers)
	return outcome
}

// follow says how far a replay is until it has ended, and has it stopped when interrupted ends.
func (in *invocation) follow(interrupted context.Context, id string) (app.Replay, error) {
	shown := newProgress(in.notes)
	defer shown.clear()
	stop := interrupted.Done()
	for wait := firstLook; ; wait = min(2*wait, lastLook) {
		replay, err := in.look(id)
		if err != nil || replay.State != app.ReplayRunning {
			return replay, err
		}
		shown.show("replayed " + outOf(replay) + " so far")
		select {
		case <-time.After(wait):
		case <-stop:
			stop, wait = nil, firstLook
			if _, err := in.fetch(http.MethodDelete, "/spool/replays/"+id); err != nil {
				return replay, fmt.Errorf("stopping the replay: %w", err)
			}
		}
	}
}

// look asks how far a replay is.
func (in *invocation) look(id string) (app.Replay, error) {
	var all []app.Replay
	if err := in.decode(http.MethodGet, "/spool/replays", &all); err != nil {
		return app.Replay{}, err
	}
	i := slices.IndexFunc(all, func(r app.Replay) bool { return r.ID == id })
	if i < 0 {
		return app.Replay{}, errors.New("the gateway knows nothing of the replay any more, as after " +
			"a restart: what was replayed until then stays so")
	}
	return all[i], nil
}

// outOf says how many of how many a replay has come to.
func outOf(r app.Replay) string {
	// More may have come to be selected since they were counted.
	return fmt.Sprintf("%s of %s", humanize.Comma(int64(r.Replayed)),
		humanize.Comma(max(r.Selected, int64(r.Replayed))))
}

// progress says how far something is: on a terminal in one line, which is written over.
type progress struct {
	out      io.Writer
	terminal bool
	next     time.Time // when it is said the next time
	width    int       // of the line that is there
}

func newProgress(out io.Writer) *progress {
	file, ok := out.(*os.File)
	return &progress{
		out: out, terminal: ok && term.IsTerminal(int(file.Fd())), next: time.Now().Add(quiet),
	}
}

func (p *progress) show(line string) {
	if time.Now().Before(p.next) {
		return
	}
	if !p.terminal {
		_, _ = fmt.Fprintln(p.out, line)
		p.next = time.Now().Add(period)
		return
	}
	p.clear()
	_, _ = fmt.Fprint(p.out, line)
	p.width = len(line)
}

// clear takes the line off the terminal.
func (p *progress) clear() {
	if p.width > 0 {
		_, _ = fmt.Fprint(p.out, "\r"+strings.Repeat(" ", p.width)+"\r")
		p.width = 0
	}
}

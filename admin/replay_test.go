package admin_test

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-deepgram/deepgram-callback/app"
	"github.com/caddy-deepgram/deepgram-callback/internal/caddytest"
)

// A long replay is an admin API with one replay, which goes on until it is told to end.
type longReplay struct {
	address string
	looked  chan struct{} // gets a value with each look at it
	begun   string        // the query that began it

	mu     sync.Mutex
	replay app.Replay
	lost   bool // nothing is known of it any more
}

func newLongReplay(t testing.TB) *longReplay {
	l := &longReplay{
		looked: make(chan struct{}, 1),
		replay: app.Replay{
			ID: "R1", State: app.ReplayRunning, Selected: 100_000, Replayed: 12_345,
			Began: time.Now(),
		},
	}
	answer := func(w http.ResponseWriter, value any) { _ = json.NewEncoder(w).Encode(value) }
	const base = "/deepgram_callback/spool/"
	mux := http.NewServeMux()
	mux.HandleFunc("POST "+base+"replay", func(w http.ResponseWriter, r *http.Request) {
		l.begun = r.URL.RawQuery
		w.WriteHeader(http.StatusAccepted)
		answer(w, l.now()[0])
	})
	mux.HandleFunc("GET "+base+"replays", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, l.now())
		select {
		case l.looked <- struct{}{}:
		default:
		}
	})
	mux.HandleFunc("DELETE "+base+"replays/R1", func(w http.ResponseWriter, _ *http.Request) {
		l.end(app.ReplayStopped, "")
		w.WriteHeader(http.StatusAccepted)
	})
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	l.address = server.Listener.Addr().String()
	return l
}

// now are the replays that there are.
func (l *longReplay) now() []app.Replay {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.lost {
		return []app.Replay{}
	}
	return []app.Replay{l.replay, {ID: "R0", State: app.ReplayDone}}
}

func (l *longReplay) end(state app.ReplayState, err string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.replay.State, l.replay.Error = state, err
}

func (l *longReplay) args(more ...string) []string {
	args := []string{"deepgram-callback", "spool", "replay", "--state", "delivered", "--since", "1h",
		"--address", l.address}
	return append(args, more...)
}

// run runs the command in this process, and does something while it waits.
func (l *longReplay) run(t testing.TB, meanwhile func(cancel func())) outcome {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan outcome, 1)
	go func() { ended <- execute(ctx, l.args("--json")...) }()
	take := func() {
		select {
		case <-l.looked:
		case <-time.After(patience):
			require.Fail(t, "nobody looks at the replay")
		}
	}
	take()
	take()
	meanwhile(cancel)
	select {
	case o := <-ended:
		return o
	case <-time.After(patience):
		require.Fail(t, "the command does not end")
		return outcome{}
	}
}

func TestAReplayIsWaitedFor(t *testing.T) {
	l := newLongReplay(t)
	o := l.run(t, func(func()) { l.end(app.ReplayDone, "") })
	require.NoError(t, o.err)
	require.Equal(t, "{\"replayed\":12345}\n", o.out)
	require.Equal(t, "since=1h&state=delivered&wait=false", l.begun)
}

func TestAReplayThatDoesNotGetToItsEndIsAFailure(t *testing.T) {
	for says, end := range map[string]func(*longReplay, func()){
		"replayed 12,345 of 100,000, then: the disk is gone": func(l *longReplay, _ func()) {
			l.end(app.ReplayFailed, "the disk is gone")
		},
		"stopped: replayed 12,345 of 100,000, the others are as they were": func(
			l *longReplay, _ func()) {
			l.end(app.ReplayStopped, "")
		},
		"stopped: replayed 12,345 of 100,000": func(_ *longReplay, cancel func()) { cancel() },
	} {
		l := newLongReplay(t)
		o := l.run(t, func(cancel func()) { end(l, cancel) })
		require.ErrorContains(t, o.err, says)
		require.Equal(t, 1, o.code)
		require.Equal(t, "{\"replayed\":12345}\n", o.out)
	}
	l := newLongReplay(t)
	o := l.run(t, func(func()) {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.lost = true
	})
	require.ErrorContains(t, o.err, "knows nothing of the replay any more")
	require.Equal(t, 1, o.code)
}

// Ctrl-C ends the replay, too, and not only the command.
func TestCtrlCStopsAReplay(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("no process can be interrupted there")
	}
	l := newLongReplay(t)
	cmd := caddytest.Command(t, l.args()...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	require.NoError(t, cmd.Start())
	ended := make(chan struct{})
	go func() {
		_ = cmd.Wait() // its exit code is looked at below
		close(ended)
	}()
	select {
	case <-l.looked:
	case <-time.After(patience):
		require.Fail(t, "nobody looks at the replay")
	}
	require.NoError(t, cmd.Process.Signal(os.Interrupt))
	select {
	case <-ended:
	case <-time.After(patience):
		require.Fail(t, "the command does not end")
	}
	require.Equal(t, 1, cmd.ProcessState.ExitCode())
	require.Equal(t, app.ReplayStopped, l.now()[0].State)
	require.Empty(t, stdout.String())
	require.Contains(t, stderr.String(), "stopped: replayed 12,345 of 100,000")
}

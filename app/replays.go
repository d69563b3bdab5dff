package app

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
)

// maxReplays is how many replays that have ended are remembered.
const maxReplays = 50

// Replays are those of many messages: the ones that run, and the last ones that ended. They belong
// to no configuration: a reload leaves them alone, as it does the inboxes.
type Replays struct {
	mu  sync.Mutex
	all []*replay // by rising time of their beginning
}

// ReplayState says whether a replay goes on, and how it ended.
type ReplayState string

// The states of a replay.
const (
	ReplayRunning ReplayState = "running"
	ReplayDone    ReplayState = "done"
	ReplayStopped ReplayState = "stopped"
	ReplayFailed  ReplayState = "failed"
)

// Replay is one of them, as far as it is.
type Replay struct {
	ID    string      `json:"id"`
	State ReplayState `json:"state"`

	// Selected is how many messages it is about, Replayed how many of them are pending again.
	Selected int64 `json:"selected"`
	Replayed int   `json:"replayed"`

	Began time.Time  `json:"began"`
	Ended *time.Time `json:"ended,omitempty"`
	Error string     `json:"error,omitempty"`
}

// replay is one on its way.
type replay struct {
	Replay
	stop context.CancelCauseFunc
	done chan struct{}
}

// errStopped is why a replay ends that somebody has stopped.
var errStopped = errors.New("stopped")

// Start has messages replayed, and returns at once. run makes them pending again until ctx ends,
// and tells how many they are so far.
func (r *Replays) Start(
	selected int64,
	run func(ctx context.Context, progress func(int)) error,
) string {
	ctx, stop := context.WithCancelCause(context.Background())
	job := &replay{
		Replay: Replay{
			ID:       rand.Text()[:12],
			State:    ReplayRunning,
			Selected: selected,
			Began:    time.Now().UTC(),
		},
		stop: stop,
		done: make(chan struct{}),
	}
	r.mu.Lock()
	r.all = append(r.all, job)
	r.mu.Unlock()
	go func() {
		defer close(job.done)
		r.end(ctx, job, run(ctx, func(n int) {
			r.mu.Lock()
			defer r.mu.Unlock()
			job.Replayed = n
		}))
	}()
	return job.ID
}

func (r *Replays) end(ctx context.Context, job *replay, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now().UTC()
	job.Ended = &now
	switch {
	case err == nil:
		job.State = ReplayDone
	case errors.Is(context.Cause(ctx), errStopped):
		job.State = ReplayStopped
	default:
		job.State, job.Error = ReplayFailed, spool.ClipError(err.Error())
	}
	ended := slices.DeleteFunc(slices.Clone(r.all), func(j *replay) bool { return j.Ended == nil })
	if len(ended) > maxReplays {
		r.all = slices.DeleteFunc(r.all, func(j *replay) bool { return j == ended[0] })
	}
}

// List returns the replays, the newest first.
func (r *Replays) List() []Replay {
	r.mu.Lock()
	defer r.mu.Unlock()
	list := make([]Replay, 0, len(r.all))
	for _, job := range slices.Backward(r.all) {
		list = append(list, job.Replay)
	}
	return list
}

func (r *Replays) find(id string) *replay {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, job := range r.all {
		if job.ID == id {
			return job
		}
	}
	return nil
}

// Stop has a replay end where it is; what it has made pending stays so. It reports whether there is
// one.
func (r *Replays) Stop(id string) bool {
	job := r.find(id)
	if job != nil {
		job.stop(errStopped)
	}
	return job != nil
}

// Wait waits until a replay has ended, and stops it if ctx ends before.
func (r *Replays) Wait(ctx context.Context, id string) (Replay, error) {
	job := r.find(id)
	if job == nil {
		return Replay{}, spool.ErrNotFound
	}
	select {
	case <-job.done:
	case <-ctx.Done():
		job.stop(errStopped)
		<-job.done
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return job.Replay, cmp.Or(ctx.Err(), job.failure())
}

// failure is why a replay has failed.
func (j *replay) failure() error {
	if j.State == ReplayFailed {
		return errors.New(j.Error)
	}
	return nil
}

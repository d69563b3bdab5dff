package app

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
)

// untilStopped is a replay that has replayed three messages and goes on until it is stopped.
func untilStopped(ctx context.Context, progress func(int)) error {
	progress(3)
	<-ctx.Done()
	return ctx.Err()
}

// atOnce is a replay that has ended as soon as it begins.
func atOnce(context.Context, func(int)) error { return nil }

func TestAReplaySaysHowFarItIs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var replays Replays
		require.Empty(t, replays.List())
		began := time.Now()
		step := make(chan int)
		id := replays.Start(1000, func(_ context.Context, progress func(int)) error {
			for n := range step {
				progress(n)
			}
			return nil
		})
		only := func() Replay {
			synctest.Wait()
			list := replays.List()
			require.Len(t, list, 1)
			return list[0]
		}
		want := Replay{ID: id, State: ReplayRunning, Selected: 1000, Began: began.UTC()}
		require.Equal(t, want, only())
		for _, n := range []int{256, 512} {
			step <- n
			want.Replayed = n
			require.Equal(t, want, only())
		}
		time.Sleep(time.Minute)
		close(step)
		ended := began.Add(time.Minute).UTC()
		want.State, want.Ended = ReplayDone, &ended
		require.Equal(t, want, only())

		done, err := replays.Wait(t.Context(), id)
		require.NoError(t, err)
		require.Equal(t, want, done, "one that has ended is not waited for")
		require.True(t, replays.Stop(id), "nor does stopping it do anything")
		require.Equal(t, want, only())
	})
}

func TestAReplayIsStopped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var replays Replays
		id, other := replays.Start(10, untilStopped), replays.Start(20, untilStopped)
		require.NotEqual(t, id, other)
		require.False(t, replays.Stop("none"))
		require.True(t, replays.Stop(id))
		stopped, err := replays.Wait(t.Context(), id)
		require.NoError(t, err, "that somebody stopped it is no failure")
		require.Equal(t, ReplayStopped, stopped.State)
		require.Equal(t, 3, stopped.Replayed)
		require.NotNil(t, stopped.Ended)
		require.Empty(t, stopped.Error)

		list := replays.List()
		require.Equal(t, []string{other, id}, []string{list[0].ID, list[1].ID}, "the newest first")
		require.Equal(t, ReplayRunning, list[0].State, "another one goes on")
		require.True(t, replays.Stop(other))
	})
}

func TestWhoeverGoesAwayStopsWhatHeWaitsFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var replays Replays
		id := replays.Start(10, untilStopped)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		began := time.Now()
		stopped, err := replays.Wait(ctx, id)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Equal(t, time.Minute, time.Since(began))
		require.Equal(t, ReplayStopped, stopped.State)
		require.Equal(t, 3, stopped.Replayed)

		_, err = replays.Wait(t.Context(), "none")
		require.ErrorIs(t, err, spool.ErrNotFound)
	})
}

func TestAReplayThatFailsSaysWhy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var replays Replays
		id := replays.Start(10, func(_ context.Context, progress func(int)) error {
			progress(4)
			return errors.New("the disk is gone")
		})
		failed, err := replays.Wait(t.Context(), id)
		require.EqualError(t, err, "the disk is gone")
		require.Equal(t, ReplayFailed, failed.State)
		require.Equal(t, "the disk is gone", failed.Error)
		require.Equal(t, 4, failed.Replayed)
	})
}

// Those that run are never forgotten, however many end meanwhile.
func TestTheLastFiftyReplaysAreRemembered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var replays Replays
		running := []string{replays.Start(0, untilStopped), replays.Start(0, untilStopped)}
		var ids []string
		for range 3 * maxReplays {
			id := replays.Start(0, atOnce)
			_, err := replays.Wait(t.Context(), id)
			require.NoError(t, err)
			ids = append(ids, id)
		}
		list := replays.List()
		require.Len(t, list, maxReplays+len(running))
		for i, replay := range list[:maxReplays] {
			require.Equal(t, ids[len(ids)-1-i], replay.ID)
		}
		require.Equal(t, running[1], list[maxReplays].ID)
		require.Equal(t, running[0], list[maxReplays+1].ID)
		_, err := replays.Wait(t.Context(), ids[0])
		require.ErrorIs(t, err, spool.ErrNotFound)

		for _, id := range running {
			require.True(t, replays.Stop(id))
			_, err := replays.Wait(t.Context(), id)
			require.NoError(t, err)
		}
		list = replays.List()
		require.Len(t, list, maxReplays, "what has ended counts, whenever it began")
	})
}

func TestManyHaveReplaysAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var replays Replays
		errs := make(chan error, 20)
		for range cap(errs) {
			go func() {
				id := replays.Start(1, untilStopped)
				for range 20 {
					_ = replays.List()
				}
				replays.Stop(id)
				_, err := replays.Wait(t.Context(), id)
				errs <- err
			}()
		}
		for range cap(errs) {
			require.NoError(t, <-errs)
		}
		require.Len(t, replays.List(), cap(errs))
		for _, replay := range replays.List() {
			require.Equal(t, ReplayStopped, replay.State)
		}
	})
}

package health

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// place is a destination such as a/x, at the host a.
type place string

func (p place) Host() place {
	host, _, _ := strings.Cut(string(p), "/")
	return place(host)
}

var (
	config = Config{Concurrency: 16, Silent: 4, Delay: func(int) time.Duration { return time.Second }}
	start  = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
)

// fail notes failures of different messages at a place, which are named by numbers.
func fail(h *Health[place], to place, messages ...byte) {
	for _, m := range messages {
		h.Failed(config, Failure[place]{Message: [16]byte{m}, Destination: to, Error: "away"}, start)
	}
}

func sickPlaces(h *Health[place]) (all, paths []place) {
	sick, sickPaths := h.Sick()
	for p := range sick {
		all = append(all, p)
	}
	for p := range sickPaths {
		paths = append(paths, p)
	}
	return all, paths
}

func TestThreeMessagesInARowMakeADestinationSick(t *testing.T) {
	h := New[place](start)
	fail(h, "a/x", 1, 1, 1, 2)
	require.False(t, h.Restrained(), "they are two")
	fail(h, "a/x", 3)
	all, paths := sickPlaces(h)
	require.ElementsMatch(t, []place{"a", "a/x"}, all)
	require.Equal(t, []place{"a/x"}, paths)
	require.True(t, h.Suspect())

	h.Answered(config, Answer[place]{Destination: "a/x"}, start)
	all, _ = sickPlaces(h)
	require.Empty(t, all, "well again")
	require.False(t, h.Suspect())
	fail(h, "a/x", 4)
	all, _ = sickPlaces(h)
	require.ElementsMatch(t, []place{"a", "a/x"}, all, "on probation")
}

func TestASickDestinationMakesNothingElseSuspect(t *testing.T) {
	h := New[place](start)
	fail(h, "a/x", 1, 2, 3)
	h.Answered(config, Answer[place]{Destination: "b/y"}, start)
	require.False(t, h.Suspect())
	fail(h, "a/x", 4, 5, 6)
	fail(h, "a/z", 7, 8, 9) // whose host is sick
	require.False(t, h.Suspect())
	require.True(t, h.Restrained())
}

func TestARouteIsDownWhereNothingElseWaits(t *testing.T) {
	h := New[place](start)
	fail(h, "a/x", 1, 2)
	h.Searched(true, start)
	require.False(t, h.Status().Down, "it is not suspect")
	fail(h, "a/x", 3)
	h.Searched(false, start)
	require.False(t, h.Status().Down)
	h.Searched(true, start.Add(time.Second))
	h.Searched(true, start.Add(time.Minute))
	status := h.Status()
	require.True(t, status.Down)
	require.Equal(t, start.Add(time.Second), status.Since)
	require.Equal(t, "away", status.LastError)

	h.Answered(config, Answer[place]{Destination: "a/x"}, start)
	require.False(t, h.Status().Down)
	require.Equal(t, 1, h.Limit(), "one at a time at first")
	h.Answered(config, Answer[place]{Destination: "a/x"}, start)
	require.Equal(t, 2, h.Limit())
}

// explore counts how many messages may be explored from a time on, for so long.
func explore(h *Health[place], from time.Time, during time.Duration) (count int) {
	for now := from; now.Before(from.Add(during)); now = now.Add(time.Millisecond) {
		if ok, _ := h.MayExplore(now); ok {
			h.Explored(now)
			count++
		}
	}
	return count
}

func TestExplorationsAreFewAfterTheFirst(t *testing.T) {
	h := New[place](start)
	require.InDelta(t, exploreBurst+20*exploreRate, explore(h, start, 20*time.Second), 5)
	require.InDelta(t, 120, explore(h, start.Add(20*time.Second), time.Minute), 5)

	h = New[place](start)
	h.Failed(config, Failure[place]{Destination: "a/x", Unreachable: true}, start)
	require.InDelta(t, 90, explore(h, start, time.Minute), 5)
}

func TestNothingIsTriedBeforeItsTime(t *testing.T) {
	h := New[place](start)
	fail(h, "a/x", 1, 2, 3)
	ok, at := h.MayProbe(start)
	require.False(t, ok)
	require.Equal(t, start.Add(time.Second), at)
	h.Postpone(start.Add(time.Hour))
	ok, at = h.MayExplore(start)
	require.False(t, ok)
	require.Equal(t, start.Add(time.Hour), at)
	h.LookNow(start)
	for _, may := range []func(time.Time) (bool, time.Time){h.MayProbe, h.MayExplore} {
		ok, _ = may(start)
		require.True(t, ok)
	}
	require.Equal(t, start.Add(time.Second), h.Probed(config, start))
}

func TestSilenceIsRemembered(t *testing.T) {
	h := New[place](start)
	for m := range byte(3) {
		h.Failed(config, Failure[place]{
			Message: [16]byte{m + 1}, Destination: "a/x", Error: "no answer", Silent: true,
		}, start)
	}
	require.True(t, h.Silent("a/x", start.Add(time.Hour)))
	require.True(t, h.Silent("a/other", start.Add(time.Hour)), "its host is silent")
	require.True(t, h.Silent("b", start.Add(silenceKept-1)))
	require.False(t, h.Silent("b", start.Add(silenceKept)))
	h.Answered(config, Answer[place]{Destination: "a/x", Took: ExplorePatience}, start)
	require.False(t, h.Silent("a/x", start), "it is slow")
}

package spool_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/storetest/memory"
)

// watchedStore is a store in memory that records its limits, and may be unable to count.
type watchedStore struct {
	*memory.Store

	mu       sync.Mutex
	limits   []spool.Limits
	countErr error
	counted  int
}

func (s *watchedStore) SetLimits(limits spool.Limits) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.limits = append(s.limits, limits)
}

func (s *watchedStore) Counts(ctx context.Context) (spool.Counts, error) {
	s.mu.Lock()
	err := s.countErr
	s.counted++
	s.mu.Unlock()
	if err != nil {
		return spool.Counts{}, err
	}
	return s.Store.Counts(ctx)
}

func (s *watchedStore) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.countErr = err
}

// counts returns how often it was asked to count.
func (s *watchedStore) counts() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.counted
}

// last returns the limits that hold, and how often limits were set.
func (s *watchedStore) last() (spool.Limits, int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.limits[len(s.limits)-1], len(s.limits)
}

// withStore runs a test in a bubble, on a store that is watched.
func withStore(t *testing.T, test func(*testing.T, *spool.Inbox, *watchedStore)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		store := &watchedStore{Store: memory.NewPlace().Open()}
		in := spool.New(store, spool.Hooks{})
		test(t, in, store)
		require.NoError(t, in.Close(t.Context()))
	})
}

func toRoute(t *testing.T, in *spool.Inbox, route, body string) {
	t.Helper()
	_, err := in.Accept(t.Context(), spool.Envelope{Route: route, Method: "POST", URI: "/" + body},
		strings.NewReader(body))
	require.NoError(t, err)
}

func ok(string, int) spool.Result { return spool.Result{Status: 200} }

func routes(names map[string]*attemptLog) map[string]spool.RouteConfig {
	all := make(map[string]spool.RouteConfig)
	for name, log := range names {
		all[name] = spool.RouteConfig{Deliver: log.deliver}
	}
	return all
}

func TestLimitsAreThoseOfTheConfigurationInCharge(t *testing.T) {
	withStore(t, func(t *testing.T, in *spool.Inbox, store *watchedStore) {
		log := newAttemptLog(ok)
		short := spool.RouteConfig{Deliver: log.deliver, DedupeWindow: time.Hour}
		long := spool.RouteConfig{Deliver: log.deliver, DedupeWindow: 48 * time.Hour}
		releaseFirst := in.Configure(spool.Config{
			MaxBytes: 100, Routes: map[string]spool.RouteConfig{"a": short, "b": long},
		})
		limits, times := store.last()
		require.Equal(t, spool.Limits{MaxBytes: 100, Fingerprints: 48 * time.Hour}, limits)
		require.Equal(t, 1, times, "they are set in one call")

		// The first one still accepts under its own window.
		releaseSecond := in.Configure(spool.Config{
			MaxBytes: 50, Routes: map[string]spool.RouteConfig{"a": short},
		})
		limits, _ = store.last()
		require.Equal(t, spool.Limits{MaxBytes: 50, Fingerprints: 48 * time.Hour}, limits)

		releaseSecond(t.Context())
		limits, _ = store.last()
		require.Equal(t, spool.Limits{MaxBytes: 100, Fingerprints: 48 * time.Hour}, limits)

		releaseThird := in.Configure(spool.Config{
			MaxBytes: 70, Routes: map[string]spool.RouteConfig{"a": short},
		})
		releaseFirst(t.Context())
		limits, _ = store.last()
		require.Equal(t, spool.Limits{MaxBytes: 70, Fingerprints: time.Hour}, limits)

		_, times = store.last()
		releaseThird(t.Context())
		releaseThird(t.Context())
		limits, after := store.last()
		require.Equal(t, int64(70), limits.MaxBytes, "nobody says anything else")
		require.Equal(t, times, after)
	})
}

// A configuration that is given up must not have had what the one before it delivers.
func TestARouteThatOnlyAnOlderConfigurationNamesStaysThatOnes(t *testing.T) {
	withStore(t, func(t *testing.T, in *spool.Inbox, _ *watchedStore) {
		old, fresh := newAttemptLog(ok), newAttemptLog(ok)
		releaseOld := in.Configure(spool.Config{Routes: routes(map[string]*attemptLog{"a": old})})
		in.Configure(spool.Config{Routes: routes(map[string]*attemptLog{"b": fresh})})
		toRoute(t, in, "a", "1")
		wait(time.Second)
		require.Equal(t, []string{"1"}, old.order)
		require.Empty(t, fresh.order)

		releaseOld(t.Context())
		toRoute(t, in, "a", "2") // of a server that still runs
		wait(time.Second)
		require.Equal(t, []string{"1"}, old.order)
		require.Equal(t, []string{"2"}, fresh.order, "its service was moved")
	})
}

func TestTheOnlyRouteTakesOverWhatNoConfigurationHas(t *testing.T) {
	withStore(t, func(t *testing.T, in *spool.Inbox, _ *watchedStore) {
		type report struct {
			route   string
			pending int64
			to      string
		}
		var reports []report
		in.TestHooks().Unconfigured = func(route string, c spool.RouteCounts, to string) {
			reports = append(reports, report{route, c.Pending, to})
		}
		for _, name := range []string{"x", "y"} {
			toRoute(t, in, name, name)
		}
		wait(time.Second)
		require.Empty(t, reports, "there is no configuration yet")

		// Of two routes nobody can tell which it is.
		one, other := newAttemptLog(ok), newAttemptLog(ok)
		two := spool.Config{Routes: routes(map[string]*attemptLog{"one": one, "other": other})}
		releaseTwo := in.Configure(two)
		wait(time.Second)
		toRoute(t, in, "x", "more")
		wait(time.Second)
		require.Equal(t, []report{{"x", 1, ""}, {"y", 1, ""}}, reports, "once for each")
		require.Empty(t, one.order)
		require.Empty(t, other.order)
		require.False(t, stats(t, in).Routes["x"].Configured)

		// Until there is one alone.
		reports = nil
		releaseOne := in.Configure(spool.Config{Routes: routes(map[string]*attemptLog{"one": one})})
		wait(time.Second)
		require.Equal(t, []report{{"x", 2, "one"}, {"y", 1, "one"}}, reports)
		require.ElementsMatch(t, []string{"x", "more", "y"}, one.order)
		require.True(t, stats(t, in).Routes["x"].Configured)

		// What it took over goes back with it.
		releaseOne(t.Context())
		toRoute(t, in, "x", "waits")
		wait(time.Second)
		require.False(t, stats(t, in).Routes["x"].Configured)
		require.Equal(t, int64(1), stats(t, in).Pending)

		// And the name can be had again by one that says it.
		named := newAttemptLog(ok)
		in.Configure(spool.Config{Routes: routes(map[string]*attemptLog{"one": one, "x": named})})
		wait(time.Second)
		require.Equal(t, []string{"waits"}, named.order)
		releaseTwo(t.Context())
	})
}

// sharedStore is one that other gateways use, too.
type sharedStore struct{ *watchedStore }

func (sharedStore) Gateways(context.Context) ([]spool.Gateway, error) { return nil, nil }

// What no configuration of this process has may be what another gateway delivers.
func TestNothingIsTakenOverFromASharedStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := &watchedStore{Store: memory.NewPlace().Open()}
		in := spool.New(sharedStore{store}, spool.Hooks{
			Unconfigured: func(string, spool.RouteCounts, string) { t.Error("it is not that of this gateway") },
		})
		elsewhere := make(map[string]int64)
		in.TestHooks().Elsewhere = func(route string, c spool.RouteCounts) {
			require.NotContains(t, elsewhere, route, "once for each configuration")
			elsewhere[route] = c.Pending
		}
		toRoute(t, in, "theirs", "1")
		log := newAttemptLog(ok)
		release := in.Configure(spool.Config{Routes: routes(map[string]*attemptLog{"ours": log})})
		wait(time.Second)
		require.Equal(t, map[string]int64{"theirs": 1}, elsewhere)
		counted := store.counts()
		for range 50 { // as other gateways say, again and again
			toRoute(t, in, "theirs", "more")
			wait(time.Second)
		}
		require.Empty(t, log.order)
		require.False(t, stats(t, in).Routes["theirs"].Configured)
		require.Equal(t, counted+1, store.counts(), "nothing is counted for what is known, but in this test")

		// Somebody says that it is to be delivered here.
		named := newAttemptLog(ok)
		in.Configure(spool.Config{Routes: routes(map[string]*attemptLog{"ours": log, "theirs": named})})
		wait(time.Second)
		require.Len(t, named.order, 51)
		require.Empty(t, log.order)
		release(t.Context())
		require.NoError(t, in.Close(t.Context()))
	})
}

func TestAStoreThatCannotCountIsAskedAgain(t *testing.T) {
	withStore(t, func(t *testing.T, in *spool.Inbox, store *watchedStore) {
		toRoute(t, in, "moved", "1")
		wait(time.Second)
		store.fail(errors.New("away"))
		problems := 0
		in.TestHooks().Problem = func(error) { problems++ }
		log := newAttemptLog(ok)
		in.Configure(spool.Config{Routes: routes(map[string]*attemptLog{"r": log})})
		wait(time.Minute)
		require.Equal(t, 1, problems, "it is said once")
		require.Empty(t, log.order)
		store.fail(nil)
		wait(2 * time.Second)
		require.Len(t, log.order, 1)
	})
}

func TestConfigurationsThatComeAndGoAtOnce(t *testing.T) {
	withStore(t, func(t *testing.T, in *spool.Inbox, _ *watchedStore) {
		log := newAttemptLog(ok)
		var changing sync.WaitGroup
		for range 20 {
			changing.Go(func() {
				for range 20 {
					release := in.Configure(spool.Config{Routes: routes(map[string]*attemptLog{"r": log})})
					toRoute(t, in, "r", "x")
					release(t.Context())
				}
			})
		}
		changing.Wait()
		in.Configure(spool.Config{Routes: routes(map[string]*attemptLog{"r": log})})
		wait(time.Minute)
		require.Zero(t, stats(t, in).Pending)
		require.Len(t, log.order, 400)
	})
}

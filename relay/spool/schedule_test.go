package spool_test

import (
	"context"
	"fmt"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/storetest"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/storetest/memory"
)

// attemptLog notes when which body was tried, and answers as it is told.
type attemptLog struct {
	mu     sync.Mutex
	start  time.Time
	times  map[string][]time.Duration
	order  []string
	starts []time.Duration
	answer func(body string, attempt int) spool.Result
	takes  time.Duration
	active int
	peak   int
}

func newAttemptLog(answer func(body string, attempt int) spool.Result) *attemptLog {
	return &attemptLog{start: time.Now(), times: make(map[string][]time.Duration), answer: answer}
}

func (l *attemptLog) deliver(ctx context.Context, _ *spool.Message, body spool.Body) spool.Result {
	b := make([]byte, body.Size())
	_, _ = body.Read(b)
	text := string(b)
	n, takes := l.begin(text)
	if takes > 0 {
		select {
		case <-time.After(takes):
		case <-ctx.Done():
			return spool.Result{Err: ctx.Err()}
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.active--
	return l.answer(text, n)
}

func (l *attemptLog) begin(text string) (attempt int, takes time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.times[text] = append(l.times[text], time.Since(l.start))
	l.order = append(l.order, text)
	l.starts = append(l.starts, time.Since(l.start))
	l.active++
	l.peak = max(l.peak, l.active)
	return len(l.times[text]), l.takes
}

// tries returns how many attempts there were.
func (l *attemptLog) tries() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.order)
}

// change changes what the answer depends on.
func (l *attemptLog) change(f func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	f()
}

// inBubble runs a test on an inbox with a made-up time.
func inBubble(t *testing.T, test func(t *testing.T, in *spool.Inbox)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		in := spool.New(memory.NewPlace().Open(), spool.Hooks{})
		defer func() { assert.NoError(t, in.Close(context.Background())) }()
		test(t, in)
	})
}

func wait(d time.Duration) {
	time.Sleep(d) // the bubble's time
	synctest.Wait()
}

func within(t *testing.T, want, got time.Duration) {
	t.Helper()
	require.InDelta(t, want.Seconds(), got.Seconds(), 0.2*want.Seconds()+0.001)
}

func TestRetriesFollowTheScheduleAndThenTheMessageDies(t *testing.T) {
	inBubble(t, func(t *testing.T, in *spool.Inbox) {
		log := newAttemptLog(func(string, int) spool.Result { return spool.Result{Status: 500} })
		storetest.SetRoute(
			in,
			"r",
			spool.RouteConfig{
				Deliver:     log.deliver,
				RetryDelays: []time.Duration{time.Second, 10 * time.Second},
				RetryFor:    time.Minute,
			},
		)
		accept(t, in, "a")
		wait(2 * time.Minute)

		times := log.times["a"]
		within(t, time.Second, times[1]-times[0])
		for i := 2; i < len(times)-1; i++ {
			within(t, 10*time.Second, times[i]-times[i-1])
		}
		require.Equal(t, time.Minute, times[len(times)-1], "one last time when its time is over")

		dead, err := in.List(context.Background(), spool.Filter{State: spool.Dead})
		require.NoError(t, err)
		require.Len(t, dead, 1)
		require.Equal(t, len(times), dead[0].Tries)
		require.Equal(t, "the service answered 500 Internal Server Error", dead[0].LastError)
	})
}

func TestGoneDiesAtOnce(t *testing.T) {
	inBubble(t, func(t *testing.T, in *spool.Inbox) {
		log := newAttemptLog(
			func(string, int) spool.Result { return spool.Result{Status: http.StatusGone} },
		)
		storetest.SetRoute(in, "r", spool.RouteConfig{Deliver: log.deliver})
		accept(t, in, "a")
		wait(time.Millisecond)
		require.Equal(t, int64(1), stats(t, in).Dead)
		wait(time.Hour)
		require.Len(t, log.times["a"], 1)
	})
}

func TestRetryAfterIsHonouredButNotBeyondTheEndOfTheMessage(t *testing.T) {
	for asked, next := range map[time.Duration]time.Duration{
		30 * time.Second: 30 * time.Second,
		time.Millisecond: 0, // the schedule is later
		24 * time.Hour:   time.Hour,
	} {
		inBubble(t, func(t *testing.T, in *spool.Inbox) {
			log := newAttemptLog(func(_ string, attempt int) spool.Result {
				if attempt == 1 {
					return spool.Result{Status: 500, RetryAfter: asked}
				}
				return spool.Result{Status: 200}
			})
			storetest.SetRoute(in, "r", spool.RouteConfig{Deliver: log.deliver, RetryFor: time.Hour})
			accept(t, in, "a")
			wait(2 * time.Hour)
			require.Len(t, log.times["a"], 2)
			if next > 0 {
				require.Equal(t, next, log.times["a"][1])
			} else {
				within(t, time.Second, log.times["a"][1])
			}
		})
	}
}

func TestAServiceThatIsDownIsProbedAndThenDeliveredTo(t *testing.T) {
	inBubble(t, func(t *testing.T, in *spool.Inbox) {
		up := false
		log := newAttemptLog(func(string, int) spool.Result {
			if !up {
				return spool.Result{Err: errConnect, Unreachable: true}
			}
			return spool.Result{Status: 200}
		})
		var downs []bool
		in.TestHooks().Down = func(_ string, down bool, _ string) { downs = append(downs, down) }
		storetest.SetRoute(in, "r", spool.RouteConfig{Deliver: log.deliver})
		for i := range 1000 {
			accept(t, in, result(fmt.Sprint(i), "x"))
		}
		wait(10 * time.Minute)
		require.Less(t, log.tries(), 1000, "attempts while the service is down")
		require.True(t, stats(t, in).Routes["r"].Down)
		require.Equal(t, "connection refused", stats(t, in).Routes["r"].LastError)
		probes := log.tries()

		log.change(func() { up = true })
		wait(spool.MaxDelayWhileDown * 6 / 5)
		require.Zero(t, stats(t, in).Pending, "all is delivered within a minute or so")
		require.GreaterOrEqual(t, log.tries(), 1000)
		require.LessOrEqual(t, log.tries(), probes+1000)
		require.Equal(t, []bool{true, false}, downs)
	})
}

func TestThatAServiceIsDownAndUpAgainIsSaidOnceEachInTurn(t *testing.T) {
	inBubble(t, func(t *testing.T, in *spool.Inbox) {
		began := time.Now()
		log := newAttemptLog(func(string, int) spool.Result {
			if int(time.Since(began)/(2*time.Minute))%2 == 0 {
				return spool.Result{Err: errConnect, Unreachable: true}
			}
			return spool.Result{Status: 200}
		})
		var mu sync.Mutex
		var downs []bool
		in.TestHooks().Down = func(_ string, down bool, _ string) {
			for range 10 {
				runtime.Gosched()
			}
			mu.Lock()
			defer mu.Unlock()
			downs = append(downs, down)
		}
		storetest.SetRoute(in, "r", spool.RouteConfig{Deliver: log.deliver, Concurrency: 64})
		for period := range 20 {
			for i := range 100 {
				accept(t, in, result(fmt.Sprint(period, "-", i), "x"))
			}
			wait(2 * time.Minute)
		}
		require.Len(t, downs, 20)
		for i, down := range downs {
			require.Equal(t, i%2 == 0, down, downs)
		}
	})
}

func TestDeliveriesRampUpWhenTheServiceIsBack(t *testing.T) {
	inBubble(t, func(t *testing.T, in *spool.Inbox) {
		up := false
		log := newAttemptLog(func(string, int) spool.Result {
			if up {
				return spool.Result{Status: 200}
			}
			return spool.Result{Err: errConnect, Unreachable: true}
		})
		storetest.SetRoute(
			in,
			"r",
			spool.RouteConfig{
				Deliver:     log.deliver,
				Concurrency: 8,
				RetryDelays: []time.Duration{10 * time.Second},
			},
		)
		for i := range 100 {
			accept(t, in, result(fmt.Sprint(i), "x"))
		}
		wait(time.Second)
		log.change(func() { up, log.takes, log.peak = true, time.Second, 0 })
		began := log.tries()
		wait(time.Minute)
		require.Zero(t, stats(t, in).Pending)

		perSecond := make(map[time.Duration]int)
		var first time.Duration
		log.change(func() {
			first = log.starts[began]
			for _, at := range log.starts[began:] {
				perSecond[at-first]++
			}
			require.Equal(t, 8, log.peak)
		})
		for second, want := range []int{1, 1, 2, 4, 8, 8} {
			require.Equal(
				t,
				want,
				perSecond[time.Duration(second)*time.Second],
				"second %d after the service is back",
				second,
			)
		}
	})
}

func TestOneBadMessageDoesNotHoldUpOthers(t *testing.T) {
	for name, bad := range map[string]spool.Result{
		"that the service rejects":           {Status: 500},
		"that makes it drop the connection":  {Err: errConnect},
		"that makes something before it 502": {Status: 502},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, in *spool.Inbox) {
				log := newAttemptLog(func(body string, _ int) spool.Result {
					if strings.Contains(body, "bad") {
						return bad
					}
					return spool.Result{Status: 200}
				})
				storetest.SetRoute(in, "r", spool.RouteConfig{Deliver: log.deliver})
				accept(t, in, result("1", "bad"))
				wait(time.Hour)
				for i := range 20 {
					accept(t, in, result(fmt.Sprint("good", i), "x"))
					wait(time.Millisecond)
				}
				require.Equal(t, int64(1), stats(t, in).Pending, "only the bad one is left")
			})
		})
	}
}

// A Retry-After is about the message that it was said of, and moves no other one.
func TestARetryAfterDoesNotStopTheRoute(t *testing.T) {
	inBubble(t, func(t *testing.T, in *spool.Inbox) {
		log := newAttemptLog(func(_ string, attempt int) spool.Result {
			if attempt == 1 {
				return spool.Result{Status: http.StatusTooManyRequests, RetryAfter: 40 * time.Second}
			}
			return spool.Result{Status: 200}
		})
		storetest.SetRoute(in, "r", spool.RouteConfig{Deliver: log.deliver, Concurrency: 1})
		for i := range 20 {
			accept(t, in, result(fmt.Sprint(i), "x"))
		}
		wait(39 * time.Second)
		require.Equal(t, 20, log.tries(), "each was tried, and none a second time")
		wait(time.Minute)
		require.Zero(t, stats(t, in).Pending)
		for _, times := range log.times {
			require.GreaterOrEqual(t, times[1]-times[0], 40*time.Second)
		}
	})
}

func TestWhatWaitsBehindADeadServiceDiesWithAProbe(t *testing.T) {
	inBubble(t, func(t *testing.T, in *spool.Inbox) {
		var died atomic.Int64
		in.TestHooks().Died = func(*spool.Message) { died.Add(1) }
		log := newAttemptLog(func(string, int) spool.Result { return spool.Result{Err: errConnect} })
		storetest.SetRoute(in, "r", spool.RouteConfig{Deliver: log.deliver, RetryFor: time.Hour})
		for i := range 600 {
			accept(t, in, result(fmt.Sprint(i), "x"))
		}
		wait(30 * time.Minute)
		require.Zero(t, died.Load())
		late := accept(t, in, result("late", "x"))
		wait(35 * time.Minute)
		require.Equal(t, int64(600), died.Load())
		dead, err := in.List(context.Background(), spool.Filter{State: spool.Dead, Limit: 1000})
		require.NoError(t, err)
		for _, m := range dead {
			require.Equal(t, "connection refused", m.LastError)
		}
		msg, err := in.Get(context.Background(), late.ID)
		require.NoError(t, err)
		require.Equal(t, spool.Pending, msg.State)
	})
}

func TestNothingDiesOnlyBecauseTheInboxWasOffForLong(t *testing.T) {
	inBubble(t, func(t *testing.T, in *spool.Inbox) {
		accept(t, in, "a")
		wait(100 * time.Hour)
		log := newAttemptLog(func(string, int) spool.Result { return spool.Result{Status: 200} })
		storetest.SetRoute(in, "r", spool.RouteConfig{Deliver: log.deliver, RetryFor: time.Hour})
		wait(time.Millisecond)
		require.Zero(t, stats(t, in).Pending)
		require.Zero(t, stats(t, in).Dead)
	})
}

func TestOrderHoldsOverFailures(t *testing.T) {
	inBubble(t, func(t *testing.T, in *spool.Inbox) {
		var delivered []string
		log := newAttemptLog(nil)
		log.answer = func(body string, attempt int) spool.Result {
			switch {
			case strings.Contains(body, "dies"):
				return spool.Result{Status: 410}
			case strings.Contains(body, "twice") && attempt < 3:
				return spool.Result{Status: 400}
			}
			delivered = append(delivered, body)
			return spool.Result{Status: 200}
		}
		storetest.SetRoute(in, "r", spool.RouteConfig{Deliver: log.deliver})
		a := []string{
			result("a", "1 twice"),
			result("a", "2"),
			result("a", "3 dies"),
			result("a", "4 twice"),
			result("a", "5"),
		}
		for _, body := range a {
			accept(t, in, body)
		}
		accept(t, in, result("b", "1"))
		wait(time.Millisecond)
		log.change(
			func() { require.Equal(t, []string{result("b", "1")}, delivered, "b does not wait for a") },
		)
		wait(time.Hour)
		require.Equal(t, []string{result("b", "1"), a[0], a[1], a[3], a[4]}, delivered)
	})
}

func TestMessagesWithoutRequestIDKeepTheOrderOfTheirURI(t *testing.T) {
	inBubble(t, func(t *testing.T, in *spool.Inbox) {
		log := newAttemptLog(func(string, int) spool.Result { return spool.Result{Status: 200} })
		log.takes = time.Second
		storetest.SetRoute(in, "r", spool.RouteConfig{Deliver: log.deliver})
		for i := range 5 {
			accept(t, in, fmt.Sprintf(`{"type":"UtteranceEnd","last_word_end":%d}`, i))
		}
		wait(time.Minute)
		require.True(t, slices.IsSorted(log.order))
		require.Equal(t, 1, log.peak)
	})
}

func TestAReplayedLetterGetsAFreshScheduleAndTheSameID(t *testing.T) {
	inBubble(t, func(t *testing.T, in *spool.Inbox) {
		var ids []spool.ID
		var status atomic.Int64
		status.Store(410)
		storetest.SetRoute(
			in,
			"r",
			spool.RouteConfig{Deliver: func(_ context.Context, m *spool.Message, _ spool.Body) spool.Result {
				ids = append(ids, m.ID)
				assert.Zero(t, m.Tries)
				return spool.Result{Status: int(status.Load())}
			}},
		)
		receipt := accept(t, in, "a")
		wait(time.Hour)
		status.Store(200)
		require.NoError(t, in.Replay(t.Context(), receipt.ID))
		wait(time.Millisecond)
		require.Equal(t, []spool.ID{receipt.ID, receipt.ID}, ids)
		require.ErrorIs(t, in.Replay(t.Context(), receipt.ID), spool.ErrNotFound)
		require.Zero(t, stats(t, in).Dead+stats(t, in).Pending)
	})
}

func TestReplayingAllTheDeadProbesAtOnce(t *testing.T) {
	inBubble(t, func(t *testing.T, in *spool.Inbox) {
		status := 503
		log := newAttemptLog(func(string, int) spool.Result { return spool.Result{Status: status} })
		storetest.SetRoute(in, "r", spool.RouteConfig{Deliver: log.deliver, RetryFor: time.Minute})
		for i := range 600 {
			accept(t, in, result(fmt.Sprint(i), "x"))
		}
		wait(5 * time.Minute)
		require.Equal(t, int64(600), stats(t, in).Dead)
		log.change(func() { status = 200 })
		n, err := in.ReplayAll(t.Context(), spool.Filter{Route: "r", State: spool.Dead}, nil)
		require.NoError(t, err)
		require.Equal(t, 600, n)
		wait(time.Millisecond)
		require.Zero(t, stats(t, in).Dead+stats(t, in).Pending)
	})
}

func TestDeadLettersAreDroppedAfterTheirTime(t *testing.T) {
	inBubble(t, func(t *testing.T, in *spool.Inbox) {
		dropped := 0
		in.TestHooks().Dropped = func(*spool.Message) { dropped++ }
		log := newAttemptLog(func(string, int) spool.Result { return spool.Result{Status: 410} })
		storetest.SetRoute(in, "r", spool.RouteConfig{Deliver: log.deliver, DeadLetterKeep: time.Hour})
		accept(t, in, "a")
		wait(59 * time.Minute)
		require.Equal(t, int64(1), stats(t, in).Dead)
		wait(3 * time.Minute)
		require.Zero(t, stats(t, in).Dead)
		require.Equal(t, 1, dropped)
	})
}

func TestAReloadHandsTheRouteOver(t *testing.T) {
	inBubble(t, func(t *testing.T, in *spool.Inbox) {
		old := newAttemptLog(func(string, int) spool.Result { return spool.Result{Status: 200} })
		old.takes = 5 * time.Second
		releaseOld := storetest.SetRoute(in, "r", spool.RouteConfig{Deliver: old.deliver, Concurrency: 1})
		accept(t, in, result("1", "old"))
		wait(time.Second)

		fresh := newAttemptLog(func(string, int) spool.Result { return spool.Result{Status: 200} })
		releaseFresh := storetest.SetRoute(
			in,
			"r",
			spool.RouteConfig{Deliver: fresh.deliver, Concurrency: 1},
		)
		accept(t, in, result("2", "new"))
		began := time.Now()
		releaseOld(t.Context())
		require.Equal(t, 4*time.Second, time.Since(began), "the release waits for the delivery under way")
		wait(time.Second)
		require.Equal(t, []string{result("1", "old")}, old.order)
		require.Equal(t, []string{result("2", "new")}, fresh.order)

		releaseFresh(t.Context())
		accept(t, in, result("3", "nobody"))
		wait(time.Hour)
		require.Equal(t, int64(1), stats(t, in).Pending, "what nobody delivers stays")
		require.False(t, stats(t, in).Routes["r"].Configured)

		again := newAttemptLog(func(string, int) spool.Result { return spool.Result{Status: 200} })
		storetest.SetRoute(in, "r", spool.RouteConfig{Deliver: again.deliver})
		wait(time.Millisecond)
		require.Len(t, again.order, 1)
	})
}

func TestGivingUpANewConfigurationBringsBackTheOldOne(t *testing.T) {
	inBubble(t, func(t *testing.T, in *spool.Inbox) {
		old := newAttemptLog(func(string, int) spool.Result { return spool.Result{Status: 200} })
		storetest.SetRoute(in, "r", spool.RouteConfig{Deliver: old.deliver})
		release := storetest.SetRoute(
			in,
			"r",
			spool.RouteConfig{
				Deliver: func(context.Context, *spool.Message, spool.Body) spool.Result { panic("not this one") },
			},
		)
		release(t.Context())
		release(t.Context())
		accept(t, in, "a")
		wait(time.Millisecond)
		require.Len(t, old.order, 1)
	})
}

func TestAReleaseCancelsWhatTakesTooLongAndItIsDeliveredByTheNext(t *testing.T) {
	inBubble(t, func(t *testing.T, in *spool.Inbox) {
		old := newAttemptLog(nil)
		old.takes = time.Hour
		old.answer = func(string, int) spool.Result { return spool.Result{Status: 200} }
		release := storetest.SetRoute(in, "r", spool.RouteConfig{Deliver: old.deliver})
		receipt := accept(t, in, "a")
		wait(time.Second)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		release(ctx)
		wait(time.Second)
		msg, err := in.Get(context.Background(), receipt.ID)
		require.NoError(t, err)
		require.Zero(t, msg.Tries, "a cancelled attempt does not count")

		next := newAttemptLog(func(string, int) spool.Result { return spool.Result{Status: 200} })
		storetest.SetRoute(in, "r", spool.RouteConfig{Deliver: next.deliver})
		wait(time.Millisecond)
		require.Len(t, next.order, 1)
	})
}

func TestClosingLetsDeliveriesFinish(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		place := memory.NewPlace()
		in := spool.New(place.Open(), spool.Hooks{})
		log := newAttemptLog(func(string, int) spool.Result { return spool.Result{Status: 200} })
		log.takes = 3 * time.Second
		storetest.SetRoute(in, "r", spool.RouteConfig{Deliver: log.deliver, Concurrency: 1})
		accept(t, in, result("1", "x"))
		accept(t, in, result("2", "x"))
		wait(time.Second)
		began := time.Now()
		require.NoError(t, in.Close(t.Context()))
		require.Equal(t, 2*time.Second, time.Since(began))
		counts, err := place.Open().Counts(t.Context())
		require.NoError(t, err)
		require.Equal(t, int64(1), counts.Routes["r"].Pending, "one was delivered, the other not begun")
		_, err = in.Accept(t.Context(), spool.Envelope{Route: "r"}, strings.NewReader("x"))
		require.ErrorIs(t, err, spool.ErrClosed)
	})
}

func TestADeliveryThatPanicsIsAFailedAttempt(t *testing.T) {
	inBubble(t, func(t *testing.T, in *spool.Inbox) {
		storetest.SetRoute(
			in,
			"r",
			spool.RouteConfig{
				Deliver:  func(context.Context, *spool.Message, spool.Body) spool.Result { panic("oh") },
				RetryFor: time.Second,
			},
		)
		accept(t, in, "a")
		wait(time.Minute)
		dead, err := in.List(context.Background(), spool.Filter{State: spool.Dead})
		require.NoError(t, err)
		require.Len(t, dead, 1)
		require.Equal(t, "delivery panicked: oh", dead[0].LastError)
	})
}

func TestAStoreThatCannotLeaseIsAskedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := memory.NewPlace().Open()
		problems := 0
		in := spool.New(store, spool.Hooks{Problem: func(error) { problems++ }})
		store.FailLease(errConnect)
		log := newAttemptLog(func(string, int) spool.Result { return spool.Result{Status: 200} })
		storetest.SetRoute(in, "r", spool.RouteConfig{Deliver: log.deliver})
		accept(t, in, "a")
		wait(10 * time.Second)
		require.InDelta(t, 10, problems, 3)
		store.FailLease(nil)
		wait(2 * time.Second)
		require.Len(t, log.order, 1)
		require.NoError(t, in.Close(t.Context()))
	})
}

func TestParseRetryAfter(t *testing.T) {
	now := time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)
	for value, want := range map[string]time.Duration{
		"120":                           2 * time.Minute,
		"0":                             0,
		"-1":                            0,
		"":                              0,
		"soon":                          0,
		"99999999999999999999":          0,
		"Sun, 01 Nov 2026 12:00:30 GMT": 30 * time.Second,
		"Sun, 01 Nov 2026 11:00:30 GMT": 0,
	} {
		require.Equal(t, want, spool.ParseRetryAfter(value, now), value)
	}
}

func TestWhatCannotBeMadeARequestDiesAtOnceAndSaysNothingOfTheService(t *testing.T) {
	inBubble(t, func(t *testing.T, in *spool.Inbox) {
		log := newAttemptLog(func(body string, _ int) spool.Result {
			if strings.Contains(body, "bad") {
				return spool.Result{Err: fmt.Errorf("%w: stored URI", spool.ErrUndeliverable)}
			}
			return spool.Result{Status: 200}
		})
		in.TestHooks().Down = func(string, bool, string) { t.Error("the service was found to be down") }
		storetest.SetRoute(in, "r", spool.RouteConfig{Deliver: log.deliver, Concurrency: 1})
		for i := range 10 {
			accept(t, in, result(fmt.Sprint(i), "bad"))
		}
		accept(t, in, result("good", "x"))
		wait(time.Millisecond)
		stats := stats(t, in)
		require.Zero(t, stats.Pending)
		require.Equal(t, int64(10), stats.Dead)
		require.Equal(t, 11, log.tries())
	})
}

package spool_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-deepgram/deepgram-callback/internal/race"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/storetest"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/storetest/memory"
)

// neighbourhood is a service that takes good messages and does something else with bad ones.
type neighbourhood struct {
	mu       sync.Mutex
	bad      func(ctx context.Context) spool.Result
	taken    map[string]time.Time
	attempts []time.Time
	active   int
	peak     int
}

func (s *neighbourhood) deliver(
	ctx context.Context,
	_ *spool.Message,
	body spool.Body,
) spool.Result {
	b, _ := io.ReadAll(body)
	s.mu.Lock()
	s.attempts = append(s.attempts, time.Now())
	s.active++
	s.peak = max(s.peak, s.active)
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		s.active--
		s.mu.Unlock()
	}()
	select {
	case <-time.After(5 * time.Millisecond):
	case <-ctx.Done():
		return spool.Result{Err: context.Cause(ctx)}
	}
	if strings.HasPrefix(string(b), "bad") {
		return s.bad(ctx)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.taken[string(b)] = time.Now()
	return spool.Result{Status: http.StatusOK}
}

// tries counts the attempts within the last time.
func (s *neighbourhood) tries(within time.Duration) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, at := range s.attempts {
		if time.Since(at) < within {
			n++
		}
	}
	return n
}

func silence(ctx context.Context) spool.Result {
	select {
	case <-time.After(5 * time.Minute):
		return spool.Result{Err: errors.New("no answer in five minutes")}
	case <-ctx.Done():
		return spool.Result{Err: context.Cause(ctx)}
	}
}

func always(result spool.Result) func(context.Context) spool.Result {
	return func(context.Context) spool.Result { return result }
}

var troubles = map[string]func(context.Context) spool.Result{
	"503": always(spool.Result{Status: http.StatusServiceUnavailable}),
	"429": always(spool.Result{Status: http.StatusTooManyRequests}),
	"429 with Retry-After": always(
		spool.Result{Status: http.StatusTooManyRequests, RetryAfter: time.Hour},
	),
	"resets":        always(spool.Result{Err: errors.New("connection reset by peer")}),
	"no connection": always(spool.Result{Err: errConnect, Unreachable: true}),
	"500":           always(spool.Result{Status: http.StatusInternalServerError}),
	"no request":    always(spool.Result{Err: spool.ErrUndeliverable}),
	"silence":       silence,
}

// layouts say where the n-th bad message goes.
var layouts = map[string]func(n int) (host, uri string){
	"one URI":    func(int) (string, string) { return "bad.example", "/bad" },
	"many URIs":  func(n int) (string, string) { return "bad.example", fmt.Sprint("/bad/", n) },
	"many hosts": func(n int) (string, string) { return fmt.Sprint("bad-", n, ".example"), "/" },
}

// places are where good messages go, among them exactly where the bad ones do.
var places = [][2]string{{"good.example", "/"}, {"bad.example", "/good"}, {"bad.example", "/bad"}}

func put(t *testing.T, in *spool.Inbox, host, uri, body string) {
	t.Helper()
	_, err := in.Accept(
		t.Context(),
		spool.Envelope{Route: "r", Method: "POST", Host: host, URI: uri, ContentLength: -1},
		strings.NewReader(body),
	)
	require.NoError(t, err)
}

// Whatever bad messages do, good ones are delivered soon: those that come with them, those that
// come while their service is found to be down, and those that come after a restart.
func TestNobodyWaitsForBadNeighbours(t *testing.T) {
	for trouble, bad := range troubles {
		for layout, destination := range layouts {
			for _, count := range []int{3, 10, 300} {
				for _, concurrency := range []int{1, 4, 16} {
					if (testing.Short() || race.Enabled) && count == 300 &&
						(concurrency != 16 || layout != "many URIs") {
						continue // they take most of the time, and no other way through the code
					}
					name := fmt.Sprintf("%s/%s/%d bad/%d at a time", trouble, layout, count, concurrency)
					t.Run(name, func(t *testing.T) {
						synctest.Test(t, func(t *testing.T) {
							goodAmongBad(t, bad, destination, count, concurrency, trouble)
						})
					})
				}
			}
		}
	}
}

func goodAmongBad(
	t *testing.T,
	bad func(context.Context) spool.Result,
	destination func(int) (host, uri string),
	count, concurrency int,
	trouble string,
) {
	bound := 15 * time.Second
	if trouble == "silence" {
		bound = time.Minute
	}
	service := &neighbourhood{bad: bad, taken: make(map[string]time.Time)}
	config := spool.RouteConfig{Deliver: service.deliver, Concurrency: concurrency}
	place := memory.NewPlace()
	in := spool.New(place.Open(), spool.Hooks{})
	release := storetest.SetRoute(in, "r", config)

	came := make(map[string]time.Time)
	good := func(when string) {
		for i, place := range places {
			body := fmt.Sprint("good ", when, " ", i)
			came[body] = time.Now()
			put(t, in, place[0], place[1], body)
		}
	}
	// Among hundreds that are all alike, and that each hold a delivery until it is given up, one
	// cannot be found with few deliveries at a time; nor where there is no connection, of which few
	// are tried. What comes last can.
	hidden := trouble == "silence" && count == 300 && concurrency < 16 ||
		trouble == "no connection" && count == 300
	for n := range count {
		if n == count/2 && !hidden {
			good("among them")
		}
		host, uri := destination(n)
		put(t, in, host, uri, fmt.Sprint("bad ", n))
	}
	good("behind them")
	wait(bound)
	for _, pause := range []time.Duration{0, 40 * time.Second} {
		wait(pause)
		good(fmt.Sprint("after ", pause))
		wait(bound)
	}
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	release(cancelled)

	check := func() {
		service.mu.Lock()
		defer service.mu.Unlock()
		for body, at := range came {
			if taken, ok := service.taken[body]; !ok {
				t.Errorf("%s was not delivered", body)
			} else if taken.Sub(at) > bound {
				t.Errorf("%s was delivered after %s", body, taken.Sub(at))
			}
		}
		if service.peak > concurrency {
			t.Errorf("%d deliveries at a time", service.peak)
		}
	}
	check()

	// A restart knows nothing of what it finds.
	require.NoError(t, in.Close(cancelled))
	in = spool.New(place.Open(), spool.Hooks{})
	good("before the restart")
	release = storetest.SetRoute(in, "r", config)
	good("after the restart")
	wait(bound)
	if !hidden ||
		concurrency > 1 { // with one at a time it takes longer to find out again what is silent
		check()
	}
	release(cancelled)
	require.NoError(t, in.Close(cancelled))
}

// A service that takes nothing is asked again and again, but not hammered.
func TestAServiceThatIsDownIsNotHammered(t *testing.T) {
	for trouble, most := range map[string][2]int{ // attempts in the first 15 seconds, and in a minute later on
		"503":                  {480, 160},
		"resets":               {480, 160},
		"429 with Retry-After": {480, 160},
		"no connection":        {70, 110},
		"silence":              {200, 200},
	} {
		for layout, destination := range layouts {
			if (testing.Short() || race.Enabled) && layout != "many URIs" {
				continue
			}
			t.Run(trouble+"/"+layout, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					service := &neighbourhood{bad: troubles[trouble], taken: make(map[string]time.Time)}
					in := spool.New(memory.NewPlace().Open(), spool.Hooks{})
					for n := range 1000 {
						host, uri := destination(n)
						put(t, in, host, uri, fmt.Sprint("bad ", n))
					}
					release := storetest.SetRoute(in, "r", spool.RouteConfig{Deliver: service.deliver})
					wait(15 * time.Second)
					require.LessOrEqual(t, service.tries(time.Hour), most[0])
					wait(2 * time.Minute)
					require.LessOrEqual(t, service.tries(time.Minute), most[1])
					require.Positive(t, service.tries(time.Minute), "it is asked at least once a minute")
					require.True(t, stats(t, in).Routes["r"].Down)
					cancelled, cancel := context.WithCancel(t.Context())
					cancel()
					release(cancelled)
					require.NoError(t, in.Close(cancelled))
				})
			})
		}
	}
}

// When a service is back, what waits is delivered soon.
func TestWhatWaitedIsDeliveredSoonWhenTheServiceIsBack(t *testing.T) {
	for trouble, bad := range troubles {
		if trouble == "429 with Retry-After" || trouble == "no request" || trouble == "500" {
			continue // these have a time of their own, or none
		}
		for layout, destination := range layouts {
			if (testing.Short() || race.Enabled) && layout != "many URIs" {
				continue
			}
			t.Run(trouble+"/"+layout, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					service := &neighbourhood{bad: bad, taken: make(map[string]time.Time)}
					in := spool.New(memory.NewPlace().Open(), spool.Hooks{})
					release := storetest.SetRoute(in, "r", spool.RouteConfig{Deliver: service.deliver})
					for n := range 500 {
						host, uri := destination(n)
						put(t, in, host, uri, fmt.Sprint("bad ", n))
					}
					wait(5 * time.Minute)
					service.mu.Lock()
					service.bad = always(spool.Result{Status: http.StatusOK})
					service.mu.Unlock()
					wait(spool.MaxDelayWhileDown*6/5 + spool.MaxPatience)
					require.Zero(t, stats(t, in).Pending)
					release(t.Context())
					require.NoError(t, in.Close(t.Context()))
				})
			})
		}
	}
}

// A service that answers, if slowly, is not taken for one that never does, and gets each message
// once.
func TestASlowServiceGetsEachMessageOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := newAttemptLog(func(string, int) spool.Result { return spool.Result{Status: 200} })
		log.takes = 9 * time.Second
		in := spool.New(memory.NewPlace().Open(), spool.Hooks{})
		release := storetest.SetRoute(in, "r", spool.RouteConfig{Deliver: log.deliver, Concurrency: 2})
		for n := range 20 {
			put(t, in, "h", "/", fmt.Sprint(n))
		}
		wait(2 * time.Minute)
		require.Zero(t, stats(t, in).Pending)
		require.Equal(t, 20, log.tries())
		release(t.Context())
		require.NoError(t, in.Close(t.Context()))
	})
}

// While nobody waits, an attempt has all the time that a delivery takes.
func TestAnAttemptThatNobodyWaitsForIsNotGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := newAttemptLog(func(string, int) spool.Result { return spool.Result{Status: 200} })
		log.takes = 4 * time.Minute
		in := spool.New(memory.NewPlace().Open(), spool.Hooks{})
		release := storetest.SetRoute(in, "r", spool.RouteConfig{Deliver: log.deliver, Concurrency: 1})
		put(t, in, "h", "/", "slow")
		wait(5 * time.Minute)
		require.Zero(t, stats(t, in).Pending)
		require.Equal(t, 1, log.tries())
		release(t.Context())
		require.NoError(t, in.Close(t.Context()))
	})
}

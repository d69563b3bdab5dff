package simulator

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
)

// fakeReceiver answers attempts without sockets, as in a synctest bubble.
type fakeReceiver struct {
	start    time.Time
	statuses []int // in turn; the last one again and again; zero is an error
	takes    time.Duration
	times    []time.Duration
	requests []*http.Request
	bodies   []string
}

func (r *fakeReceiver) RoundTrip(req *http.Request) (*http.Response, error) {
	r.times = append(r.times, time.Since(r.start))
	r.requests = append(r.requests, req)
	body, err := io.ReadAll(req.Body)
	if err != nil {
		return nil, err
	}
	r.bodies = append(r.bodies, string(body))
	if err := wait(req.Context(), r.takes); err != nil {
		return nil, err
	}
	status := r.statuses[min(len(r.times), len(r.statuses))-1]
	if status == 0 {
		return nil, errors.New("connection refused")
	}
	return &http.Response{
		StatusCode: status,
		Header:     http.Header{"Location": {"/elsewhere"}},
		Body:       http.NoBody,
		Request:    req,
	}, nil
}

// newSender has the documented defaults.
func newSender(receiver *fakeReceiver) (*sender, *observer.ObservedLogs) {
	receiver.start = time.Now()
	s := &sender{
		transport:  receiver,
		retries:    defaultRetries,
		retryDelay: defaultRetryDelay,
		timeout:    defaultTimeout,
	}
	core, logs := observer.New(zapcore.DebugLevel)
	s.logger.Store(zap.New(core))
	return s, logs
}

func testCallback(t *testing.T) *callback {
	t.Helper()
	policy := urlPolicy{anyPort: true}
	target, err := policy.parse("http://user:hunter2@localhost:9/path?secret=hunter2", batchSchemes)
	require.NoError(t, err)
	return &callback{
		requestID:   "id",
		kind:        "prerecorded",
		method:      "POST",
		target:      target,
		keyID:       "key-id",
		contentType: "application/json",
		body:        []byte("{}"),
	}
}

func TestRetriesTenTimesThirtySecondsApart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		receiver := &fakeReceiver{statuses: []int{503}}
		s, logs := newSender(receiver)
		require.Error(t, s.deliver(t.Context(), defaultLatency, testCallback(t)))

		require.Len(t, receiver.times, 11)
		for i, at := range receiver.times {
			require.Equal(t, 500*time.Millisecond+time.Duration(i)*30*time.Second, at)
		}
		require.Equal(t, 11,
			logs.FilterMessage("callback attempt failed").FilterField(zap.Int("status", 503)).Len())
		require.Equal(t, 1, logs.FilterMessage("callback lost").Len())
	})
}

func TestRetriesUntilTheReceiverTakesIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		receiver := &fakeReceiver{statuses: []int{500, 0, 404, 204}}
		s, logs := newSender(receiver)
		require.NoError(t, s.deliver(t.Context(), 0, testCallback(t)))
		require.Equal(t, []time.Duration{0, 30 * time.Second, 60 * time.Second, 90 * time.Second},
			receiver.times)
		require.Equal(t, []string{"{}", "{}", "{}", "{}"}, receiver.bodies)
		require.Equal(t, 1,
			logs.FilterMessage("callback delivered").FilterField(zap.Int("attempt", 4)).Len())
	})
}

func TestOnlySuccessIsSuccess(t *testing.T) {
	for status, success := range map[int]bool{
		200: true,
		201: true,
		204: true,
		299: true,
		300: false,
		302: false,
		307: false,
		400: false,
		401: false,
		410: false,
		500: false,
	} {
		synctest.Test(t, func(t *testing.T) {
			receiver := &fakeReceiver{statuses: []int{status}}
			s, _ := newSender(receiver)
			s.retries = 0
			err := s.deliver(t.Context(), 0, testCallback(t))
			require.Equal(t, success, err == nil, status)
			require.Len(t, receiver.requests, 1, "a redirect is not followed")
		})
	}
}

func TestAttemptIsGivenUpAfterTheTimeLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		receiver := &fakeReceiver{statuses: []int{200}, takes: time.Hour}
		s, _ := newSender(receiver)
		s.retries = 1
		require.ErrorIs(t, s.deliver(t.Context(), 0, testCallback(t)), context.DeadlineExceeded)
		require.Equal(t, []time.Duration{0, 40 * time.Second}, receiver.times,
			"10 s for the attempt, 30 s of delay")
	})
}

func TestTimeLimitGrowsWithASlowUpload(t *testing.T) {
	s := &sender{timeout: 10 * time.Second, uploadRate: 100}
	require.Equal(t, 30*time.Second, s.limit(2000))
	s.uploadRate = 0
	require.Equal(t, 10*time.Second, s.limit(2000))
}

func TestAddressThatMayNotBeCalledIsNotTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, logs := newSender(&fakeReceiver{})
		s.transport = roundTripper(func(*http.Request) (*http.Response, error) {
			return nil, &url.Error{Op: "Post", URL: "http://x", Err: errAddress}
		})
		require.ErrorIs(t, s.deliver(t.Context(), 0, testCallback(t)), errAddress)
		require.Equal(t, 1, logs.FilterMessage("callback attempt failed").Len())
	})
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func TestDuplicateFaultSendsAgainAfterSuccess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		receiver := &fakeReceiver{statuses: []int{500, 200}}
		s, _ := newSender(receiver)
		s.duplicate = true
		require.NoError(t, s.deliver(t.Context(), 0, testCallback(t)))
		require.Len(t, receiver.requests, 3)
		require.NoError(t, s.once(t.Context(), testCallback(t)))
		require.Len(t, receiver.requests, 5)
	})
}

func TestShutdownEndsTheWaitBetweenAttempts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		receiver := &fakeReceiver{statuses: []int{500}}
		s, logs := newSender(receiver)
		box := newOutbox()
		require.True(t,
			box.later(2, func(ctx context.Context) { _ = s.deliver(ctx, 0, testCallback(t)) }))
		synctest.Wait()
		require.Len(t, receiver.times, 1)

		require.NoError(t, box.Destruct())
		lost := logs.FilterMessage("callback lost").All()
		require.Len(t, lost, 1)
		require.Equal(t, errShutdown.Error(), lost[0].ContextMap()["error"])
		require.False(t, box.later(2, nil), "a closed outbox takes nothing")
	})
}

func TestLogsTellNoSecrets(t *testing.T) {
	for _, status := range []int{200, 500, 0} {
		synctest.Test(t, func(t *testing.T) {
			s, logs := newSender(&fakeReceiver{statuses: []int{status}})
			_ = s.deliver(t.Context(), 0, testCallback(t))
			require.NotEmpty(t, logs.All())
			for _, entry := range logs.All() {
				encoder := zapcore.NewJSONEncoder(zapcore.EncoderConfig{MessageKey: "m"})
				encoded, err := encoder.EncodeEntry(entry.Entry, entry.Context)
				require.NoError(t, err)
				line := encoded.String()
				require.False(t, strings.Contains(line, "hunter2") || strings.Contains(line, "key-id"), line)
				require.Contains(t, line, `"host":"localhost:9"`)
				require.Contains(t, line, `"path":"/path"`)
			}
		})
	}
}

package disk

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/disk/internal/disktest"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/storetest"
)

func TestMain(m *testing.M) {
	if isChild() {
		runChild()
		return
	}
	goleak.VerifyTestMain(m)
}

// service records what is delivered to it, and answers as it is told.
type service struct {
	mu        sync.Mutex
	delivered []string
	attempts  int
	answer    func(body string) spool.Result
	changed   chan struct{}
}

func newService() *service {
	return &service{changed: make(chan struct{}, 1)}
}

func (s *service) deliver(_ context.Context, msg *spool.Message, body spool.Body) spool.Result {
	b, err := io.ReadAll(body)
	if err != nil {
		return spool.Result{Err: err}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.attempts++
	result := spool.Result{Status: http.StatusOK}
	if s.answer != nil {
		result = s.answer(string(b))
	}
	if result.Outcome() == spool.OutcomeDelivered {
		s.delivered = append(s.delivered, string(b))
	}
	select {
	case s.changed <- struct{}{}:
	default:
	}
	return result
}

func (s *service) answers(answer func(body string) spool.Result) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answer = answer
}

func (s *service) bodies() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.delivered...)
}

// waitFor waits until so many bodies were delivered.
func (s *service) waitFor(t testing.TB, n int) []string {
	t.Helper()
	deadline := time.After(time.Minute)
	for {
		if b := s.bodies(); len(b) >= n {
			return b
		}
		select {
		case <-s.changed:
		case <-deadline:
			require.FailNow(t, "not delivered", "%d of %d", len(s.bodies()), n)
		}
	}
}

// requireNothingPending waits until what was delivered is recorded.
func requireNothingPending(t *testing.T, in *spool.Inbox) {
	t.Helper()
	eventually(t, func() error {
		if pending := stats(t, in).Pending; pending > 0 {
			return fmt.Errorf("%d pending", pending)
		}
		return nil
	})
}

// eventually repeats f until it succeeds.
func eventually(t *testing.T, f func() error) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			require.NoError(t, err)
		}
		time.Sleep(time.Millisecond)
	}
}

// requireOrder checks that the bodies of each request id come in the order of their texts' numbers.
func requireOrder(t *testing.T, bodies []string) {
	t.Helper()
	last := make(map[string]int)
	for _, body := range bodies {
		var parsed struct {
			Metadata struct {
				RequestID string `json:"request_id"`
			} `json:"metadata"`
		}
		require.NoError(t, json.NewDecoder(strings.NewReader(body)).Decode(&parsed))
		var n int
		_, err := fmt.Sscanf(body[strings.Index(body, `"text":`):], `"text":"%d"`, &n)
		require.NoError(t, err)
		id := parsed.Metadata.RequestID
		before, seen := last[id]
		require.True(t, !seen || before < n, "%d of %s after %d", n, id, before)
		last[id] = n
	}
}

var errConnect = errors.New("connection refused")

func accept(t testing.TB, in *spool.Inbox, body string) spool.Receipt {
	t.Helper()
	receipt, err := in.Accept(
		context.Background(),
		spool.Envelope{Route: "r", Method: "POST", URI: "/hook", ContentLength: -1},
		strings.NewReader(body),
	)
	require.NoError(t, err)
	return receipt
}

func result(id, text string) string {
	return fmt.Sprintf(`{"metadata":{"request_id":%q},"text":%q}`, id, text)
}

// inboxOptions are those of an inbox and its store.
type inboxOptions struct {
	Options
	Hooks spool.Hooks
}

func openInbox(dir string, options inboxOptions) (*spool.Inbox, error) {
	if options.Options.Events.Problem == nil {
		options.Options.Events.Problem = options.Hooks.Problem
	}
	store, err := Open(dir, options.Options)
	if err != nil {
		return nil, err
	}
	return spool.New(store, options.Hooks), nil
}

func stats(t testing.TB, in *spool.Inbox) spool.Stats {
	t.Helper()
	stats, err := in.Stats(context.Background())
	require.NoError(t, err)
	return stats
}

func openTestInbox(t testing.TB, dir string, options inboxOptions) *spool.Inbox {
	t.Helper()
	in, err := openInbox(dir, options)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, in.Close(context.Background())) })
	return in
}

func TestInboxDeliversWhatItAccepted(t *testing.T) {
	in := openTestInbox(t, disktest.TempDir(t), inboxOptions{})
	svc := newService()
	defer storetest.SetRoute(in, "r", spool.RouteConfig{Deliver: svc.deliver})(context.Background())

	var want []string
	for i := range 50 {
		body := result(fmt.Sprint("id", i%7), fmt.Sprint(i))
		want = append(want, body)
		require.False(t, accept(t, in, body).Duplicate)
	}
	require.ElementsMatch(t, want, svc.waitFor(t, 50))
	require.True(t, accept(t, in, want[3]).Duplicate)
	requireNothingPending(t, in)
}

func TestInboxDeliversLargeBodies(t *testing.T) {
	in := openTestInbox(t, disktest.TempDir(t), inboxOptions{})
	svc := newService()
	defer storetest.SetRoute(in, "r", spool.RouteConfig{Deliver: svc.deliver})(context.Background())
	large := result("x", string(bytes.Repeat([]byte("a"), 3<<20)))
	accept(t, in, large)
	require.Equal(t, large, svc.waitFor(t, 1)[0])
}

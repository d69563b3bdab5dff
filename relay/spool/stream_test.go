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
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/identity"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/seal"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/storetest"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/storetest/memory"
)

// A streamService takes the messages of streams, and keeps what came: for each one text with its
// body and what its header fields say.
type streamService struct {
	mu     sync.Mutex
	came   []string
	header http.Header // of the last one
	fail   func(body string) bool
}

func (s *streamService) deliver(_ context.Context, m *spool.Message, body spool.Body) spool.Result {
	content, err := io.ReadAll(body)
	if err != nil {
		return spool.Result{Err: err}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fail != nil && s.fail(string(content)) {
		return spool.Result{Status: http.StatusBadGateway}
	}
	s.header = m.Header
	s.came = append(s.came, strings.TrimSpace(fmt.Sprintf("%s %s %s %s", m.Header.Get(spool.HeaderStreamID),
		m.Header.Get(spool.HeaderStreamSequence), content, m.Header.Get(spool.HeaderStreamEnd))))
	return spool.Result{Status: http.StatusOK}
}

func (s *streamService) got() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string{}, s.came...)
}

func handshake() spool.Envelope {
	return spool.Envelope{
		Route: "r", Method: "POST", Host: "h", User: "ann", URI: "/live?tenant=1",
		Header: http.Header{"X-Tenant": {"one\xff"}, "Content-Type": {"text/odd"}},
	}
}

func openStream(t testing.TB, in *spool.Inbox, id string) *spool.Stream {
	t.Helper()
	s, err := in.OpenStream(t.Context(), id, handshake())
	require.NoError(t, err)
	return s
}

func say(t testing.TB, s *spool.Stream, text string) spool.Receipt {
	t.Helper()
	m, err := s.Begin(t.Context(), "application/json")
	require.NoError(t, err)
	_, err = io.WriteString(m, text)
	require.NoError(t, err)
	receipt, err := m.Accept(t.Context())
	require.NoError(t, err)
	return receipt
}

func TestMessagesOfAStreamAreDeliveredInOrderWhateverOrderBySays(t *testing.T) {
	for _, order := range []identity.OrderBy{identity.OrderByRequestID, identity.OrderByURI, identity.OrderByNone} {
		t.Run(string(order), func(t *testing.T) {
			inBubble(t, func(t *testing.T, in *spool.Inbox) {
				failures := 0
				service := &streamService{fail: func(body string) bool {
					if strings.Contains(body, "2") && failures < 3 {
						failures++
						return true
					}
					return false
				}}
				storetest.SetRoute(in, "r", spool.RouteConfig{Deliver: service.deliver, OrderBy: order})
				s, other := openStream(t, in, "s1"), openStream(t, in, "s2")
				// They are equal but for their order, and so would be duplicates.
				for range 3 {
					require.False(t, say(t, s, result("x", "2")).Duplicate)
				}
				require.False(t, say(t, other, result("x", "1")).Duplicate)
				wait(time.Millisecond)
				require.Equal(t, []string{"s2 1 " + result("x", "1")}, service.got(),
					"another stream does not wait")
				s.End(t.Context(), "closed")
				wait(10 * time.Minute)
				var want []string
				for n := 1; n <= 3; n++ {
					want = append(want, fmt.Sprintf("s1 %d %s", n, result("x", "2")))
				}
				require.Equal(t, append(want, "s1 4  closed"), service.got()[1:])
				require.Equal(t, http.Header{
					"X-Tenant": {"one\xff"}, spool.HeaderStreamID: {"s1"},
					spool.HeaderStreamSequence: {"4"}, spool.HeaderStreamEnd: {"closed"},
				}, service.header)
				require.Zero(t, stats(t, in).Pending)
			})
		})
	}
}

// The next process has the end delivered of a stream whose process died.
func TestAStreamWhoseProcessDiedIsLost(t *testing.T) {
	for name, encrypt := range map[string]*seal.Keys{"plain": nil, "encrypted": keys(t, "a")} {
		t.Run(name, func(t *testing.T) {
			place := memory.NewPlace()
			first := spool.New(place.Open(), spool.Hooks{})
			storetest.SetRoute(first, "r", spool.RouteConfig{
				Deliver: func(context.Context, *spool.Message, spool.Body) spool.Result {
					return spool.Result{Err: errConnect}
				},
				Encrypt: encrypt, RetryDelays: []time.Duration{time.Millisecond},
			})
			s, over := openStream(t, first, "s1"), openStream(t, first, "s2")
			openStream(t, first, "s3").Cancel(t.Context())
			say(t, s, "a")
			say(t, s, "b")
			say(t, over, "c")
			over.End(t.Context(), "silent")
			require.NoError(t, first.Close(t.Context())) // to a stream, it is as if it had died

			in := newInbox(t, place.Open())
			service := &streamService{}
			storetest.SetRoute(in, "r", spool.RouteConfig{
				Deliver: service.deliver, Encrypt: encrypt, Keep: time.Hour,
			})
			want := []string{"s1 1 a", "s1 2 b", "s1   " + spool.StreamLost, "s2 1 c", "s2 2  silent"}
			require.Eventually(t, func() bool { return len(service.got()) == len(want) },
				10*time.Second, time.Millisecond)
			var of1, of2 []string
			for _, came := range service.got() {
				if strings.HasPrefix(came, "s1") {
					of1 = append(of1, came)
				} else {
					of2 = append(of2, came)
				}
			}
			require.Equal(t, want, append(of1, of2...))
			end := list(t, in, spool.Filter{Newest: true, Limit: 1})[0]
			require.Equal(t, "/live?tenant=1", end.URI)
			require.Equal(t, "ann", end.User)
			require.Equal(t, []string{"one\xff"}, end.Header["X-Tenant"])
			lost, err := in.Store().LostStreams(t.Context())
			require.NoError(t, err)
			require.Empty(t, lost)
		})
	}
}

func TestNothingOfAStreamIsStoredInPlainTextWhereItIsEncrypted(t *testing.T) {
	store := &spyStore{Store: memory.NewPlace().Open()}
	in := newInbox(t, store)
	service := &streamService{}
	release := storetest.SetRoute(in, "r", spool.RouteConfig{Deliver: service.deliver, Encrypt: keys(t, "a")})
	s := openStream(t, in, "s1")
	require.NoError(t, in.Pause(t.Context(), "r", true))
	release(t.Context()) // the stream outlives its configuration
	id := say(t, s, "a secret").ID
	require.NotContains(t, string(store.data), "tenant")
	body, err := store.Body(t.Context(), id)
	require.NoError(t, err)
	content, err := io.ReadAll(body)
	require.NoError(t, err)
	require.NotContains(t, string(content), "secret")
	msg, err := store.Get(t.Context(), id)
	require.NoError(t, err)
	require.NotContains(t, fmt.Sprint(msg.Header), "one")
}

// A spyStore shows what it is given, and may be away.
type spyStore struct {
	spool.Store
	mu   sync.Mutex
	data []byte
	away error
}

func (s *spyStore) NoteStream(ctx context.Context, stream spool.OpenStream) error {
	s.data = stream.Data
	if err := s.isAway(); err != nil {
		return err
	}
	return s.Store.NoteStream(ctx, stream)
}

func (s *spyStore) NewBody(ctx context.Context, size int64) (spool.BodyWriter, error) {
	if err := s.isAway(); err != nil {
		return nil, err
	}
	return s.Store.NewBody(ctx, size)
}

func (s *spyStore) ForgetStream(ctx context.Context, id string) error {
	if err := s.isAway(); err != nil {
		return err
	}
	return s.Store.ForgetStream(ctx, id)
}

func (s *spyStore) isAway() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.away
}

func (s *spyStore) setAway(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.away = err
}

// What cannot be made safe at a stream's end is made so once it can.
func TestTheEndOfAStreamIsNotLostWhereTheStoreIsAway(t *testing.T) {
	inBubble(t, func(t *testing.T, _ *spool.Inbox) {
		store := &spyStore{Store: memory.NewPlace().Open()}
		refused := 0
		in := spool.New(store, spool.Hooks{Refused: func(route string, _ spool.Reason) {
			require.Equal(t, "r", route)
			refused++
		}})
		defer func() { require.NoError(t, in.Close(context.Background())) }()
		service := &streamService{}
		storetest.SetRoute(in, "r", spool.RouteConfig{Deliver: service.deliver})
		s := openStream(t, in, "s1")
		say(t, s, "a")
		away := &spool.RefusedError{Reason: spool.ReasonUnavailable, Err: errors.New("away")}
		store.setAway(away)
		_, err := s.Begin(t.Context(), "text/plain")
		require.ErrorIs(t, err, away)
		_, err = in.OpenStream(t.Context(), "s2", handshake())
		require.ErrorIs(t, err, away)
		require.Equal(t, 2, refused)
		s.End(t.Context(), "spool")
		wait(time.Minute)
		require.Equal(t, []string{"s1 1 a"}, service.got())
		store.setAway(nil)
		wait(time.Minute)
		require.Equal(t, []string{"s1 1 a", "s1 3  spool"}, service.got())
		wait(time.Hour)
		require.Len(t, service.got(), 2, "an end comes once")
	})
}

// An end that was accepted, and whose stream could not be forgotten, does not come again.
func TestAnEndComesOnce(t *testing.T) {
	place := memory.NewPlace()
	store := place.Open()
	in := spool.New(store, spool.Hooks{})
	service := &streamService{}
	storetest.SetRoute(in, "r", spool.RouteConfig{Deliver: service.deliver})
	s := openStream(t, in, "s1")
	s.End(t.Context(), "closed")
	require.NoError(t, store.NoteStream(t.Context(), spool.OpenStream{ID: "s1", Route: "r", Data: spyOn(t)}))
	require.NoError(t, in.Close(t.Context()))

	again := newInbox(t, place.Open())
	storetest.SetRoute(again, "r", spool.RouteConfig{Deliver: service.deliver})
	require.Eventually(t, func() bool {
		lost, err := again.Store().LostStreams(t.Context())
		return err == nil && len(lost) == 0
	}, 10*time.Second, time.Millisecond)
	require.Eventually(t, func() bool { return stats(t, again).Pending == 0 }, 10*time.Second, time.Millisecond)
	require.Equal(t, []string{"s1 1  closed"}, service.got())
}

// spyOn returns what is stored of a stream.
func spyOn(t testing.TB) []byte {
	t.Helper()
	store := &spyStore{Store: memory.NewPlace().Open()}
	openStream(t, newInbox(t, store), "s1")
	return store.data
}

// What is stored of a stream may be damaged: that is said, and holds nothing up.
func TestWhatIsStoredOfAStreamMayBeDamaged(t *testing.T) {
	for name, data := range map[string][]byte{
		"nothing": {}, "of another kind": []byte("x"), "no JSON": []byte("p{"), "sealed by nobody": []byte("s"),
		"sealed by an unknown key": []byte("s0123456789abcdef0123456789abcdef0123456789abcdef"),
	} {
		t.Run(name, func(t *testing.T) {
			place := memory.NewPlace()
			store := place.Open()
			require.NoError(t, store.NoteStream(t.Context(), spool.OpenStream{ID: "s1", Route: "r", Data: data}))
			require.NoError(t, store.Close(t.Context()))
			problems := make(chan error, 9)
			in := spool.New(place.Open(), spool.Hooks{Problem: func(err error) { problems <- err }})
			defer func() { require.NoError(t, in.Close(context.Background())) }()
			storetest.SetRoute(in, "r", spool.RouteConfig{Deliver: (&streamService{}).deliver, Encrypt: keys(t, "a")})
			require.ErrorContains(t, <-problems, "the end of stream s1 cannot be delivered")
			require.Eventually(t, func() bool {
				lost, err := in.Store().LostStreams(t.Context())
				return err == nil && len(lost) == 0
			}, 10*time.Second, time.Millisecond)
		})
	}
}

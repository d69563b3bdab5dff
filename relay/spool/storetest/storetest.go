// Package storetest has the contract of a spool.Store as tests. A store runs them with one call:
//
//	func TestTheContract(t *testing.T) {
//		storetest.Run(t, storetest.Factory{New: func(t testing.TB) func() spool.Store {
//			dir := t.TempDir()
//			return func() spool.Store { return open(t, dir) }
//		}})
//	}
//
// What only one engine has, such as a disk that loses power, is tested beside that engine.
package storetest

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
)

// Factory says how the tests come by stores.
type Factory struct {
	// New makes an empty place for messages: a directory, a database. The function that it returns
	// opens a store there, and again one that finds what was there before, after the first was closed.
	New func(t testing.TB) (open func() spool.Store)

	// Shared says that several stores may be open at one place.
	Shared bool

	// Abandon ends a store as if its process had died. It is nil where that cannot be done.
	Abandon func(store spool.Store)

	// LeaseTime is how long the leases of an abandoned store last. It should be short.
	LeaseTime time.Duration
}

// Run runs all tests.
func Run(t *testing.T, f Factory) {
	for name, tests := range map[string]map[string]func(*harness){
		"durability": durability, "order": order, "leases": leases, "duplicates": duplicates, "operator": operator,
		"history": history, "bodies": bodies, "limits": limits, "concurrency": concurrency,
		"streams": streams,
		"copying": copying,
	} {
		t.Run(name, func(t *testing.T) { runAll(t, f, tests) })
	}
	t.Run("model", func(t *testing.T) { compareWithModel(t, f) })
	if f.Shared {
		t.Run("shared", func(t *testing.T) { runAll(t, f, shared) })
	}
}

func runAll(t *testing.T, f Factory, tests map[string]func(*harness)) {
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			h := &harness{T: t, factory: f, open: f.New(t)}
			h.start()
			defer func() { h.close() }()
			test(h)
		})
	}
}

// harness is a store under test and what makes it easy to use.
type harness struct {
	*testing.T
	factory Factory
	open    func() spool.Store
	spool.Store
	watched chan string
}

// patience is how long something may take that a store does in its own time.
const patience = 30 * time.Second

const (
	route       = "calls"
	otherRoute  = "speech"
	longWindow  = time.Hour
	defaultWait = time.Hour // of a retry that is not to come in this test
)

func (h *harness) start() {
	h.Helper()
	h.Store = h.open()
	h.watched = watch(h.Store)
}

// watch returns a channel that has an element after the store called its watcher.
func watch(store spool.Store) chan string {
	watched := make(chan string, 1)
	store.Watch(func(route string) {
		select {
		case watched <- route:
		default:
		}
	})
	return watched
}

func (h *harness) close() {
	if h.Store != nil {
		require.NoError(h, h.Store.Close(h.background()))
		h.Store = nil
	}
}

// background is a context that ends with nothing, since stores are closed with it too.
func (h *harness) background() context.Context { return context.Background() }

// reopen closes the store and opens it again.
func (h *harness) reopen() {
	h.Helper()
	h.close()
	h.start()
}

// sample is what a test accepts.
type sample struct {
	route       string
	key         uint64
	text        string
	requestID   string
	user        string
	destination spool.Destination
	repeatable  bool // has no fingerprint
	window      time.Duration
}

func (s sample) message() *spool.Message {
	name := s.route
	if name == "" {
		name = route
	}
	return &spool.Message{
		Route: name, Method: http.MethodPost, URI: "/hook?a=b", Header: http.Header{"Content-Type": {"application/json"}},
		OrderKey: s.key, RequestID: s.requestID, User: s.user, Destination: s.destination,
	}
}

func (s sample) fingerprint() spool.Fingerprint {
	if s.repeatable {
		return spool.Fingerprint{}
	}
	return sha256.Sum256([]byte(s.text))
}

// put has a store accept a sample.
func put(ctx context.Context, store spool.Store, s sample) (spool.Receipt, error) {
	body, err := store.NewBody(ctx, int64(len(s.text)))
	if err != nil {
		return spool.Receipt{}, err
	}
	if _, err := io.WriteString(body, s.text); err != nil {
		body.Discard()
		return spool.Receipt{}, err
	}
	window := s.window
	if window == 0 {
		window = longWindow
	}
	return store.Accept(ctx, s.message(), s.fingerprint(), window, body)
}

// accept has a sample accepted, as a new message.
func (h *harness) accept(s sample) spool.ID {
	h.Helper()
	receipt, err := put(h.background(), h.Store, s)
	require.NoError(h, err)
	require.False(h, receipt.Duplicate)
	require.Equal(h, int64(len(s.text)), receipt.Size)
	return receipt.ID
}

// acceptMany has n texts accepted with one key.
func (h *harness) acceptMany(n int, key uint64) (ids []spool.ID) {
	h.Helper()
	for i := range n {
		ids = append(ids, h.accept(sample{key: key, text: fmt.Sprint("message ", i, " of ", key)}))
	}
	return ids
}

// leaseAll leases what can be leased until the store has no more, but at most limit.
func (h *harness) leaseAll(request spool.LeaseRequest) []*spool.Lease {
	h.Helper()
	return leaseAll(h, h.Store, request)
}

// tester is what is common to tests of both kinds.
type tester interface {
	require.TestingT
	Helper()
}

// leaseAll leases what was not tried and, where the request is not for that alone, what was tried.
func leaseAll(t tester, store spool.Store, request spool.LeaseRequest) (all []*spool.Lease) {
	t.Helper()
	for _, tried := range []bool{request.Tried, true} {
		request.Tried = tried
		leased := leaseClass(t, store, request)
		all = append(all, leased...)
		request.Max -= len(leased)
	}
	return all
}

// leaseClass asks again while it gets something, and once more after that, since a store may give
// less than it has.
func leaseClass(t tester, store spool.Store, request spool.LeaseRequest) (all []*spool.Lease) {
	t.Helper()
	for empty := 0; empty < 3 && request.Max > 0; empty++ {
		leased, err := store.Lease(context.Background(), request)
		require.NoError(t, err)
		require.LessOrEqual(t, len(leased.Leases), request.Max)
		if len(leased.Leases) > 0 {
			empty = 0
		}
		all = append(all, leased.Leases...)
		request.Max -= len(leased.Leases)
		if request.Max > 0 {
			require.NoError(t, store.Flush(context.Background()))
		}
	}
	return all
}

// leaseOne leases the one message that can be leased.
func (h *harness) leaseOne() *spool.Lease {
	h.Helper()
	leased := h.leaseAll(spool.LeaseRequest{Route: route, Max: 100})
	require.Len(h, leased, 1)
	return leased[0]
}

// leaseFor waits until the store gives something.
func leaseFor(t testing.TB, store spool.Store, request spool.LeaseRequest) []*spool.Lease {
	t.Helper()
	var leased []*spool.Lease
	eventually(t, func() bool {
		leased = leaseAll(t, store, request)
		return len(leased) > 0
	})
	return leased
}

// eventually waits for something that a store does in its own time.
func eventually(t testing.TB, condition func() bool) {
	t.Helper()
	require.Eventually(t, condition, patience, 5*time.Millisecond)
}

// requireNone shows that nothing can be leased.
func (h *harness) requireNone() {
	h.Helper()
	require.Empty(h, idsOf(h.leaseAll(spool.LeaseRequest{Route: route, Max: 100})))
}

func idsOf(leased []*spool.Lease) (ids []spool.ID) {
	for _, lease := range leased {
		ids = append(ids, lease.Message.ID)
	}
	return ids
}

func listed(list []*spool.Message) (ids []spool.ID) {
	for _, m := range list {
		ids = append(ids, m.ID)
	}
	return ids
}

func (h *harness) settle(lease *spool.Lease, verdict spool.Verdict) {
	h.Settle(lease, settlementOf(verdict))
}

// settlementOf is a settlement with what belongs to the verdict.
func settlementOf(verdict spool.Verdict) spool.Settlement {
	s := spool.Settlement{Verdict: verdict, Attempt: attempt(verdict)}
	if verdict == spool.Retry {
		s.Delay = defaultWait
	}
	return s
}

func attempt(verdict spool.Verdict) spool.Attempt {
	a := spool.Attempt{
		At:       time.UnixMilli(1790000000123),
		Took:     42 * time.Millisecond,
		Status:   http.StatusOK,
		Upstream: "10.0.0.1:80",
		Gateway:  "a",
	}
	if verdict != spool.Done {
		a.Status, a.Error = http.StatusInternalServerError, "the service answered 500 Internal Server Error"
	}
	return a
}

func (h *harness) flush() {
	h.Helper()
	require.NoError(h, h.Flush(h.background()))
}

func (h *harness) get(id spool.ID) *spool.Message {
	h.Helper()
	m, err := h.Get(h.background(), id)
	require.NoError(h, err)
	require.Equal(h, id, m.ID)
	return m
}

func (h *harness) requireGone(id spool.ID) {
	h.Helper()
	_, err := h.Get(h.background(), id)
	require.ErrorIs(h, err, spool.ErrNotFound)
	_, err = h.Body(h.background(), id)
	require.ErrorIs(h, err, spool.ErrNotFound)
}

func (h *harness) list(filter spool.Filter) []*spool.Message {
	h.Helper()
	list, err := h.List(h.background(), filter)
	require.NoError(h, err)
	require.NotNil(h, list, "an empty JSON array, not null")
	return list
}

func (h *harness) count(filter spool.Filter) int64 {
	h.Helper()
	n, err := h.Count(h.background(), filter)
	require.NoError(h, err)
	return n
}

func (h *harness) counts() spool.Counts {
	h.Helper()
	counts, err := h.Counts(h.background())
	require.NoError(h, err)
	return counts
}

func (h *harness) requireBody(id spool.ID, want string) {
	h.Helper()
	body, err := h.Body(h.background(), id)
	require.NoError(h, err)
	require.Equal(h, int64(len(want)), body.Size())
	got, err := io.ReadAll(body)
	require.NoError(h, err)
	require.True(h, want == string(got), "the bytes are those that were accepted")
	require.NoError(h, body.Close())
}

// waitForWatch waits for the watcher to be called.
func (h *harness) waitForWatch(watched chan string, want string) {
	h.Helper()
	timeout := time.After(patience)
	for {
		select {
		case got := <-watched:
			if got == want || got == "" {
				return
			}
		case <-timeout:
			require.FailNow(h, "nobody was told")
		}
	}
}

func drain(watched chan string) {
	select {
	case <-watched:
	default:
	}
}

// inParallel runs n functions at once and waits for them.
func inParallel(n int, f func(i int)) {
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() { f(i) })
	}
	all.Wait()
}

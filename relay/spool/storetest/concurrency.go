package storetest

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
)

var concurrency = map[string]func(*harness){
	"senders, deliveries and an operator at once": func(h *harness) {
		everythingAtOnce(h, []spool.Store{h.Store})
	},
}

// ledger sees to it that messages are delivered one at a time, each of a key in its place.
type ledger struct {
	mu        sync.Mutex
	busy      map[uint64]spool.ID
	last      map[uint64]spool.ID
	delivered map[spool.ID]int
	accepted  map[spool.ID]bool
	problems  []string
}

func newLedger() *ledger {
	return &ledger{
		busy:      make(map[uint64]spool.ID),
		last:      make(map[uint64]spool.ID),
		delivered: make(map[spool.ID]int),
		accepted:  make(map[spool.ID]bool),
	}
}

func (l *ledger) problem(format string, args ...any) {
	if len(l.problems) < 10 {
		l.problems = append(l.problems, fmt.Sprintf(format, args...))
	}
}

func (l *ledger) begin(m *spool.Message) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if m.OrderKey == 0 {
		return
	}
	if other, ok := l.busy[m.OrderKey]; ok {
		l.problem("%s and %s of the same key at once", other, m.ID)
	}
	l.busy[m.OrderKey] = m.ID
	if last := l.last[m.OrderKey]; m.ID.Compare(last) <= 0 {
		l.problem("%s of key %d after %s was delivered", m.ID, m.OrderKey, last)
	}
}

func (l *ledger) end(m *spool.Message, done bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.busy, m.OrderKey)
	if done {
		l.last[m.OrderKey] = m.ID
		l.delivered[m.ID]++
	}
}

func everythingAtOnce(h *harness, stores []spool.Store) {
	const senders, keys = 8, 5
	each := 40
	if testing.Short() {
		each = 15
	}
	l := newLedger()
	ctx, cancel := context.WithCancel(h.background())
	defer cancel()
	var deliverers sync.WaitGroup
	for i, store := range stores {
		watched := watch(store)
		for range 3 {
			deliverers.Go(func() { deliverUntil(ctx, h, store, watched, l) })
		}
		deliverers.Go(func() { lookUntil(ctx, h, store) })
		if i == 0 {
			h.watched = watched
		}
	}
	inParallel(senders, func(n int) {
		for i := range each {
			store := stores[(n+i)%len(stores)]
			receipt, err := put(
				h.background(),
				store,
				sample{text: fmt.Sprint(n/2, " ", i), key: uint64((n/2 + i) % keys)},
			)
			if err != nil {
				h.Error(err)
				return
			}
			l.mu.Lock()
			l.accepted[receipt.ID] = true
			l.mu.Unlock()
		}
	})
	require.Len(h, l.accepted, senders/2*each, "each text came twice")
	eventually(h, func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		return len(l.delivered) == len(l.accepted)
	})
	cancel()
	deliverers.Wait()
	require.Empty(h, l.problems)
	for id, n := range l.delivered {
		require.Equal(h, 1, n, id)
	}
	for _, store := range stores {
		require.NoError(h, store.Flush(h.background()))
	}
	require.Empty(h, h.counts().Routes)
	h.requireNone()
}

// deliverUntil delivers, fails, and gives back, at random.
func deliverUntil(
	ctx context.Context,
	h *harness,
	store spool.Store,
	watched chan string,
	l *ledger,
) {
	for ctx.Err() == nil {
		leased, err := store.Lease(
			h.background(),
			spool.LeaseRequest{Route: route, Max: 1 + rand.IntN(4), Tried: rand.IntN(2) == 0},
		)
		if err != nil {
			h.Error(err)
			return
		}
		for _, lease := range leased.Leases {
			l.begin(lease.Message)
			if body, err := store.Body(h.background(), lease.Message.ID); err != nil {
				h.Error(err)
			} else {
				_ = body.Close()
			}
			settlement := spool.Settlement{
				Verdict: []spool.Verdict{spool.Done, spool.Done, spool.Retry, spool.Return}[rand.IntN(4)],
			}
			l.end(lease.Message, settlement.Verdict == spool.Done)
			store.Settle(lease, settlement)
		}
		if len(leased.Leases) > 0 {
			continue
		}
		select {
		case <-ctx.Done():
		case <-watched:
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// lookUntil is an operator who looks at everything.
func lookUntil(ctx context.Context, h *harness, store spool.Store) {
	for ctx.Err() == nil {
		list, err := store.List(h.background(), spool.Filter{Limit: 20, Newest: rand.IntN(2) == 0})
		if err != nil {
			h.Error(err)
		}
		for _, m := range list {
			if err := store.Replay(h.background(), m.ID); err != nil && !isExpected(err) {
				h.Error(err)
			}
		}
		counts, err := store.Counts(h.background())
		if err != nil || counts.Routes[route].Pending < 0 {
			h.Error(counts, err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(5 * time.Millisecond):
		}
	}
}

func isExpected(err error) bool {
	for _, expected := range []error{spool.ErrNotFound, spool.ErrInFlight} {
		if err == expected {
			return true
		}
	}
	return false
}

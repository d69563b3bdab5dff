package storetest

import (
	"cmp"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
)

// Place is where a store keeps its messages.
type Place interface {
	// Open opens a store there, which finds what the one before has left.
	Open() (spool.Store, error)

	// Remove removes everything.
	Remove() error
}

// pair is a store and the model side by side. Their ids differ, so both are
// known by the number of the message.
type pair struct {
	t     *rapid.T
	place Place
	store spool.Store
	model *Memory

	inStore, inModel map[int]spool.ID
	leased           map[int]*leases
	accepted         int
}

// leases are those of one message, in the store and in the model.
type leases struct{ store, model *spool.Lease }

const modelRoutes = 2

// modelDestination gives messages three destinations on two hosts.
func modelDestination(n int) spool.Destination {
	return spool.Destination(n%2+1)<<32 | spool.Destination(n%3)
}

func (p *pair) open() {
	store, err := p.place.Open()
	require.NoError(p.t, err)
	p.store = store
}

func (p *pair) number(id spool.ID, ids map[int]spool.ID) int {
	for n, other := range ids {
		if other == id {
			return n
		}
	}
	require.FailNow(p.t, "unknown id")
	return 0
}

// accept offers the same message to both.
func (p *pair) accept(route, key, size int, again bool) {
	n := p.accepted
	if again && n > 0 {
		n--
	} else {
		p.accepted++
	}
	fingerprint := sha256.Sum256(fmt.Append(nil, n))
	now := time.Now()
	msg := spool.Message{
		State: spool.Pending, Route: fmt.Sprint("route", route), Method: "POST", URI: "/", RequestID: fmt.Sprint(key),
		OrderKey: uint64(key), Destination: modelDestination(n), ReceivedAt: now, ScheduledFrom: now,
	}
	if again {
		if m := p.model.messages[p.inModel[n]]; m != nil {
			msg.Route = m.Route // as the real fingerprint would have it
		}
	}
	var receipts [2]spool.Receipt
	for i, store := range []spool.Store{p.store, p.model} {
		copied := msg
		body, err := store.NewBody(context.Background(), -1)
		require.NoError(p.t, err)
		_, err = body.Write(modelBody(n, size))
		require.NoError(p.t, err)
		receipts[i], err = store.Accept(context.Background(), &copied, fingerprint, time.Hour, body)
		require.NoError(p.t, err)
	}
	require.Equal(p.t, receipts[1].Duplicate, receipts[0].Duplicate)
	if !receipts[1].Duplicate {
		p.inStore[n], p.inModel[n] = receipts[0].ID, receipts[1].ID
		return
	}
	require.Equal(p.t, p.inStore[n], receipts[0].ID, "the receipt of a duplicate names the original")
}

func modelBody(n, size int) []byte {
	return append(fmt.Append(nil, n, ":"), make([]byte, size)...)
}

// lease takes what the engine offers, which the model must allow, and as much as the model has, unless
// the engine is in the middle of something.
func (p *pair) lease(request spool.LeaseRequest, ahead time.Duration, patient bool) {
	if patient {
		p.flush()
	}
	request.Now = time.Now().Add(ahead)
	limit := request.Max
	heads := slices.DeleteFunc(p.model.heads(request.Route), func(m *memoryMessage) bool {
		return m.leased || m.NextAttemptAt.After(request.Now) || m.NextAttemptAt.IsZero() == request.Tried || request.Avoid.Has(m.Destination)
	})
	var got []*spool.Lease
	for empty := 0; empty < 3 && request.Max > 0; empty++ { // with little memory it may take several calls
		more, _, err := p.store.Lease(context.Background(), request)
		require.NoError(p.t, err)
		if len(more) > 0 {
			empty = 0
		}
		got = append(got, more...)
		request.Max -= len(more)
		if !patient {
			break
		}
		p.flush()
	}
	if patient && request.Avoid == nil {
		require.Len(p.t, got, min(limit, len(heads)))
	}
	for _, lease := range got {
		m := lease.Message
		n := p.number(m.ID, p.inStore)
		twin := p.model.messages[p.inModel[n]]
		require.Contains(p.t, heads, twin, "message %d may not be leased now", n)
		twin.leased = true
		p.leased[n] = &leases{lease, &spool.Lease{Message: &twin.Message}}
		p.compare(m, twin)
		p.compareBody(m, n)
	}
}

func (p *pair) compare(m *spool.Message, twin *memoryMessage) {
	require.Equal(p.t, twin.State, m.State)
	require.Equal(p.t, twin.Route, m.Route)
	require.Equal(p.t, twin.RequestID, m.RequestID)
	require.Equal(p.t, twin.Attempts, m.Attempts)
	require.Equal(p.t, twin.LastError, m.LastError)
	require.Equal(p.t, twin.Size, m.Size)
	require.WithinDuration(p.t, twin.NextAttemptAt, m.NextAttemptAt, time.Minute)
	require.True(p.t, twin.ReceivedAt.Equal(m.ReceivedAt))
}

func (p *pair) compareBody(m *spool.Message, n int) {
	body, err := p.store.Body(context.Background(), m.ID)
	require.NoError(p.t, err)
	got, err := io.ReadAll(body)
	require.NoError(p.t, err)
	require.NoError(p.t, body.Close())
	require.Equal(p.t, p.model.messages[p.inModel[n]].body, got)
}

func (p *pair) settle(n int, s spool.Settlement) {
	both := p.leased[n]
	delete(p.leased, n)
	p.store.Settle(both.store, s)
	p.model.Settle(both.model, s)
}

func (p *pair) flush() { require.NoError(p.t, p.store.Flush(context.Background())) }

// reopen closes the engine, on which the leases end, or drops it as a crash would.
func (p *pair) reopen() {
	require.NoError(p.t, p.store.Close(context.Background()))
	for _, both := range p.leased {
		p.model.Settle(both.model, spool.Settlement{Verdict: spool.Return})
	}
	clear(p.leased)
	p.open()
}

// check compares everything that can be seen.
func (p *pair) check() {
	ctx := context.Background()
	p.flush()
	for _, filter := range []spool.Filter{{Limit: 1000}, {State: spool.Dead, Limit: 1000}, {State: spool.Pending, Limit: 3}, {Route: "route1", Limit: 1000}} {
		got, err := p.store.List(ctx, filter)
		require.NoError(p.t, err)
		want, err := p.model.List(ctx, filter)
		require.NoError(p.t, err)
		require.Len(p.t, got, len(want))
		for i, m := range got {
			n := p.number(m.ID, p.inStore)
			require.Equal(p.t, p.number(want[i].ID, p.inModel), n)
			p.compare(m, p.model.messages[want[i].ID])
		}
	}
	counted, err := p.store.Counts(ctx)
	require.NoError(p.t, err)
	expected, err := p.model.Counts(ctx)
	require.NoError(p.t, err)
	for name, counts := range counted.Routes {
		counts.OldestPending = time.Time{}
		other := expected.Routes[name]
		other.OldestPending = time.Time{}
		require.Equal(p.t, other, counts, name)
	}
}

func (p *pair) anyLeased() int {
	return rapid.SampledFrom(sortedKeys(p.leased)).Draw(p.t, "leased")
}

func sortedKeys[K cmp.Ordered, V any](m map[K]V) []K {
	keys := make([]K, 0, len(m))
	for key := range m {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	return keys
}

func (p *pair) anyMessage() int {
	return rapid.IntRange(0, max(p.accepted-1, 0)).Draw(p.t, "message")
}

// Model has a store do at random what the model does: both must come to the same. place makes a new
// place for a store, for each of many runs; variant is a random number for it, to vary with.
func Model(t *testing.T, place func(variant int) (Place, error)) {
	rapid.Check(t, func(t *rapid.T) {
		made, err := place(rapid.IntRange(0, 1).Draw(t, "variant"))
		require.NoError(t, err)
		defer func() { require.NoError(t, made.Remove()) }()
		p := &pair{
			t: t, place: made, model: NewMemory(),
			inStore: make(map[int]spool.ID), inModel: make(map[int]spool.ID), leased: make(map[int]*leases),
		}
		p.open()
		defer func() { require.NoError(t, p.store.Close(context.Background())) }()
		defer p.check()

		ctx := context.Background()
		accept := func(t *rapid.T) {
			p.accept(rapid.IntRange(0, modelRoutes-1).Draw(t, "route"), rapid.IntRange(0, 3).Draw(t, "key"),
				rapid.SampledFrom([]int{0, 10, 3000, 64 << 10}).Draw(t, "size"), rapid.IntRange(0, 5).Draw(t, "again") == 0)
		}
		lease := func(t *rapid.T) {
			request := spool.LeaseRequest{
				Route: fmt.Sprint("route", rapid.IntRange(0, modelRoutes-1).Draw(t, "route")), Max: rapid.IntRange(1, 5).Draw(t, "limit"),
				Tried: rapid.Bool().Draw(t, "tried"), Newest: rapid.Bool().Draw(t, "newest"),
			}
			switch rapid.IntRange(0, 5).Draw(t, "avoid") {
			case 0:
				request.Avoid = spool.Destinations{modelDestination(0): {}, modelDestination(4): {}}
			case 1:
				request.Avoid = spool.Destinations{modelDestination(0).Host(): {}}
			}
			p.lease(request, rapid.SampledFrom([]time.Duration{0, 0, 2 * time.Hour}).Draw(t, "ahead"), rapid.Bool().Draw(t, "patient"))
		}
		settle := func(t *rapid.T) {
			if len(p.leased) == 0 {
				return
			}
			verdict := rapid.SampledFrom([]spool.Verdict{spool.Done, spool.Done, spool.Retry, spool.Retry, spool.Bury, spool.Return}).Draw(t, "verdict")
			at := time.Now()
			if verdict == spool.Retry {
				at = at.Add(rapid.SampledFrom([]time.Duration{-time.Second, time.Hour}).Draw(t, "pause"))
			}
			p.settle(p.anyLeased(), spool.Settlement{Verdict: verdict, At: at, LastError: "because"})
		}
		t.Repeat(map[string]func(*rapid.T){
			"check":   func(*rapid.T) { p.check() },
			"accept":  accept,
			"accept2": accept,
			"lease":   lease,
			"lease2":  lease,
			"settle":  settle,
			"settle2": settle,
			"replay": func(t *rapid.T) {
				p.flush()
				n := p.anyMessage()
				require.Equal(t, p.model.Replay(ctx, p.inModel[n]), p.store.Replay(ctx, p.inStore[n]))
			},
			"replay the dead": func(t *rapid.T) {
				before, limit := time.Now().Add(time.Second), rapid.IntRange(1, 10).Draw(t, "limit")
				want, _ := p.model.ReplayDead(ctx, "route0", before, limit)
				got, err := p.store.ReplayDead(ctx, "route0", before, limit)
				require.NoError(t, err)
				require.Equal(t, want, got)
			},
			"drop": func(t *rapid.T) {
				p.flush()
				n := p.anyMessage()
				_, want := p.model.Drop(ctx, p.inModel[n])
				_, got := p.store.Drop(ctx, p.inStore[n])
				require.Equal(t, want, got)
			},
			"expire": func(t *rapid.T) {
				p.flush()
				var counts [2]int
				now := time.Now()
				for i, store := range []spool.Store{p.store, p.model} {
					for {
						expired, err := store.Expire(ctx, "route1", now, "expired", 1000)
						require.NoError(t, err)
						if len(expired) == 0 {
							break
						}
						counts[i] += len(expired)
					}
				}
				require.Equal(t, counts[1], counts[0])
			},
			"drop the dead": func(t *rapid.T) {
				before := time.Now().Add(time.Second)
				want, _ := p.model.DropDead(ctx, "route1", before, 3)
				got, err := p.store.DropDead(ctx, "route1", before, 3)
				require.NoError(t, err)
				require.Equal(t, len(want), len(got))
				// Which ones die first among equals is not defined; so drop the rest too.
				want, _ = p.model.DropDead(ctx, "route1", before, 1000)
				got, err = p.store.DropDead(ctx, "route1", before, 1000)
				require.NoError(t, err)
				require.Equal(t, len(want), len(got))
			},
			"reopen": func(*rapid.T) { p.reopen() },
		})
	})
}

package storetest

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/storetest/memory"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/transfer"
)

var copying = map[string]func(*harness){
	"all of a store is copied, and back":                      copyThereAndBack,
	"a copy that ended early is repeated":                     copyRepeated,
	"what was delivered or dropped since is not copied again": copiedOnce,
	"imported messages have their place in the order":         importedInOrder,
	"what is leased is not overtaken":                         importedBehindALease,
	"ids rise after those of another clock":                   idsAfterImported,
	"a repetition of what was copied is a duplicate":          copiedDuplicates,
	"of two with half an id in common both are found":         halfAnID,
	"messages of a page that is imported twice at once":       importedTwiceAtOnce,
}

// portable is the store under test, as one that can be copied.
func (h *harness) portable() spool.Portable {
	h.Helper()
	store, ok := h.Store.(spool.Portable)
	if !ok {
		h.Skip("this store cannot be copied")
	}
	return store
}

// elsewhere returns an empty store to copy from or to, with a harness of its own.
func (h *harness) elsewhere() (*harness, *memory.Store) {
	store := memory.NewPlace().Open()
	return &harness{T: h.T, Store: store, watched: make(chan string, 1)}, store
}

func (h *harness) copy(from, to spool.Portable) *transfer.Copied {
	h.Helper()
	copied, err := transfer.Copy(h.background(), from, to, nil)
	require.NoError(h, err)
	require.Empty(h, copied.Lost)
	require.Equal(h, copied.Total, copied.Seen)
	return copied
}

// fillWithAll accepts messages of every kind and state.
func (h *harness) fillWithAll() {
	h.Helper()
	h.end(sample{text: "kept", key: 1, requestID: "a", user: "u", destination: 7}, spool.Done)
	h.end(sample{text: "dead", key: 2, requestID: "b"}, spool.Bury)
	h.end(sample{text: "tried", key: 3}, spool.Retry)
	h.accept(sample{text: "behind it", key: 3})
	require.NoError(h, h.Replay(h.background(), h.end(sample{text: "again", key: 4}, spool.Bury)))
	h.end(sample{text: "gone", key: 5}, spool.Bury)
	_, err := h.Drop(h.background(), h.list(spool.Filter{Newest: true})[0].ID)
	require.NoError(h, err)
	h.accept(sample{text: "waits for nobody", repeatable: true})
	h.accept(sample{text: "", route: otherRoute, key: 6})
	h.accept(sample{text: strings.Repeat("large ", 200_000), key: 7})
	for i := range 250 {
		h.accept(sample{text: fmt.Sprint(i), key: uint64(i%9 + 10)})
	}
	require.NoError(h, h.Pause(h.background(), otherRoute, true))
	require.NoError(h, h.Pause(h.background(), "of nothing", true))
	h.note(sampleStreams())
}

// requireSame compares all that two stores have.
func (h *harness) requireSame(want, got *harness) {
	h.Helper()
	wanted := want.list(spool.Filter{Limit: 10_000})
	found := got.list(spool.Filter{Limit: 10_000})
	require.Equal(h, listed(wanted), listed(found))
	for i := range wanted {
		a, b := plain(want.get(wanted[i].ID)), plain(got.get(found[i].ID))
		if a.OrderKey == 0 || b.OrderKey == 0 { // as good as a key of its own
			a.OrderKey, b.OrderKey = 0, 0
		}
		require.Equal(h, a, b)
		body, err := want.Body(h.background(), a.ID)
		require.NoError(h, err)
		text, err := io.ReadAll(body)
		require.NoError(h, err)
		require.NoError(h, body.Close())
		got.requireBody(a.ID, string(text))
	}
	there, here := want.counts(), got.counts()
	for route, a := range there.Routes {
		b := here.Routes[route]
		require.WithinDuration(h, a.OldestPending, b.OldestPending, time.Second)
		a.OldestPending, b.OldestPending = time.Time{}, time.Time{}
		require.Equal(h, a, b)
	}
	require.Len(h, here.Routes, len(there.Routes))
	require.Equal(h, want.noted(), got.noted())
}

// noted returns the live streams that a store has.
func (h *harness) noted() []spool.OpenStream {
	h.Helper()
	streams, err := h.portable().ExportStreams(h.background())
	require.NoError(h, err)
	slices.SortFunc(streams, func(a, b spool.OpenStream) int { return cmp.Compare(a.ID, b.ID) })
	return streams
}

// plain is a message with times as every store keeps them, to the microsecond.
func plain(m *spool.Message) *spool.Message {
	m.Attempts = slices.Clone(m.Attempts)
	for i := range m.Attempts {
		m.Attempts[i].At = m.Attempts[i].At.Round(0).UTC()
	}
	if len(m.Attempts) == 0 {
		m.Attempts = nil
	}
	times := []*time.Time{
		&m.ReceivedAt, &m.NextAttemptAt, &m.DiedAt, &m.DeliveredAt, &m.ScheduledFrom,
	}
	for _, t := range times {
		*t = t.UTC().Truncate(time.Microsecond)
	}
	return m
}

func copyThereAndBack(h *harness) {
	source, from := h.elsewhere()
	source.fillWithAll()
	copied := h.copy(from, h.portable())
	require.True(h, copied.Counted)
	require.ElementsMatch(h, []string{otherRoute, "of nothing"}, copied.Paused)
	require.Equal(h, int64(1), copied.Routes[route][spool.Dead].Copied)
	h.requireSame(source, h)
	h.reopen()
	h.requireSame(source, h)
	target, to := h.elsewhere()
	h.copy(h.portable(), to)
	h.requireSame(source, target)
}

func copyRepeated(h *harness) {
	source, from := h.elsewhere()
	source.fillWithAll()
	ctx, cancel := context.WithCancel(h.background())
	_, err := transfer.Copy(ctx, from, h.portable(), func(c *transfer.Copied) {
		if c.Seen >= 100 {
			cancel()
		}
	})
	require.ErrorIs(h, err, ctx.Err())
	some := h.count(spool.Filter{})
	require.Positive(h, some)
	require.Less(h, some, source.count(spool.Filter{}))
	h.reopen()
	copied := h.copy(from, h.portable())
	require.Equal(h, some, copied.Routes[route][spool.Pending].Present+
		copied.Routes[route][spool.Dead].Present+copied.Routes[route][spool.Delivered].Present+
		copied.Routes[otherRoute][spool.Pending].Present)
	h.requireSame(source, h)
	again := h.copy(from, h.portable())
	require.Zero(h, again.Routes[route][spool.Pending].Copied)
	h.requireSame(source, h)
}

func copiedOnce(h *harness) {
	source, from := h.elsewhere()
	source.acceptMany(3, 1)
	dead := source.end(sample{text: "dead", key: 2}, spool.Bury)
	h.copy(from, h.portable())
	h.settle(h.leaseOne(), spool.Done)
	_, err := h.Drop(h.background(), dead)
	require.NoError(h, err)
	h.flush()
	h.reopen()
	copied := h.copy(from, h.portable())
	require.Equal(h, int64(3), copied.Routes[route][spool.Pending].Present)
	require.Equal(h, int64(1), copied.Routes[route][spool.Dead].Present)
	require.Equal(h, int64(2), h.count(spool.Filter{}))
}

// deliverAll settles what can be leased as delivered until there is no more, and returns the ids in
// their order.
func (h *harness) deliverAll() (ids []spool.ID) {
	h.Helper()
	for {
		leased := h.leaseAll(spool.LeaseRequest{Route: route, Max: 100})
		if len(leased) == 0 {
			return ids
		}
		for _, lease := range leased {
			ids = append(ids, lease.Message.ID)
			h.settle(lease, spool.Done)
		}
		h.flush()
	}
}

func importedInOrder(h *harness) {
	source, from := h.elsewhere()
	var want []spool.ID
	for i, store := range []*harness{source, source, h, h, source, source} {
		want = append(want, store.accept(sample{text: fmt.Sprint("message ", i), key: 1}))
	}
	lease := source.leaseOne() // the first one waits for another attempt, which is due
	source.Settle(lease, spool.Settlement{Verdict: spool.Retry, Attempt: attempt(spool.Retry)})
	second, more := h.elsewhere()
	late := second.accept(sample{text: "late", key: 1})
	lease = second.leaseOne()
	second.Settle(lease, spool.Settlement{Verdict: spool.Retry, Attempt: attempt(spool.Retry)})
	want = append(want, late)

	h.copy(more, h.portable())
	h.copy(from, h.portable())
	want = append(want, h.accept(sample{text: "last", key: 1}))
	require.True(h, slices.IsSortedFunc(want, spool.ID.Compare))
	require.Equal(h, want, h.deliverAll())
}

func importedBehindALease(h *harness) {
	source, from := h.elsewhere()
	want := source.acceptMany(2, 1)
	mine := h.acceptMany(2, 1)
	lease := h.leaseOne()
	require.Equal(h, mine[0], lease.Message.ID)
	drain(h.watched)
	h.copy(from, h.portable())
	h.waitForWatch(h.watched, route)
	h.requireNone()
	h.settle(lease, spool.Retry)
	h.flush()
	require.Equal(h, want, h.deliverAll())
	require.Equal(h, int64(2), h.count(spool.Filter{State: spool.Pending}))
}

// importOne imports a message that was never in a store.
func (h *harness) importOne(m *spool.Message) {
	h.Helper()
	store := h.portable()
	body, err := store.NewBody(h.background(), -1)
	require.NoError(h, err)
	_, err = io.WriteString(body, m.ID.String())
	require.NoError(h, err)
	kept, err := store.Import(h.background(), []spool.Imported{{Message: m, Body: body}})
	require.NoError(h, err)
	require.Equal(h, []spool.ID{m.ID}, kept)
	h.requireBody(m.ID, m.ID.String())
}

func idsAfterImported(h *harness) {
	var ids spool.IDSource
	m := sample{key: 1}.message()
	m.State = spool.Pending
	m.ReceivedAt = time.Now().Add(time.Hour)
	m.ID, m.ScheduledFrom = ids.Next(m.ReceivedAt), time.Now()
	h.importOne(m)
	h.reopen()
	next := h.accept(sample{text: "next", key: 1})
	require.Positive(h, next.Compare(m.ID))
	require.Equal(h, []spool.ID{m.ID, next}, h.deliverAll())
}

func copiedDuplicates(h *harness) {
	source, from := h.elsewhere()
	pending := source.accept(sample{text: "pending"})
	gone := source.accept(sample{text: "gone"})
	_, err := source.Drop(h.background(), gone)
	require.NoError(h, err)
	h.copy(from, h.portable())
	h.copy(from, h.portable())
	repeated := func(h *harness) {
		h.Helper()
		for text, id := range map[string]spool.ID{"pending": pending, "gone": gone} {
			receipt, err := put(h.background(), h.Store, sample{text: text})
			require.NoError(h, err)
			require.Equal(h, spool.Receipt{ID: id, Duplicate: true, Size: int64(len(text))}, receipt)
		}
	}
	repeated(h)
	h.accept(sample{text: "new"})
	h.reopen()
	repeated(h)
	target, to := h.elsewhere()
	h.copy(h.portable(), to)
	repeated(target)
}

func halfAnID(h *harness) {
	var ids spool.IDSource
	first := ids.Next(time.Now())
	second := first
	second[15]++
	for i, id := range []spool.ID{first, second} {
		m := sample{key: 1, requestID: fmt.Sprint("request ", i)}.message()
		m.ID, m.State, m.ReceivedAt, m.ScheduledFrom = id, spool.Pending, time.Now(), time.Now()
		h.importOne(m)
	}
	requireBoth := func() {
		h.Helper()
		for i, id := range []spool.ID{first, second} {
			found := h.list(spool.Filter{RequestID: fmt.Sprint("request ", i)})
			require.Equal(h, []spool.ID{id}, listed(found))
		}
	}
	requireBoth()
	h.reopen()
	requireBoth()
	_, err := h.Drop(h.background(), first)
	require.NoError(h, err)
	require.Empty(h, h.list(spool.Filter{RequestID: "request 0"}))
	require.Len(h, h.list(spool.Filter{RequestID: "request 1"}), 1)
}

func importedTwiceAtOnce(h *harness) {
	source, from := h.elsewhere()
	source.acceptMany(150, 1)
	source.accept(sample{text: strings.Repeat("large ", 200_000), key: 1})
	to := h.portable()
	inParallel(3, func(int) {
		if _, err := transfer.Copy(h.background(), from, to, nil); err != nil {
			// Each one finds more than it has copied itself.
			require.ErrorContains(h, err, "the destination has")
		}
	})
	h.requireSame(source, h)
}

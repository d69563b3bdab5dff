package storetest

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
)

func errorAs(err error, target any) bool { return errors.As(err, target) }

var operator = map[string]func(*harness){
	"replaying one":                                 replayingOne,
	"replaying what is not there or leased":         replayingNot,
	"replaying all, a page at a time":               replayingAll,
	"replaying what a filter selects":               replayingSome,
	"dropping one":                                  droppingOne,
	"dropping what is leased":                       droppingALease,
	"dropping what a filter selects":                droppingSome,
	"dropping what ended long ago":                  droppingTheOld,
	"expiring":                                      expiring,
	"pausing":                                       pausing,
	"pausing a route of which there is nothing":     pausingNothing,
	"the last ten attempts are kept":                attemptsAreKept,
	"an error is kept as text of at most 512 bytes": errorsAreClipped,
}

// end accepts a message and has its delivery end.
func (h *harness) end(s sample, verdict spool.Verdict) spool.ID {
	h.Helper()
	id := h.accept(s)
	name := s.message().Route
	for _, lease := range h.leaseAll(spool.LeaseRequest{Route: name, Max: 1000}) {
		switch {
		case lease.Message.ID != id:
			h.settle(lease, spool.Return)
		case verdict == spool.Done:
			h.Settle(lease, spool.Settlement{Verdict: spool.Done, Keep: true, Attempt: attempt(spool.Done)})
		default:
			h.settle(lease, verdict)
		}
	}
	h.flush()
	return id
}

func replayingOne(h *harness) {
	for i, verdict := range []spool.Verdict{spool.Done, spool.Bury, spool.Retry} {
		id := h.end(sample{text: fmt.Sprint(i), key: uint64(i + 1)}, verdict)
		before := h.get(id)
		require.NoError(h, h.Replay(h.background(), id))
		after := h.get(id)
		require.Equal(h, spool.Pending, after.State)
		require.Zero(h, after.Tries)
		require.True(h, after.ScheduledFrom.After(before.ScheduledFrom))
		require.True(h, after.ReceivedAt.Equal(before.ReceivedAt))
		require.True(h, after.NextAttemptAt.IsZero())
		require.True(h, after.DiedAt.IsZero())
		require.True(h, after.DeliveredAt.IsZero())
		lease := h.leaseOne()
		require.Equal(h, id, lease.Message.ID)
		h.requireBody(id, fmt.Sprint(i))
		h.Settle(lease, spool.Settlement{Verdict: spool.Done, Keep: true})
		h.flush()
		require.Equal(h, 1, h.get(id).Tries)
		require.Len(h, h.get(id).Attempts, 2)
	}
	require.Zero(h, h.counts().Routes[route].Dead)
	require.Equal(h, int64(3), h.counts().Routes[route].Delivered)
}

func replayingNot(h *harness) {
	id := h.acceptMany(1, 1)[0]
	lease := h.leaseOne()
	require.ErrorIs(h, h.Replay(h.background(), id), spool.ErrInFlight)
	h.settle(lease, spool.Done)
	h.flush()
	require.ErrorIs(h, h.Replay(h.background(), id), spool.ErrNotFound)
	require.ErrorIs(h, h.Replay(h.background(), spool.ID{1}), spool.ErrNotFound)
}

func replayingAll(h *harness) {
	const n = 25
	var ids []spool.ID
	for i := range n {
		ids = append(
			ids,
			h.end(
				sample{text: fmt.Sprint(i), key: uint64(i + 1)},
				[]spool.Verdict{spool.Bury, spool.Done}[i%2],
			),
		)
	}
	h.accept(sample{text: "pending", key: 1})
	filter := spool.Filter{Limit: 10}
	total := 0
	for done, pages := false, 0; !done; pages++ {
		var replayed int
		var err error
		replayed, filter.After, done, err = h.ReplayAll(h.background(), filter)
		require.NoError(h, err)
		require.LessOrEqual(h, replayed, 10)
		total += replayed
		require.Less(h, pages, 20)
	}
	require.Equal(h, n, total)
	require.Equal(h, int64(n+1), h.count(spool.Filter{State: spool.Pending}))
	require.ElementsMatch(
		h,
		ids,
		idsOf(h.leaseAll(spool.LeaseRequest{Route: route, Max: 100})),
		"the pending one waits behind a replayed one",
	)
	require.Equal(h, int64(n+1), h.counts().Routes[route].Pending)
}

func replayingSome(h *harness) {
	dead := h.end(sample{text: "a", key: 1, requestID: "x"}, spool.Bury)
	other := h.end(sample{text: "b", key: 2, requestID: "y"}, spool.Bury)
	kept := h.end(sample{text: "c", key: 3, requestID: "x"}, spool.Done)
	elsewhere := h.end(sample{text: "d", key: 4, requestID: "x", route: otherRoute}, spool.Bury)
	pendings := func() []spool.ID { return listed(h.list(spool.Filter{State: spool.Pending})) }

	for _, filter := range []spool.Filter{{State: spool.Pending}, {RequestID: "z"}, {Route: "none"}, {Until: time.Now().Add(-time.Hour)}} {
		replayed, _, done, err := h.ReplayAll(h.background(), filter)
		require.NoError(h, err)
		require.Zero(h, replayed)
		require.True(h, done)
	}
	replayed, _, done, err := h.ReplayAll(
		h.background(),
		spool.Filter{State: spool.Dead, Route: route, RequestID: "x"},
	)
	require.NoError(h, err)
	require.True(h, done)
	require.Equal(h, 1, replayed)
	require.Equal(h, []spool.ID{dead}, pendings())
	_, _, _, err = h.ReplayAll(h.background(), spool.Filter{RequestID: "x"})
	require.NoError(h, err)
	require.Equal(h, []spool.ID{dead, kept, elsewhere}, pendings())
	require.Equal(h, spool.Dead, h.get(other).State)
}

func droppingOne(h *harness) {
	for i, verdict := range []spool.Verdict{spool.Done, spool.Bury, spool.Retry, spool.Return} {
		id := h.end(sample{text: strings.Repeat(fmt.Sprint(i), 100_000), key: uint64(i + 1)}, verdict)
		want := h.get(id).State
		m, err := h.Drop(h.background(), id)
		require.NoError(h, err)
		require.Equal(h, id, m.ID)
		require.Equal(h, want, m.State)
		require.Equal(h, route, m.Route)
		h.requireGone(id)
		_, err = h.Drop(h.background(), id)
		require.ErrorIs(h, err, spool.ErrNotFound)
	}
	require.Empty(h, h.counts().Routes)
	h.requireNone()
}

func droppingALease(h *harness) {
	for _, verdict := range []spool.Verdict{spool.Done, spool.Bury, spool.Retry, spool.Return} {
		ids := h.acceptMany(1, uint64(verdict)+1)
		lease := h.leaseOne()
		for range 2 {
			m, err := h.Drop(h.background(), ids[0])
			require.ErrorIs(h, err, spool.ErrInFlight)
			require.Equal(h, ids[0], m.ID)
		}
		require.Equal(h, spool.Pending, h.get(ids[0]).State)
		require.Equal(h, int64(1), h.counts().Routes[route].Pending)
		h.requireBody(ids[0], fmt.Sprint("message 0 of ", uint64(verdict)+1))
		require.ErrorIs(h, h.Replay(h.background(), ids[0]), spool.ErrInFlight)
		next := h.accept(sample{text: fmt.Sprint("next", verdict), key: uint64(verdict) + 1})
		h.requireNone()
		h.settle(lease, verdict)
		lease = h.leaseOne()
		require.Equal(h, next, lease.Message.ID)
		h.settle(lease, spool.Done)
		h.flush()
		h.requireGone(ids[0])
		require.Empty(h, h.counts().Routes)
	}
}

func droppingSome(h *harness) {
	var dead []spool.ID
	for i := range 12 {
		dead = append(dead, h.end(sample{text: fmt.Sprint(i), key: uint64(i + 1)}, spool.Bury))
	}
	pending := h.acceptMany(2, 100)
	elsewhere := h.end(sample{text: "else", route: otherRoute}, spool.Bury)
	dropped, err := h.DropAll(h.background(), spool.Filter{State: spool.Dead, Route: route, Limit: 5})
	require.NoError(h, err)
	require.Equal(h, dead[:5], listed(dropped))
	dropped, err = h.DropAll(h.background(), spool.Filter{State: spool.Dead, Route: route})
	require.NoError(h, err)
	require.Equal(h, dead[5:], listed(dropped))
	dropped, err = h.DropAll(h.background(), spool.Filter{State: spool.Dead, Route: route})
	require.NoError(h, err)
	require.Empty(h, dropped)

	lease := h.leaseOne()
	dropped, err = h.DropAll(h.background(), spool.Filter{Limit: 1})
	require.NoError(h, err)
	require.Equal(h, pending[1:], listed(dropped), "what is leased stays, and does not count")
	h.settle(lease, spool.Done)
	h.flush()
	require.Equal(h, []spool.ID{elsewhere}, listed(h.list(spool.Filter{})))
	h.requireNone()
}

func droppingTheOld(h *harness) {
	dead := h.end(sample{text: "dead", key: 1}, spool.Bury)
	kept := h.end(sample{text: "kept", key: 2}, spool.Done)
	h.acceptMany(1, 3)
	for _, filter := range []spool.Filter{{EndedFor: time.Hour}, {State: spool.Dead, Route: route, EndedFor: time.Hour}} {
		dropped, err := h.DropAll(h.background(), filter)
		require.NoError(h, err)
		require.Empty(h, dropped)
	}
	eventually(h, func() bool { return h.count(spool.Filter{EndedFor: 20 * time.Millisecond}) == 2 })
	require.Equal(
		h,
		[]spool.ID{kept},
		listed(h.list(spool.Filter{State: spool.Delivered, EndedFor: 20 * time.Millisecond})),
	)
	for _, c := range []struct {
		state spool.State
		id    spool.ID
	}{{spool.Dead, dead}, {spool.Delivered, kept}} {
		dropped, err := h.DropAll(
			h.background(),
			spool.Filter{State: c.state, Route: route, EndedFor: 20 * time.Millisecond},
		)
		require.NoError(h, err)
		require.Equal(h, []spool.ID{c.id}, listed(dropped))
	}
	require.Equal(h, int64(1), h.count(spool.Filter{}))
}

func expiring(h *harness) {
	ids := h.acceptMany(3, 1)
	failed := h.retried(sample{text: "failed", key: 2})
	waiting := h.end(sample{text: "waiting", key: 3}, spool.Retry) // not due
	leasedID := h.accept(sample{text: "leased", key: 4})
	var held *spool.Lease
	for _, lease := range h.leaseAll(spool.LeaseRequest{Route: route, Max: 100}) {
		if lease.Message.ID == leasedID {
			held = lease
		} else {
			h.settle(lease, spool.Return)
		}
	}
	h.flush()
	expire := func(age time.Duration, limit int) (ids []spool.ID) {
		h.Helper()
		expired, err := h.Expire(h.background(), route, age, "expired", limit)
		require.NoError(h, err)
		require.LessOrEqual(h, len(expired), limit)
		for _, m := range expired {
			require.Equal(h, spool.Dead, m.State)
			require.WithinDuration(h, time.Now(), m.DiedAt, time.Minute)
		}
		return listed(expired)
	}
	require.Empty(h, expire(time.Hour, 100), "they are young")
	require.Len(h, expire(0, 1), 1)
	var all []spool.ID
	for more := expire(0, 100); len(more) > 0; more = expire(0, 100) {
		all = append(all, more...)
	}
	require.Len(h, all, 3)
	for _, id := range ids {
		require.Equal(h, spool.Dead, h.get(id).State)
		require.Equal(h, "expired", h.get(id).LastError)
		require.Zero(h, h.get(id).Tries)
	}
	require.Equal(h, spool.Dead, h.get(failed).State)
	require.Equal(h, attempt(spool.Retry).Error, h.get(failed).LastError, "it has one of its own")
	require.Equal(h, spool.Pending, h.get(waiting).State)
	require.Equal(h, spool.Pending, h.get(leasedID).State)
	h.settle(held, spool.Done)
	h.flush()
	require.Equal(h, int64(4), h.counts().Routes[route].Dead)
	require.Equal(h, int64(1), h.counts().Routes[route].Pending)
}

func pausing(h *harness) {
	ids := h.acceptMany(1, 1)
	require.NoError(h, h.Pause(h.background(), route, true))
	for range 2 {
		ids = append(ids, h.accept(sample{text: fmt.Sprint(len(ids)), key: uint64(len(ids) + 1)}))
		h.requireNone()
		require.True(h, h.counts().Routes[route].Paused)
		require.False(h, h.counts().Routes[otherRoute].Paused)
		h.reopen()
	}
	h.accept(sample{text: "else", route: otherRoute})
	require.Len(h, h.leaseAll(spool.LeaseRequest{Route: otherRoute, Max: 10}), 1)
	require.NoError(h, h.Pause(h.background(), route, false))
	leased := h.leaseAll(spool.LeaseRequest{Route: route, Max: 10})
	require.ElementsMatch(h, ids, idsOf(leased))
	require.NoError(h, h.Pause(h.background(), route, true))
	h.settle(leased[0], spool.Done) // what is under way ends
	h.settle(leased[1], spool.Return)
	h.requireNone()
	h.reopen()
	require.NoError(h, h.Pause(h.background(), route, false))
	require.Len(h, h.leaseAll(spool.LeaseRequest{Route: route, Max: 10}), 2)
	require.False(h, h.counts().Routes[route].Paused)
}

func pausingNothing(h *harness) {
	require.NoError(h, h.Pause(h.background(), "new", true))
	require.NoError(h, h.Pause(h.background(), "new", true))
	h.reopen()
	require.True(h, h.counts().Routes["new"].Paused)
	h.accept(sample{text: "a", route: "new"})
	require.Empty(h, h.leaseAll(spool.LeaseRequest{Route: "new", Max: 10}))
	require.NoError(h, h.Pause(h.background(), "new", false))
	require.Len(h, h.leaseAll(spool.LeaseRequest{Route: "new", Max: 10}), 1)
}

func attemptsAreKept(h *harness) {
	id := h.acceptMany(1, 1)[0]
	for n := range 23 {
		a := spool.Attempt{
			At:       time.UnixMilli(int64(n)),
			Status:   n,
			Error:    fmt.Sprint("error ", n),
			Upstream: "up\x00\xff",
			Took:     time.Duration(n),
		}
		lease := h.leaseOne()
		require.Equal(h, n, lease.Message.Tries)
		require.Len(h, lease.Message.Attempts, min(n, spool.MaxAttempts))
		h.Settle(lease, spool.Settlement{Verdict: spool.Retry, Attempt: a})
		lease = h.leaseOne()
		h.settle(lease, spool.Return)
		if n == 15 {
			h.reopen()
		}
	}
	h.flush()
	m := h.get(id)
	require.Equal(h, 23, m.Tries)
	require.Equal(h, "error 22", m.LastError)
	require.Len(h, m.Attempts, spool.MaxAttempts)
	for i, a := range m.Attempts {
		require.Equal(h, 13+i, a.Status)
		require.Equal(h, fmt.Sprint("error ", 13+i), a.Error)
		require.True(h, a.At.Equal(time.UnixMilli(int64(13+i))))
		require.Equal(h, time.Duration(13+i), a.Took)
		require.Contains(h, a.Upstream, "up")
	}
}

func errorsAreClipped(h *harness) {
	for i, text := range []string{strings.Repeat("ü", 600), "with\x00zero", "not \xff UTF-8"} {
		id := h.acceptMany(1, uint64(i+1))[0]
		h.Settle(h.leaseOne(), spool.Settlement{Verdict: spool.Bury, Attempt: spool.Attempt{Error: text}})
		h.flush()
		m := h.get(id)
		require.NotEmpty(h, m.LastError)
		require.LessOrEqual(h, len(m.LastError), spool.MaxErrorSize)
		require.Equal(h, spool.ClipError(text), m.LastError)
		require.Equal(h, m.LastError, m.Attempts[0].Error)
	}
}

package storetest

import (
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
)

var order = map[string]func(*harness){
	"messages of a key come one after the other":                     oneAfterTheOther,
	"a message that is tried again holds back those of its key":      aRetryHoldsBackItsKey,
	"a dead, dropped or expired message lets the next of its key go": theNextComesAfterAnyEnd,
	"keys do not wait for each other":                                keysDoNotWait,
	"messages without a key wait for nobody":                         keylessWaitForNobody,
	"the same key of another route is another key":                   keysAreOfARoute,
	"a replayed message takes its old place":                         replayedTakesItsPlace,
	"a replayed message does not go before what is leased":           replayedWaitsForALease,
	"order holds over reopening":                                     orderHoldsOverReopening,
}

func oneAfterTheOther(h *harness) {
	ids := h.acceptMany(40, 1)
	for _, id := range ids {
		lease := h.leaseOne()
		require.Equal(h, id, lease.Message.ID)
		h.requireNone()
		h.settle(lease, spool.Done) // takes effect at once
	}
	h.requireNone()
}

func aRetryHoldsBackItsKey(h *harness) {
	ids := h.acceptMany(3, 1)
	h.settle(h.leaseOne(), spool.Retry)
	h.requireNone()
	h.flush()
	h.requireNone()
	require.NoError(h, h.Replay(h.background(), ids[0])) // due now
	for _, id := range ids {
		lease := h.leaseOne()
		require.Equal(h, id, lease.Message.ID)
		h.Settle(
			lease,
			spool.Settlement{Verdict: spool.Retry, Attempt: attempt(spool.Retry)},
		) // due at once
		lease = h.leaseOne()
		require.Equal(h, id, lease.Message.ID)
		h.settle(lease, spool.Return)
		lease = h.leaseOne()
		require.Equal(h, id, lease.Message.ID)
		h.settle(lease, spool.Done)
	}
}

func theNextComesAfterAnyEnd(h *harness) {
	ids := h.acceptMany(5, 1)
	h.settle(h.leaseOne(), spool.Bury)
	lease := h.leaseOne()
	require.Equal(h, ids[1], lease.Message.ID)
	h.settle(lease, spool.Return)
	h.flush()
	dropped, err := h.Drop(h.background(), ids[1])
	require.NoError(h, err)
	require.Equal(h, ids[1], dropped.ID)
	lease = h.leaseOne()
	require.Equal(h, ids[2], lease.Message.ID)
	h.settle(lease, spool.Return)
	h.flush()
	expired, err := h.Expire(h.background(), route, 0, "too old", 1)
	require.NoError(h, err)
	require.Equal(h, []spool.ID{ids[2]}, listed(expired))
	lease = h.leaseOne()
	require.Equal(h, ids[3], lease.Message.ID)
	h.Settle(lease, spool.Settlement{Verdict: spool.Done, Keep: true})
	require.Equal(h, ids[4], h.leaseOne().Message.ID)
}

func keysDoNotWait(h *harness) {
	var firsts []spool.ID
	for key := range uint64(20) {
		firsts = append(firsts, h.acceptMany(3, key+1)[0])
	}
	leased := h.leaseAll(spool.LeaseRequest{Route: route, Max: 100})
	require.ElementsMatch(h, firsts, idsOf(leased))
	h.settle(leased[0], spool.Retry)
	h.settle(leased[1], spool.Done)
	next := h.leaseOne()
	require.Equal(h, leased[1].Message.OrderKey, next.Message.OrderKey)
}

func keylessWaitForNobody(h *harness) {
	var ids []spool.ID
	for range 20 {
		ids = append(ids, h.accept(sample{text: "the same", repeatable: true}))
	}
	leased := h.leaseAll(spool.LeaseRequest{Route: route, Max: 100})
	require.ElementsMatch(h, ids, idsOf(leased))
}

func keysAreOfARoute(h *harness) {
	h.accept(sample{key: 1, text: "a"})
	h.accept(sample{key: 1, text: "b", route: otherRoute})
	h.leaseOne()
	require.Len(h, h.leaseAll(spool.LeaseRequest{Route: otherRoute, Max: 100}), 1)
}

func replayedTakesItsPlace(h *harness) {
	ids := h.acceptMany(4, 1)
	h.settle(h.leaseOne(), spool.Bury)
	h.settle(h.leaseOne(), spool.Bury)
	h.flush()
	require.NoError(h, h.Replay(h.background(), ids[1]))
	require.NoError(h, h.Replay(h.background(), ids[0]))
	for _, id := range ids {
		lease := h.leaseOne()
		require.Equal(h, id, lease.Message.ID)
		h.settle(lease, spool.Done)
	}
}

func replayedWaitsForALease(h *harness) {
	ids := h.acceptMany(3, 1)
	h.settle(h.leaseOne(), spool.Bury)
	second := h.leaseOne()
	require.Equal(h, ids[1], second.Message.ID)
	h.flush()
	require.NoError(h, h.Replay(h.background(), ids[0]))
	h.requireNone()
	h.Settle(second, spool.Settlement{Verdict: spool.Retry, Attempt: attempt(spool.Retry)})
	for _, id := range ids {
		lease := h.leaseOne()
		require.Equal(h, id, lease.Message.ID)
		h.settle(lease, spool.Done)
	}
}

func orderHoldsOverReopening(h *harness) {
	ids := h.acceptMany(6, 1)
	for i, id := range ids {
		lease := h.leaseOne()
		require.Equal(h, id, lease.Message.ID)
		if i%2 == 0 {
			h.reopen() // gives it back
			lease = h.leaseOne()
			require.Equal(h, id, lease.Message.ID)
		}
		h.settle(lease, spool.Done)
	}
}

var leases = map[string]func(*harness){
	"leased is leased to nobody else":               leasedOnce,
	"a lease ends once":                             aLeaseEndsOnce,
	"what was tried and what was not is told apart": classesComeAsAsked,
	"replayed ones come last":                       replayedComeLast,
	"what is to be avoided is not leased":           avoided,
	"lease says when to ask again":                  nextIsTold,
	"a retry is due after its delay":                retriesAreDue,
	"the watcher is told what may be leased":        theWatcherIsTold,
	"an unknown route has nothing":                  unknownRoutes,
	"closing gives back what is leased":             closingGivesBack,
	"a message is the lease's own":                  messagesAreCopies,
	"a lease outlasts its time while it is alive":   leasesAreRenewed,
}

func leasedOnce(h *harness) {
	ids := make(map[spool.ID]bool)
	for key := range uint64(50) {
		ids[h.acceptMany(1, key+1)[0]] = true
	}
	for len(ids) > 0 {
		for _, lease := range leaseFor(h, h.Store, spool.LeaseRequest{Route: route, Max: 7}) {
			require.True(h, ids[lease.Message.ID])
			require.WithinDuration(h, time.Now(), lease.At, time.Minute)
			delete(ids, lease.Message.ID)
		}
	}
	h.requireNone()
}

func aLeaseEndsOnce(h *harness) {
	id := h.acceptMany(1, 1)[0]
	first := h.leaseOne()
	h.settle(first, spool.Return)
	second := h.leaseOne()
	h.settle(first, spool.Done)
	h.settle(first, spool.Bury)
	h.flush()
	require.Equal(h, spool.Pending, h.get(id).State)
	h.requireNone()
	h.settle(second, spool.Bury)
	h.settle(second, spool.Done)
	h.flush()
	require.Equal(h, spool.Dead, h.get(id).State)
}

// retried accepts a message, fails with it, and has it due again.
func (h *harness) retried(s sample) spool.ID {
	h.Helper()
	id := h.accept(s)
	for _, lease := range h.leaseAll(spool.LeaseRequest{Route: route, Max: 100}) {
		if lease.Message.ID == id {
			h.Settle(lease, spool.Settlement{Verdict: spool.Retry, Attempt: attempt(spool.Retry)})
		} else {
			h.settle(lease, spool.Return)
		}
	}
	h.flush()
	return id
}

func classesComeAsAsked(h *harness) {
	due := h.retried(sample{text: "due", key: 1})
	fresh := h.accept(sample{text: "fresh", key: 2})
	for _, c := range []struct {
		tried bool
		want  spool.ID
	}{{false, fresh}, {true, due}} {
		leased := leaseClass(h, h.Store, spool.LeaseRequest{Route: route, Max: 100, Tried: c.tried})
		require.Equal(h, []spool.ID{c.want}, idsOf(leased))
		h.settle(leased[0], spool.Return)
	}
}

func replayedComeLast(h *harness) {
	dead := h.accept(sample{text: "dead", key: 1})
	h.settle(h.leaseOne(), spool.Bury)
	h.flush()
	require.NoError(h, h.Replay(h.background(), dead))
	due := h.retried(sample{text: "due", key: 2})
	fresh := h.accept(sample{text: "fresh", key: 3})
	newest := h.accept(sample{text: "newest", key: 4})
	one := spool.LeaseRequest{Route: route, Max: 1, Newest: true}
	for _, want := range []spool.ID{newest, fresh, dead} {
		leased := leaseClass(h, h.Store, one)
		require.Equal(h, []spool.ID{want}, idsOf(leased))
		if want == dead {
			h.Settle(leased[0], spool.Settlement{Verdict: spool.Retry, Attempt: attempt(spool.Retry)})
		}
	}
	h.flush()
	due2 := h.retried(sample{text: "due, too", key: 5})
	all := leaseClass(h, h.Store, spool.LeaseRequest{Route: route, Max: 100, Tried: true})
	require.Equal(h, []spool.ID{due, due2, dead}, idsOf(all))
}

func destinations(all ...spool.Destination) spool.Destinations {
	set := make(spool.Destinations)
	for _, d := range all {
		set[d] = struct{}{}
	}
	return set
}

func avoided(h *harness) {
	var ids []spool.ID
	for i := range uint64(10) {
		ids = append(
			ids,
			h.accept(
				sample{text: string(rune('a' + i)), key: i + 1, destination: spool.Destination(i % 5 << 61)},
			),
		)
	}
	avoided := spool.LeaseRequest{Route: route, Max: 100, Avoid: destinations(4<<61, 0, 1<<61, 77)}
	var leased []*spool.Lease
	eventually(h, func() bool { // in the store's own time, as it may have to look through many
		leased = append(leased, h.leaseAll(avoided)...)
		return len(leased) >= 4
	})
	require.ElementsMatch(h, []spool.ID{ids[2], ids[3], ids[7], ids[8]}, idsOf(leased))
	require.Empty(h, h.leaseAll(avoided))
	leased = h.leaseAll(spool.LeaseRequest{Route: route, Max: 100, Avoid: destinations(1<<64 - 1)})
	require.Len(h, leased, 6)
}

func nextIsTold(h *harness) {
	ask := func() time.Duration {
		h.Helper()
		h.flush()
		leased, err := h.Lease(h.background(), spool.LeaseRequest{Route: route, Max: 100, Tried: true})
		require.NoError(h, err)
		require.Empty(h, leased.Leases)
		return leased.Next
	}
	require.Negative(h, ask())
	h.acceptMany(2, 1)
	h.settle(h.leaseOne(), spool.Retry)
	require.InDelta(h, defaultWait, ask(), float64(time.Minute))
	h.acceptMany(2, 2)
	h.Settle(h.leaseOne(), spool.Settlement{Verdict: spool.Retry, Delay: defaultWait / 2})
	require.InDelta(h, defaultWait/2, ask(), float64(time.Minute))
	require.NoError(h, h.Pause(h.background(), route, true))
	require.Negative(h, ask(), "of a paused route nothing waits for a time")
}

func retriesAreDue(h *harness) {
	id := h.acceptMany(1, 1)[0]
	const delay = 300 * time.Millisecond
	lease := h.leaseOne()
	began := time.Now()
	h.Settle(
		lease,
		spool.Settlement{Verdict: spool.Retry, Delay: delay, Attempt: attempt(spool.Retry)},
	)
	again := leaseFor(h, h.Store, spool.LeaseRequest{Route: route, Max: 10})
	require.Equal(h, []spool.ID{id}, idsOf(again))
	require.GreaterOrEqual(h, time.Since(began), delay-20*time.Millisecond)
	require.Equal(h, 1, again[0].Message.Tries)
}

func theWatcherIsTold(h *harness) {
	told := func(what func()) {
		h.Helper()
		h.flush()
		drain(h.watched)
		what()
		h.waitForWatch(h.watched, route)
	}
	var ids []spool.ID
	told(func() { ids = h.acceptMany(3, 1) })
	lease := h.leaseOne()
	told(func() { h.settle(lease, spool.Return) })
	lease = h.leaseOne()
	told(func() { h.settle(lease, spool.Bury) })
	told(func() { require.NoError(h, h.Replay(h.background(), ids[0])) })
	told(func() { _, err := h.Drop(h.background(), ids[0]); require.NoError(h, err) })
	require.NoError(h, h.Pause(h.background(), route, true))
	told(func() { require.NoError(h, h.Pause(h.background(), route, false)) })
}

func unknownRoutes(h *harness) {
	h.acceptMany(1, 1)
	for _, name := range []string{"never seen", ""} {
		leased, err := h.Lease(h.background(), spool.LeaseRequest{Route: name, Max: 5})
		require.NoError(h, err)
		require.Empty(h, leased.Leases)
		require.Negative(h, leased.Next)
	}
	require.Empty(h, h.list(spool.Filter{Route: "never seen"}))
	require.Zero(h, h.count(spool.Filter{Route: "never seen"}))
	require.NotContains(h, h.counts().Routes, "never seen")
}

func closingGivesBack(h *harness) {
	for key := range uint64(5) {
		h.acceptMany(2, key+1)
	}
	require.Len(h, h.leaseAll(spool.LeaseRequest{Route: route, Max: 100}), 5)
	h.reopen()
	leased := h.leaseAll(spool.LeaseRequest{Route: route, Max: 100})
	require.Len(h, leased, 5)
	for _, lease := range leased {
		require.Zero(h, lease.Message.Tries)
	}
}

func messagesAreCopies(h *harness) {
	id := h.acceptMany(1, 1)[0]
	lease := h.leaseOne()
	lease.Message.Tries, lease.Message.State, lease.Message.Route = 77, spool.Dead, "else"
	h.Settle(lease, spool.Settlement{Verdict: spool.Retry, Attempt: attempt(spool.Retry)})
	h.flush()
	require.Equal(h, 1, h.get(id).Tries)
	require.Equal(h, spool.Pending, h.get(id).State)
}

// leasesAreRenewed is of use where leases end by themselves.
func leasesAreRenewed(h *harness) {
	if h.factory.LeaseTime == 0 {
		h.Skip("leases of this store do not end by themselves")
	}
	id := h.acceptMany(1, 1)[0]
	lease := h.leaseOne()
	select {
	case <-lease.Lost:
		require.FailNow(h, "the lease was lost")
	case <-time.After(3 * h.factory.LeaseTime):
	}
	h.requireNone()
	h.settle(lease, spool.Bury)
	h.flush()
	require.Equal(h, spool.Dead, h.get(id).State)
}

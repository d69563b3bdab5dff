package storetest

import (
	"fmt"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
)

var shared = map[string]func(*harness){
	"senders and deliveries over four stores":            fourStores,
	"what one accepted another delivers, soon":           othersDeliver,
	"a message is leased by one store only":              oneStoreOnly,
	"duplicates are recognised over stores":              duplicatesOverStores,
	"order holds over stores":                            orderOverStores,
	"pausing holds for all":                              pausingForAll,
	"closing gives back to others":                       closingForOthers,
	"the leases of one that died go to others":           leasesOfTheDead,
	"what is dropped by another is forgotten in the end": droppedByAnother,
	"counts and lists are the same for all":              sameForAll,
	"gateways are known to each other":                   gatewaysAreKnown,
	"the streams of one that died are lost to others":    streamsOfTheDead,
}

// others opens more stores at the place of the first.
func (h *harness) others(n int) (stores []spool.Store) {
	h.Helper()
	for range n {
		store := h.open()
		h.Cleanup(func() { _ = store.Close(h.background()) })
		stores = append(stores, store)
	}
	return stores
}

func fourStores(h *harness) { everythingAtOnce(h, append(h.others(3), h.Store)) }

func othersDeliver(h *harness) {
	other := h.others(1)[0]
	watched := watch(other)
	// It has to have asked to be told.
	require.Empty(h, leaseAll(h, other, spool.LeaseRequest{Route: route, Max: 1}))
	h.accept(sample{text: "first", key: 1})
	h.settle(leaseFor(h, h.Store, spool.LeaseRequest{Route: route, Max: 1})[0], spool.Done)
	for i := range 5 {
		h.flush()
		drain(watched)
		id := h.accept(sample{text: fmt.Sprint(i), key: 1})
		h.waitForWatch(watched, route)
		leased := leaseFor(h, other, spool.LeaseRequest{Route: route, Max: 1})
		require.Equal(h, []spool.ID{id}, idsOf(leased))
		body, err := other.Body(h.background(), id)
		require.NoError(h, err)
		require.NoError(h, body.Close())
		other.Settle(leased[0], spool.Settlement{Verdict: spool.Done})
		require.NoError(h, other.Flush(h.background()))
	}
}

func oneStoreOnly(h *harness) {
	stores := append(h.others(3), h.Store)
	for key := range uint64(60) {
		h.acceptMany(2, key+1)
	}
	var all [4][]spool.ID
	inParallel(
		4,
		func(i int) { all[i] = idsOf(leaseAll(h, stores[i], spool.LeaseRequest{Route: route, Max: 30})) },
	)
	seen := make(map[spool.ID]bool)
	for _, ids := range all {
		for _, id := range ids {
			require.False(h, seen[id])
			seen[id] = true
		}
	}
	for _, store := range stores {
		leaseAll(h, store, spool.LeaseRequest{Route: route, Max: 100})
	}
	h.requireNone()
	require.Equal(h, 60, h.counts().Routes[route].InFlight)
}

func duplicatesOverStores(h *harness) {
	stores := append(h.others(3), h.Store)
	for i := range 20 {
		text := fmt.Sprint("text ", i)
		var receipts [8]spool.Receipt
		inParallel(8, func(n int) {
			var err error
			if receipts[n], err = put(h.background(), stores[n%4], sample{text: text, key: uint64(i%3 + 1)}); err != nil {
				h.Error(err)
			}
		})
		originals := 0
		for _, receipt := range receipts {
			require.Equal(h, receipts[0].ID, receipt.ID)
			if !receipt.Duplicate {
				originals++
			}
		}
		require.Equal(h, 1, originals)
	}
	require.Equal(h, int64(20), h.count(spool.Filter{}))
	require.Equal(h, int64(20), h.counts().Routes[route].Pending)
	require.Equal(h, int64(20), h.counts().Fingerprints)
}

func orderOverStores(h *harness) {
	stores := append(h.others(2), h.Store)
	var ids []spool.ID
	for i := range 30 {
		receipt, err := put(h.background(), stores[i%3], sample{text: fmt.Sprint(i), key: 9})
		require.NoError(h, err)
		if i > 0 {
			require.Positive(h, receipt.ID.Compare(ids[i-1]))
		}
		ids = append(ids, receipt.ID)
	}
	for i, id := range ids {
		store := stores[i*2%3]
		leased := leaseFor(h, store, spool.LeaseRequest{Route: route, Max: 10})
		require.Equal(h, []spool.ID{id}, idsOf(leased))
		store.Settle(leased[0], spool.Settlement{Verdict: spool.Done})
		require.NoError(h, store.Flush(h.background()))
	}
}

func pausingForAll(h *harness) {
	other := h.others(1)[0]
	h.acceptMany(1, 1)
	require.NoError(h, other.Pause(h.background(), route, true))
	h.requireNone()
	require.True(h, h.counts().Routes[route].Paused)
	drain(h.watched)
	require.NoError(h, other.Pause(h.background(), route, false))
	h.waitForWatch(h.watched, route)
	h.leaseOne()
}

func closingForOthers(h *harness) {
	other := h.others(1)[0]
	ids := []spool.ID{h.acceptMany(2, 1)[0], h.acceptMany(2, 2)[0]}
	require.Len(h, leaseAll(h, other, spool.LeaseRequest{Route: route, Max: 10}), 2)
	h.requireNone()
	drain(h.watched)
	require.NoError(h, other.Close(h.background()))
	h.waitForWatch(h.watched, route)
	require.ElementsMatch(h, ids, idsOf(h.leaseAll(spool.LeaseRequest{Route: route, Max: 10})))
}

func leasesOfTheDead(h *harness) {
	if h.factory.Abandon == nil {
		h.Skip("this store cannot be abandoned")
	}
	other := h.open()
	ids := h.acceptMany(3, 1)
	require.Len(h, leaseAll(h, other, spool.LeaseRequest{Route: route, Max: 10}), 1)
	began := time.Now()
	h.factory.Abandon(other)
	h.requireNone()
	leased, err := h.Lease(h.background(), spool.LeaseRequest{Route: route, Max: 10})
	require.NoError(h, err)
	require.Positive(h, leased.Next, "that is when it is worth asking again")
	require.LessOrEqual(h, leased.Next, h.factory.LeaseTime)
	again := leaseFor(h, h.Store, spool.LeaseRequest{Route: route, Max: 10})
	require.Equal(h, ids[:1], idsOf(again))
	require.Less(h, time.Since(began), 5*h.factory.LeaseTime)
	h.settle(again[0], spool.Done)
	require.Equal(h, ids[1], h.leaseOne().Message.ID)
}

func droppedByAnother(h *harness) {
	other := h.others(1)[0]
	ids := h.acceptMany(2, 1)
	lease := h.leaseOne()
	_, err := other.Drop(h.background(), ids[0])
	require.ErrorIs(h, err, spool.ErrInFlight)
	require.ErrorIs(h, other.Replay(h.background(), ids[0]), spool.ErrInFlight)
	h.settle(lease, spool.Retry)
	require.Equal(h, ids[1], h.leaseOne().Message.ID)
	h.flush()
	h.requireGone(ids[0])
}

func sameForAll(h *harness) {
	other := h.others(1)[0]
	h.end(sample{text: "a", key: 1}, spool.Bury)
	h.end(sample{text: "b", key: 2}, spool.Done)
	h.acceptMany(3, 3)
	h.leaseOne()
	mine := h.counts()
	theirs, err := other.Counts(h.background())
	require.NoError(h, err)
	require.Equal(h, mine.Routes, theirs.Routes)
	require.Equal(h, mine.Bytes, theirs.Bytes)
	list, err := other.List(h.background(), spool.Filter{Newest: true})
	require.NoError(h, err)
	require.Equal(h, listed(h.list(spool.Filter{Newest: true})), listed(list))
}

func gatewaysAreKnown(h *harness) {
	others := h.others(2)
	self, ok := h.Store.(spool.Shared)
	require.True(h, ok, "a store that is shared knows its users")
	h.acceptMany(1, 1)
	require.Len(h, leaseAll(h, others[1], spool.LeaseRequest{Route: route, Max: 1}), 1)
	eventually(h, func() bool {
		list, err := self.Gateways(h.background())
		require.NoError(h, err)
		selves, leased := 0, 0
		for _, g := range list {
			require.WithinDuration(h, time.Now(), g.LastSeen, time.Minute)
			require.False(h, g.Since.After(g.LastSeen))
			leased += g.Leases
			if g.Self {
				selves++
			}
		}
		return len(list) == 3 && selves == 1 && leased == 1
	})
	require.NoError(h, others[0].Close(h.background()))
	list, err := self.Gateways(h.background())
	require.NoError(h, err)
	require.Len(h, list, 2)
}

func streamsOfTheDead(h *harness) {
	if h.factory.Abandon == nil {
		h.Skip("this store cannot be abandoned")
	}
	living, dying := h.others(1)[0], h.open()
	require.NoError(h, living.NoteStream(h.background(), spool.OpenStream{ID: "lives", Data: []byte{1}}))
	want := []spool.OpenStream{{ID: "dies", Route: route, Data: []byte{2}}}
	require.NoError(h, dying.NoteStream(h.background(), want[0]))
	began := time.Now()
	for time.Since(began) < 2*h.factory.LeaseTime {
		h.requireNoneLost()
		time.Sleep(h.factory.LeaseTime / 10)
	}
	h.factory.Abandon(dying)
	h.requireLost(want)
	require.NoError(h, h.ForgetStream(h.background(), "dies"))
	lost, err := living.LostStreams(h.background())
	require.NoError(h, err)
	require.Empty(h, lost, "forgotten is forgotten for all")
}

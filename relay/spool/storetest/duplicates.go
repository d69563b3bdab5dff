package storetest

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
)

var duplicates = map[string]func(*harness){
	"a duplicate is the original, whatever became of it": duplicateOfAnything,
	"duplicates at once are one message":                 duplicatesAtOnce,
	"a message out of the window is a new one":           outOfTheWindow,
	"without a fingerprint nothing is a duplicate":       noFingerprint,
	"senders who give up leave one message at most":      sendersGiveUp,
	"a duplicate of one that failed takes its place":     duplicateOfAFailedOne,
	"a duplicate leaves nothing behind":                  duplicateLeavesNothing,
}

func duplicateOfAnything(h *harness) {
	for i, end := range []func(id spool.ID, lease *spool.Lease){
		func(_ spool.ID, lease *spool.Lease) { h.settle(lease, spool.Return) },
		func(_ spool.ID, lease *spool.Lease) { h.settle(lease, spool.Done) },
		func(_ spool.ID, lease *spool.Lease) { h.settle(lease, spool.Bury) },
		func(_ spool.ID, lease *spool.Lease) { h.Settle(lease, spool.Settlement{Keep: true}) },
		func(id spool.ID, lease *spool.Lease) {
			h.settle(lease, spool.Return)
			h.flush()
			_, err := h.Drop(h.background(), id)
			require.NoError(h, err)
		},
	} {
		text := fmt.Sprint("text ", i)
		id := h.accept(sample{text: text, key: 1})
		again := func() {
			h.Helper()
			receipt, err := put(h.background(), h.Store, sample{text: text, key: 1})
			require.NoError(h, err)
			require.Equal(h, spool.Receipt{ID: id, Duplicate: true, Size: int64(len(text))}, receipt)
		}
		again()
		lease := h.leaseOne()
		require.Equal(h, id, lease.Message.ID)
		again()
		end(id, lease)
		again()
		h.flush()
		again()
		h.reopen()
		again()
		for _, m := range h.list(spool.Filter{}) {
			_, err := h.Drop(h.background(), m.ID)
			require.NoError(h, err)
		}
		h.requireNone()
	}
}

func duplicatesAtOnce(h *harness) {
	for _, text := range []string{"small", strings.Repeat("large", 100_000)} {
		var mu sync.Mutex
		ids := make(map[spool.ID]int)
		originals := 0
		inParallel(24, func(int) {
			receipt, err := put(h.background(), h.Store, sample{text: text, key: 5})
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				h.Error(err)
			}
			ids[receipt.ID]++
			if !receipt.Duplicate {
				originals++
			}
		})
		require.Len(h, ids, 1)
		require.Equal(h, 1, originals)
	}
	require.Len(h, h.list(spool.Filter{}), 2)
	h.settle(h.leaseOne(), spool.Done)
	h.settle(h.leaseOne(), spool.Done)
	h.requireNone()
}

func outOfTheWindow(h *harness) {
	first := h.accept(sample{text: "a", key: 1})
	var second spool.ID
	eventually(h, func() bool {
		receipt, err := put(h.background(), h.Store, sample{text: "a", key: 1, window: time.Millisecond})
		require.NoError(h, err)
		second = receipt.ID
		return !receipt.Duplicate
	})
	require.Positive(h, second.Compare(first))
	receipt, err := put(h.background(), h.Store, sample{text: "a", key: 1})
	require.NoError(h, err)
	require.Equal(h, spool.Receipt{ID: second, Duplicate: true, Size: 1}, receipt)
	require.Equal(h, []spool.ID{first, second}, listed(h.list(spool.Filter{})))
}

func noFingerprint(h *harness) {
	for range 3 {
		h.accept(sample{text: "a", repeatable: true, key: 1})
	}
	inParallel(8, func(int) {
		receipt, err := put(h.background(), h.Store, sample{text: "a", repeatable: true})
		if err != nil || receipt.Duplicate {
			h.Error(receipt, err)
		}
	})
	require.Equal(h, int64(11), h.count(spool.Filter{}))
}

func sendersGiveUp(h *harness) {
	for i := range 20 {
		text := fmt.Sprint("text ", i)
		var mu sync.Mutex
		ids := make(map[spool.ID]bool)
		inParallel(6, func(n int) {
			ctx, cancel := context.WithTimeout(h.background(), time.Duration(n*i)*50*time.Microsecond)
			defer cancel()
			receipt, err := put(ctx, h.Store, sample{text: text, key: uint64(i + 1)})
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				ids[receipt.ID] = true
			}
		})
		receipt, err := put(h.background(), h.Store, sample{text: text, key: uint64(i + 1)})
		require.NoError(h, err)
		ids[receipt.ID] = true
		require.Len(h, ids, 1)
	}
	require.Equal(h, int64(20), h.count(spool.Filter{}))
	require.Len(h, h.leaseAll(spool.LeaseRequest{Route: route, Max: 100}), 20)
}

// duplicateOfAFailedOne has the store refuse a message for lack of room, and accept it when there
// is some.
func duplicateOfAFailedOne(h *harness) {
	h.SetLimits(spool.Limits{MaxBytes: 1, Fingerprints: longWindow})
	inParallel(6, func(int) {
		_, err := put(h.background(), h.Store, sample{text: "a text"})
		var refused *spool.RefusedError
		if !errorAs(err, &refused) || refused.Reason != spool.ReasonFull || refused.RetryAfter <= 0 {
			h.Error(err)
		}
	})
	h.SetLimits(spool.Limits{Fingerprints: longWindow})
	h.accept(sample{text: "a text"})
	require.Equal(h, int64(1), h.count(spool.Filter{}))
}

// duplicateLeavesNothing repeats messages, which have been delivered or wait for others, as if they
// were for a destination that is avoided. What comes after them is for another one, and is leased.
func duplicateLeavesNothing(h *harness) {
	const healthy, away = 1, 2
	repeat := func(key uint64) {
		h.Helper()
		receipt, err := put(h.background(), h.Store, sample{text: "gone", key: key, destination: away})
		require.NoError(h, err)
		require.True(h, receipt.Duplicate)
	}
	h.end(sample{text: "gone", destination: healthy}, spool.Done)
	repeat(1)
	first := h.accept(sample{text: "first", key: 1, destination: healthy})
	repeat(1)
	second := h.accept(sample{text: "second", key: 1, destination: healthy})
	repeat(0)

	avoided := spool.LeaseRequest{Route: route, Max: 10, Avoid: destinations(away)}
	for _, id := range []spool.ID{first, second} {
		leased := h.leaseAll(avoided)
		require.Len(h, leased, 1)
		require.Equal(h, id, leased[0].Message.ID)
		repeat(1)
		h.settle(leased[0], spool.Done)
		h.flush()
	}
	require.Empty(h, h.leaseAll(avoided))
	require.Empty(h, h.leaseAll(spool.LeaseRequest{Route: route, Max: 10}))
	h.requireNone()
}

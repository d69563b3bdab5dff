package storetest

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
)

var history = map[string]func(*harness){
	"listing by pages, oldest and newest first":       listingPages,
	"listing what a filter selects":                   listingSome,
	"listing by time of receipt":                      listingByTime,
	"a page does not move while messages come and go": cursorsAreStable,
	"counts are what is there":                        countsAreRight,
	"those that are to be tried again are counted":    retryingAreCounted,
	"counting what a filter selects":                  countingSome,
}

// allPages lists page by page.
func (h *harness) allPages(filter spool.Filter) (ids []spool.ID) {
	h.Helper()
	for {
		page := h.list(filter)
		if len(page) == 0 {
			return ids
		}
		limit := filter.Limit
		if limit == 0 {
			limit = spool.DefaultListLimit
		}
		require.LessOrEqual(h, len(page), limit)
		ids = append(ids, listed(page)...)
		filter.After = ids[len(ids)-1]
	}
}

func reversed(ids []spool.ID) []spool.ID {
	ids = slices.Clone(ids)
	slices.Reverse(ids)
	return ids
}

func listingPages(h *harness) {
	var ids []spool.ID
	for i := range 230 {
		ids = append(
			ids,
			h.accept(
				sample{text: fmt.Sprint(i), key: uint64(i + 1), route: []string{route, otherRoute}[i%2]},
			),
		)
	}
	for i, lease := range h.leaseAll(spool.LeaseRequest{Route: route, Max: 1000}) {
		h.settle(lease, []spool.Verdict{spool.Bury, spool.Retry, spool.Return}[i%3])
	}
	h.flush()
	for _, limit := range []int{0, 1, 7, 1000} {
		if limit == 1 && len(ids) > 100 {
			continue
		}
		require.Equal(h, ids, h.allPages(spool.Filter{Limit: limit}))
		require.Equal(h, reversed(ids), h.allPages(spool.Filter{Limit: limit, Newest: true}))
	}
	require.Len(h, h.list(spool.Filter{}), spool.DefaultListLimit)
	require.Empty(h, h.list(spool.Filter{After: ids[len(ids)-1]}))
	require.Empty(h, h.list(spool.Filter{After: ids[0], Newest: true}))
}

func listingSome(h *harness) {
	type entry struct {
		id        spool.ID
		state     spool.State
		route     string
		requestID string
		user      string
	}
	var all []entry
	for i := range 48 {
		e := entry{
			route: []string{route, otherRoute}[i%2], requestID: []string{"", "x", "y"}[i/2%3], user: []string{"", "ann"}[i/6%2],
			state: []spool.State{spool.Pending, spool.Dead, spool.Delivered, spool.Pending}[i/12],
		}
		s := sample{
			text:      fmt.Sprint(i),
			key:       uint64(i + 1),
			route:     e.route,
			requestID: e.requestID,
			user:      e.user,
		}
		e.id = h.end(
			s,
			map[spool.State]spool.Verdict{spool.Pending: spool.Return, spool.Dead: spool.Bury, spool.Delivered: spool.Done}[e.state],
		)
		all = append(all, e)
	}
	for _, state := range []spool.State{"", spool.Pending, spool.Dead, spool.Delivered} {
		for _, name := range []string{"", route, otherRoute} {
			for _, requestID := range []string{"", "x", "z"} {
				for _, user := range []string{"", "ann"} {
					var want []spool.ID
					for _, e := range all {
						if (state == "" || e.state == state) && (name == "" || e.route == name) &&
							(requestID == "" || e.requestID == requestID) &&
							(user == "" || e.user == user) {
							want = append(want, e.id)
						}
					}
					filter := spool.Filter{State: state, Route: name, RequestID: requestID, User: user, Limit: 5}
					require.Equal(h, int64(len(want)), h.count(filter))
					require.Equal(h, want, h.allPages(filter))
					filter.Newest = true
					require.ElementsMatch(h, want, h.allPages(filter))
					if len(want) > 0 {
						require.Equal(h, want[len(want)-1], h.list(filter)[0].ID)
					}
				}
			}
		}
	}
}

func listingByTime(h *harness) {
	ids := h.acceptMany(5, 1)
	var at []time.Time
	for _, id := range ids {
		at = append(at, h.get(id).ReceivedAt)
	}
	require.True(h, slices.IsSortedFunc(at, time.Time.Compare))
	require.Equal(h, ids[1:4], listed(h.list(spool.Filter{Since: at[1], Until: at[4]})))
	require.Equal(
		h,
		reversed(ids[1:4]),
		listed(h.list(spool.Filter{Since: at[1], Until: at[4], Newest: true})),
	)
	require.Equal(h, ids[3:], listed(h.list(spool.Filter{Since: at[3]})))
	require.Equal(h, ids[:3], listed(h.list(spool.Filter{Until: at[3]})))
	require.Equal(
		h,
		ids[2:3],
		listed(h.list(spool.Filter{Since: at[1], Until: at[4], After: ids[1], Limit: 1})),
	)
	require.Equal(
		h,
		ids[2:3],
		listed(h.list(spool.Filter{Since: at[1], Until: at[4], After: ids[3], Limit: 1, Newest: true})),
	)
	require.Equal(h, int64(3), h.count(spool.Filter{Since: at[1], Until: at[4]}))
	require.Empty(h, h.list(spool.Filter{Since: time.Now().Add(time.Hour)}))
	require.Empty(h, h.list(spool.Filter{Until: at[0]}))
}

func cursorsAreStable(h *harness) {
	ids := h.acceptMany(30, 0)
	oldest := h.list(spool.Filter{Limit: 10})
	newest := h.list(spool.Filter{Limit: 10, Newest: true})
	more := h.accept(sample{text: "more"})
	for _, id := range []spool.ID{ids[3], ids[9], ids[20], ids[25]} { // also what the cursors are at
		_, err := h.Drop(h.background(), id)
		require.NoError(h, err)
	}
	require.Equal(
		h,
		append(slices.Clone(ids[10:20]), append(ids[21:25], append(ids[26:], more)...)...),
		h.allPages(spool.Filter{Limit: 10, After: oldest[9].ID}),
	)
	require.Equal(
		h,
		reversed(append(append(slices.Clone(ids[:3]), ids[4:9]...), ids[10:20]...)),
		h.allPages(spool.Filter{Limit: 10, Newest: true, After: newest[9].ID}),
	)
}

func countsAreRight(h *harness) {
	require.Empty(h, h.counts().Routes)
	h.SetLimits(spool.Limits{MaxBytes: 1 << 40, Fingerprints: longWindow})
	oldest := h.accept(sample{text: "12345", key: 1})
	h.accept(sample{text: "123", key: 2})
	h.end(sample{text: "1234567", key: 3}, spool.Bury)
	h.end(sample{text: "12", key: 4}, spool.Done)
	h.accept(sample{text: "1", route: otherRoute, repeatable: true})
	leased := h.leaseAll(spool.LeaseRequest{Route: route, Max: 1})
	require.Zero(h, h.counts().Routes[route].Retrying)
	for range 2 {
		counts := h.counts()
		require.Len(h, counts.Routes, 2)
		c := counts.Routes[route]
		require.Equal(
			h,
			[6]int64{2, 8, 1, 7, 1, 2},
			[6]int64{c.Pending, c.PendingBytes, c.Dead, c.DeadBytes, c.Delivered, c.DeliveredBytes},
		)
		require.Equal(h, len(leased), c.InFlight)
		require.True(h, h.get(oldest).ReceivedAt.Equal(c.OldestPending))
		require.False(h, c.Paused)
		require.Equal(h, int64(1), counts.Routes[otherRoute].Pending)
		require.GreaterOrEqual(h, counts.Bytes, int64(18))
		require.Equal(h, int64(4), counts.Fingerprints)
		require.Empty(h, counts.Refusing)
		h.reopen()
		leased = nil
		h.SetLimits(spool.Limits{MaxBytes: 1 << 40, Fingerprints: longWindow})
		require.Equal(h, int64(1<<40), h.counts().MaxBytes)
	}
	for _, m := range h.list(spool.Filter{}) {
		_, err := h.Drop(h.background(), m.ID)
		require.NoError(h, err)
	}
	require.Empty(h, h.counts().Routes)
}

func retryingAreCounted(h *harness) {
	retrying := func(want int) {
		h.Helper()
		h.flush()
		require.Equal(h, want, h.counts().Routes[route].Retrying)
	}
	failed := h.retried(sample{text: "fails", key: 1})
	h.accept(sample{text: "waits behind it", key: 1})
	h.retried(sample{text: "fails, too"})
	retrying(2)
	leased := h.leaseAll(spool.LeaseRequest{Route: route, Max: 10, Tried: true})
	require.Len(h, leased, 2)
	retrying(2) // which are in another attempt
	h.settle(leased[0], spool.Return)
	h.settle(leased[1], spool.Retry)
	retrying(2)
	h.reopen()
	retrying(2)
	require.NoError(h, h.Replay(h.background(), failed))
	retrying(1) // as it begins anew
	for _, m := range h.list(spool.Filter{}) {
		_, err := h.Drop(h.background(), m.ID)
		require.NoError(h, err)
	}
	h.end(sample{text: "dies", key: 2}, spool.Bury)
	retrying(0)
	for i := range spool.MaxRetrying + 1 {
		h.accept(sample{text: fmt.Sprint(i)})
	}
	for left := spool.MaxRetrying + 1; left > 0; {
		for _, lease := range h.leaseAll(spool.LeaseRequest{Route: route, Max: 100}) {
			h.settle(lease, spool.Retry)
			left--
		}
	}
	retrying(spool.MaxRetrying)
}

func countingSome(h *harness) {
	h.end(sample{text: "a", key: 1}, spool.Bury)
	ids := h.acceptMany(3, 2)
	require.Equal(h, int64(4), h.count(spool.Filter{}))
	require.Equal(
		h,
		int64(4),
		h.count(spool.Filter{Limit: 1, After: ids[1], Newest: true}),
		"these have no meaning",
	)
	require.Equal(h, int64(3), h.count(spool.Filter{State: spool.Pending}))
	require.Zero(h, h.count(spool.Filter{EndedFor: time.Hour}))
	require.Equal(h, int64(1), h.count(spool.Filter{EndedFor: time.Nanosecond}))
}

var limits = map[string]func(*harness){
	"a full store refuses, and goes on when there is room": fullRefuses,
	"kept messages give way, oldest first":                 keptGiveWay,
	"what is pending or dead does not give way":            othersStay,
	"fingerprints are kept for as long as they are needed": fingerprintsStay,
}

const large = 40_000

func text(n int) string { return strings.Repeat(fmt.Sprintf("%09d ", n), large/10) }

// fill accepts texts of the same size, and then has room for no more than so many others.
func (h *harness) fill(n, room int, verdict spool.Verdict) (ids []spool.ID) {
	h.Helper()
	for i := range n {
		ids = append(ids, h.end(sample{text: text(i), key: uint64(i + 1)}, verdict))
	}
	h.SetLimits(
		spool.Limits{MaxBytes: h.counts().Bytes + int64(room)*(large+2000), Fingerprints: longWindow},
	)
	return ids
}

func fullRefuses(h *harness) {
	h.fill(3, 1, spool.Return)
	h.accept(sample{text: text(100)})
	_, err := put(h.background(), h.Store, sample{text: text(101)})
	var refused *spool.RefusedError
	require.ErrorAs(h, err, &refused)
	require.Equal(h, spool.ReasonFull, refused.Reason)
	require.Positive(h, refused.RetryAfter)
	for _, lease := range h.leaseAll(spool.LeaseRequest{Route: route, Max: 100}) {
		h.settle(lease, spool.Done)
	}
	h.flush()
	eventually(h, func() bool {
		receipt, err := put(h.background(), h.Store, sample{text: text(101)})
		return err == nil && !receipt.Duplicate
	})
}

func keptGiveWay(h *harness) {
	ids := h.fill(6, 0, spool.Done)
	for i := range 6 {
		h.accept(sample{text: text(100 + i)})
		kept := listed(h.list(spool.Filter{State: spool.Delivered}))
		require.Less(h, len(kept), len(ids)-i, "one at least gave way")
		require.True(h, slices.Equal(kept, ids[len(ids)-len(kept):]), "the oldest ones")
	}
}

func othersStay(h *harness) {
	h.end(sample{text: text(50), key: 50}, spool.Done)
	h.fill(3, 0, spool.Bury)
	h.accept(sample{text: text(100), key: 100}) // in the place of the kept one
	_, err := put(h.background(), h.Store, sample{text: text(101), key: 101})
	var refused *spool.RefusedError
	require.ErrorAs(h, err, &refused)
	require.Equal(h, int64(3), h.count(spool.Filter{State: spool.Dead}))
	require.Equal(h, int64(1), h.count(spool.Filter{State: spool.Pending}))
	require.Equal(h, spool.ReasonFull, h.counts().Refusing)
}

func fingerprintsStay(h *harness) {
	h.SetLimits(spool.Limits{Fingerprints: longWindow})
	for i := range 50 {
		h.accept(sample{text: fmt.Sprint(i)})
	}
	require.Equal(h, int64(50), h.counts().Fingerprints)
	for i := range 50 {
		receipt, err := put(h.background(), h.Store, sample{text: fmt.Sprint(i)})
		require.NoError(h, err)
		require.True(h, receipt.Duplicate)
	}
}

package storetest

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
)

var durability = map[string]func(*harness){
	"what was accepted is there after reopening":        everyFieldIsKept,
	"what became of a message is there after reopening": everyStateIsKept,
	"what was accepted survives a crash":                acceptedSurvivesACrash,
	"ids rise, also over reopening":                     idsRise,
	"a closed store says so":                            closedSaysSo,
	"a context that has ended ends what it is given to": contextsEnd,
	"accept tells what it has set":                      acceptTells,
}

func everyFieldIsKept(h *harness) {
	msg := sample{
		key:         1<<63 + 7,
		requestID:   "re\x00quest \xff" + strings.Repeat("x", 3000),
		user:        "ann\x00 \xfe",
		destination: 1<<63 + 9,
	}.message()
	msg.Method, msg.URI = "PUT", "/ü?sig=%2F\xff\x00"
	msg.Header = http.Header{
		":sealed":    {"\x00\x01\xff", ""},
		"Empty":      {},
		"Multi":      {"a", "b"},
		"lower-case": {"c"},
	}
	want := *msg
	body, err := h.NewBody(h.background(), -1)
	require.NoError(h, err)
	_, err = body.Write([]byte("{}"))
	require.NoError(h, err)
	receipt, err := h.Accept(h.background(), msg, spool.Fingerprint{1}, longWindow, body)
	require.NoError(h, err)

	check := func(got *spool.Message) {
		h.Helper()
		require.Equal(h, receipt.ID, got.ID)
		require.Equal(h, spool.Pending, got.State)
		require.Equal(h, want.Route, got.Route)
		require.Equal(h, want.Method, got.Method)
		require.Equal(h, want.URI, got.URI)
		require.Equal(h, len(want.Header), len(got.Header))
		for name, values := range want.Header {
			require.Contains(h, got.Header, name)
			require.Equal(h, append([]string{}, values...), append([]string{}, got.Header[name]...), name)
		}
		require.Equal(h, want.RequestID, got.RequestID)
		require.Equal(h, want.User, got.User)
		require.Equal(h, want.OrderKey, got.OrderKey)
		require.Equal(h, want.Destination, got.Destination)
		require.Equal(h, int64(2), got.Size)
		require.Zero(h, got.Tries)
		require.Empty(h, got.Attempts)
		require.False(h, got.Replayed)
		require.True(h, got.NextAttemptAt.IsZero())
		require.True(h, got.DiedAt.IsZero())
		require.True(h, got.DeliveredAt.IsZero())
		require.WithinDuration(h, time.Now(), got.ReceivedAt, time.Minute)
		require.WithinDuration(h, got.ReceivedAt, got.ScheduledFrom, time.Second)
	}
	for range 2 {
		check(h.get(receipt.ID))
		check(h.list(spool.Filter{})[0])
		check(h.list(spool.Filter{RequestID: want.RequestID})[0])
		check(h.list(spool.Filter{User: want.User})[0])
		h.requireBody(receipt.ID, "{}")
		lease := h.leaseOne()
		check(lease.Message)
		h.settle(lease, spool.Return)
		h.flush()
		h.reopen()
	}
}

func everyStateIsKept(h *harness) {
	ids := make(map[string]spool.ID)
	for i, name := range []string{"pending", "retried", "dead", "kept", "gone", "replayed", "returned"} {
		ids[name] = h.accept(sample{text: name, key: uint64(i + 1)})
	}
	for _, lease := range h.leaseAll(spool.LeaseRequest{Route: route, Max: 100}) {
		switch lease.Message.ID {
		case ids["retried"]:
			h.settle(lease, spool.Retry)
		case ids["dead"], ids["replayed"]:
			h.settle(lease, spool.Bury)
		case ids["kept"]:
			h.Settle(lease, spool.Settlement{Verdict: spool.Done, Keep: true, Attempt: attempt(spool.Done)})
		case ids["gone"]:
			h.settle(lease, spool.Done)
		case ids["returned"]:
			h.settle(lease, spool.Return)
		}
	}
	h.flush()
	require.NoError(h, h.Replay(h.background(), ids["replayed"]))
	for range 2 {
		require.Equal(h, spool.Pending, h.get(ids["pending"]).State)

		retried := h.get(ids["retried"])
		require.Equal(h, spool.Pending, retried.State)
		require.Equal(h, 1, retried.Tries)
		require.Equal(h, attempt(spool.Retry).Error, retried.LastError)
		require.WithinDuration(h, time.Now().Add(defaultWait), retried.NextAttemptAt, time.Minute)

		dead := h.get(ids["dead"])
		require.Equal(h, spool.Dead, dead.State)
		require.WithinDuration(h, time.Now(), dead.DiedAt, time.Minute)
		require.True(h, dead.NextAttemptAt.IsZero())
		require.Len(h, dead.Attempts, 1)
		requireAttempt(h, attempt(spool.Bury), dead.Attempts[0])

		kept := h.get(ids["kept"])
		require.Equal(h, spool.Delivered, kept.State)
		require.WithinDuration(h, time.Now(), kept.DeliveredAt, time.Minute)
		require.True(h, kept.DiedAt.IsZero())
		require.Equal(h, 1, kept.Tries)
		require.Empty(h, kept.LastError)
		requireAttempt(h, attempt(spool.Done), kept.Attempts[0])
		h.requireBody(ids["kept"], "kept")

		h.requireGone(ids["gone"])

		replayed := h.get(ids["replayed"])
		require.Equal(h, spool.Pending, replayed.State)
		require.True(h, replayed.Replayed)
		require.Zero(h, replayed.Tries)
		require.Len(h, replayed.Attempts, 1, "what was tried before stays known")
		require.True(h, replayed.DiedAt.IsZero())

		returned := h.get(ids["returned"])
		require.Zero(h, returned.Tries)
		require.Empty(h, returned.Attempts)
		h.reopen()
	}
}

func requireAttempt(h *harness, want, got spool.Attempt) {
	h.Helper()
	require.True(h, want.At.Equal(got.At))
	got.At = want.At
	require.Equal(h, want, got)
}

func acceptedSurvivesACrash(h *harness) {
	if h.factory.Abandon == nil {
		h.Skip("this store cannot be abandoned")
	}
	texts := []string{"a", "b", strings.Repeat("large", 100_000)}
	var ids []spool.ID
	for _, text := range texts {
		ids = append(ids, h.accept(sample{text: text, key: 1}))
	}
	require.Equal(h, ids[0], h.leaseOne().Message.ID)
	h.factory.Abandon(h.Store)
	h.start()
	require.Equal(h, ids, listed(h.list(spool.Filter{})))
	for i, id := range ids {
		h.requireBody(id, texts[i])
		leased := leaseFor(h, h.Store, spool.LeaseRequest{Route: route, Max: 10})
		require.Equal(h, []spool.ID{id}, idsOf(leased), "the lease of the dead one has ended")
		h.settle(leased[0], spool.Done)
		receipt, err := put(h.background(), h.Store, sample{text: texts[i]})
		require.NoError(h, err)
		require.Equal(h, spool.Receipt{ID: id, Duplicate: true, Size: int64(len(texts[i]))}, receipt)
	}
}

func idsRise(h *harness) {
	var last spool.ID
	for i := range 30 {
		if i%10 == 9 {
			h.reopen()
		}
		id := h.accept(sample{text: fmt.Sprint(i), key: uint64(i % 3)})
		require.Positive(h, id.Compare(last))
		require.WithinDuration(h, time.Now(), id.Time(), time.Minute)
		require.Equal(h, byte(0x70), id[6]&0xf0, "version 7")
		require.Equal(h, byte(0x80), id[8]&0xc0, "the variant of RFC 9562")
		last = id
	}
}

func acceptTells(h *harness) {
	msg := sample{}.message()
	body, err := h.NewBody(h.background(), 0)
	require.NoError(h, err)
	receipt, err := h.Accept(h.background(), msg, spool.Fingerprint{}, 0, body)
	require.NoError(h, err)
	require.Equal(h, receipt.ID, msg.ID)
	require.True(h, h.get(receipt.ID).ReceivedAt.Equal(msg.ReceivedAt))
	require.WithinDuration(h, msg.ReceivedAt, msg.ScheduledFrom, time.Second)
}

// calls are all methods that can fail.
func calls(h *harness, ctx context.Context, id spool.ID, body spool.BodyWriter) map[string]error {
	errs := make(map[string]error)
	_, errs["NewBody"] = h.NewBody(ctx, 0)
	_, errs["Accept"] = h.Accept(ctx, sample{}.message(), spool.Fingerprint{}, 0, body)
	_, errs["Lease"] = h.Lease(ctx, spool.LeaseRequest{Route: route, Max: 1})
	_, errs["Body"] = h.Body(ctx, id)
	_, errs["Get"] = h.Get(ctx, id)
	_, errs["List"] = h.List(ctx, spool.Filter{})
	_, errs["Count"] = h.Count(ctx, spool.Filter{})
	errs["Replay"] = h.Replay(ctx, id)
	_, _, _, errs["ReplayAll"] = h.ReplayAll(ctx, spool.Filter{})
	_, errs["Drop"] = h.Drop(ctx, id)
	_, errs["DropAll"] = h.DropAll(ctx, spool.Filter{})
	_, errs["Expire"] = h.Expire(ctx, route, 0, "", 1)
	errs["Pause"] = h.Pause(ctx, route, true)
	errs["NoteStream"] = h.NoteStream(ctx, spool.OpenStream{ID: "a"})
	errs["ForgetStream"] = h.ForgetStream(ctx, "a")
	_, errs["LostStreams"] = h.LostStreams(ctx)
	_, errs["Counts"] = h.Counts(ctx)
	errs["Flush"] = h.Flush(ctx)
	return errs
}

func closedSaysSo(h *harness) {
	id := h.accept(sample{text: "a"})
	body, err := h.NewBody(h.background(), 0)
	require.NoError(h, err)
	lease := h.leaseOne()
	store := h.Store
	require.NoError(h, store.Close(h.background()))
	require.NoError(h, store.Close(h.background()), "once more does nothing")
	for name, err := range calls(h, h.background(), id, body) {
		require.ErrorIs(h, err, spool.ErrClosed, name)
	}
	h.Settle(lease, spool.Settlement{Verdict: spool.Done}) // does nothing
	h.Store = nil
	h.start()
	require.Equal(h, []spool.ID{id}, listed(h.list(spool.Filter{})))
	require.Equal(h, id, h.leaseOne().Message.ID, "closing gave it back")
}

func contextsEnd(h *harness) {
	id := h.accept(sample{text: "a"})
	body, err := h.NewBody(h.background(), 0)
	require.NoError(h, err)
	ctx, cancel := context.WithCancel(h.background())
	cancel()
	for name, err := range calls(h, ctx, id, body) {
		require.ErrorIs(h, err, context.Canceled, name)
	}
	require.Equal(h, spool.Pending, h.get(id).State, "nothing was done")
	require.False(h, h.counts().Routes[route].Paused)
	require.NotEmpty(
		h,
		idsOf(h.leaseAll(spool.LeaseRequest{Route: route, Max: 2})),
		"the store goes on",
	)
}

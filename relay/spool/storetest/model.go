// The store does at random what the store in memory does, and must come to the same.

package storetest

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/storetest/memory"
)

// pair is a store and the model side by side. Their ids differ, so messages are known by their
// number.
type pair struct {
	t     *rapid.T
	open  func() spool.Store
	store spool.Store
	place *memory.Place
	model *memory.Store

	ids    [2][]spool.ID // by number: in the store, in the model
	routes []string      // by number
	leased map[int][2]*spool.Lease
}

const (
	inStore = iota
	inModel
)

var modelRoutes = []string{"route0", "route1"}

func compareWithModel(t *testing.T, f Factory) {
	rapid.Check(t, func(rt *rapid.T) {
		p := &pair{t: rt, open: f.New(t), place: memory.NewPlace(), leased: make(map[int][2]*spool.Lease)}
		p.store, p.model = p.open(), p.place.Open()
		defer func() { require.NoError(rt, p.store.Close(context.Background())) }()
		rt.Repeat(map[string]func(*rapid.T){
			"":          func(*rapid.T) {},
			"accept":    p.accept,
			"accept 2":  p.accept,
			"lease":     p.lease,
			"lease 2":   p.lease,
			"settle":    p.settle,
			"settle 2":  p.settle,
			"replay":    p.replay,
			"replayAll": p.replayAll,
			"drop":      p.drop,
			"dropAll":   p.dropAll,
			"expire":    p.expire,
			"pause":     p.pause,
			"list":      p.list,
			"reopen":    p.reopen,
			"check":     p.check,
		})
		p.t = rt
		p.check(rt)
	})
}

func (p *pair) number(id spool.ID, where int) int {
	n := slices.Index(p.ids[where], id)
	require.GreaterOrEqual(p.t, n, 0, "unknown id %s", id)
	return n
}

func (p *pair) numbers(list []*spool.Message, where int) []int {
	numbers := []int{}
	for _, m := range list {
		numbers = append(numbers, p.number(m.ID, where))
	}
	return numbers
}

func (p *pair) both() [2]spool.Store { return [2]spool.Store{p.store, p.model} }

func (p *pair) flush(t *rapid.T) {
	p.t = t
	require.NoError(t, p.store.Flush(context.Background()))
}

// accept offers the same message to both, sometimes one that was there before.
func (p *pair) accept(t *rapid.T) {
	p.t = t
	n := len(p.ids[inStore])
	again := n > 0 && rapid.IntRange(0, 5).Draw(t, "again") == 0
	if again {
		n = rapid.IntRange(0, n-1).Draw(t, "which")
	}
	s := sample{
		route:       rapid.SampledFrom(modelRoutes).Draw(t, "route"),
		key:         rapid.Uint64Range(0, 3).Draw(t, "key"),
		requestID:   rapid.SampledFrom([]string{"", "x", "y"}).Draw(t, "request id"),
		destination: spool.Destination(rapid.Uint64Range(0, 2).Draw(t, "destination")),
		text:        fmt.Sprint(n, ":", strings.Repeat("x", []int{0, 10, 3000, 70_000}[n%4])),
	}
	var receipts [2]spool.Receipt
	for i, store := range p.both() {
		body, err := store.NewBody(context.Background(), -1)
		require.NoError(t, err)
		_, err = io.WriteString(body, s.text)
		require.NoError(t, err)
		receipts[i], err = store.Accept(context.Background(), s.message(),
			sha256.Sum256(fmt.Append(nil, n)), longWindow, body)
		require.NoError(t, err)
		require.Equal(t, again, receipts[i].Duplicate)
		if again {
			require.Equal(t, p.ids[i][n], receipts[i].ID, "the receipt of a duplicate names the original")
		} else {
			p.ids[i] = append(p.ids[i], receipts[i].ID)
		}
	}
	require.Equal(t, receipts[inModel].Size, receipts[inStore].Size)
	if !again {
		p.routes = append(p.routes, s.route)
	}
}

// lease takes what the store offers, which the model must allow, and as much as the model has.
func (p *pair) lease(t *rapid.T) {
	p.flush(t)
	request := spool.LeaseRequest{
		Route: rapid.SampledFrom(modelRoutes).Draw(t, "route"),
		Max:   rapid.IntRange(1, 5).Draw(t, "max"), Tried: rapid.Bool().Draw(t, "tried"),
	}
	if rapid.Bool().Draw(t, "avoid") {
		avoided := rapid.SliceOfN(rapid.Uint64Range(0, 2), 0, 2).Draw(t, "avoided")
		request.Avoid = make(spool.Destinations)
		for _, d := range avoided {
			request.Avoid[spool.Destination(d)] = struct{}{}
		}
	}
	all := request
	all.Max = 1000
	allowed, err := p.model.Lease(context.Background(), all)
	require.NoError(t, err)
	var may []int
	for _, lease := range allowed.Leases {
		may = append(may, p.number(lease.Message.ID, inModel))
		p.model.Settle(lease, spool.Settlement{Verdict: spool.Return})
	}
	got := p.leaseAll(request, min(request.Max, len(may)))
	for _, lease := range got {
		n := p.number(lease.Message.ID, inStore)
		require.Contains(t, may, n)
		twin, ok := p.model.LeaseOnly(p.ids[inModel][n])
		require.True(t, ok, "message %d may not be leased now", n)
		p.compare(lease.Message, twin.Message)
		p.compareBody(n)
		p.leased[n] = [2]*spool.Lease{lease, twin}
	}
}

// leaseAll leases so many. A store that has others to look through first takes its time.
func (p *pair) leaseAll(request spool.LeaseRequest, want int) []*spool.Lease {
	got := leaseClass(p.t, p.store, request)
	for began := time.Now(); len(got) < want && len(request.Avoid) > 0; {
		require.Less(p.t, time.Since(began), patience)
		time.Sleep(10 * time.Millisecond)
		rest := request
		rest.Max -= len(got)
		got = append(got, leaseClass(p.t, p.store, rest)...)
	}
	require.Len(p.t, got, want)
	return got
}

func (p *pair) compare(m, twin *spool.Message) {
	require.Equal(p.t, twin.State, m.State)
	require.Equal(p.t, twin.Route, m.Route)
	require.Equal(p.t, twin.RequestID, m.RequestID)
	if twin.OrderKey != 0 { // one that waits for nobody may have been given one
		require.Equal(p.t, twin.OrderKey, m.OrderKey)
	}
	require.Equal(p.t, twin.Destination, m.Destination)
	require.Equal(p.t, twin.Tries, m.Tries)
	require.Equal(p.t, twin.Replayed, m.Replayed)
	require.Equal(p.t, twin.LastError, m.LastError)
	require.Equal(p.t, len(twin.Attempts), len(m.Attempts))
	require.Equal(p.t, twin.Size, m.Size)
	for _, times := range [][2]time.Time{
		{twin.NextAttemptAt, m.NextAttemptAt}, {twin.ReceivedAt, m.ReceivedAt}, {twin.ScheduledFrom, m.ScheduledFrom},
		{twin.DiedAt, m.DiedAt}, {twin.DeliveredAt, m.DeliveredAt},
	} {
		require.WithinDuration(p.t, times[0], times[1], time.Minute)
	}
}

func (p *pair) compareBody(n int) {
	var sums [2][]byte
	for i, store := range p.both() {
		body, err := store.Body(context.Background(), p.ids[i][n])
		require.NoError(p.t, err)
		sums[i] = digest(body, 5000)
		require.NoError(p.t, body.Close())
	}
	require.Equal(p.t, sums[inModel], sums[inStore])
}

func (p *pair) settle(t *rapid.T) {
	p.t = t
	if len(p.leased) == 0 {
		return
	}
	var numbers []int
	for n := range p.leased {
		numbers = append(numbers, n)
	}
	slices.Sort(numbers)
	n := rapid.SampledFrom(numbers).Draw(t, "leased")
	s := spool.Settlement{
		Verdict: rapid.SampledFrom([]spool.Verdict{spool.Done, spool.Done, spool.Retry, spool.Retry, spool.Bury, spool.Return}).
			Draw(t, "verdict"),
		Attempt: spool.Attempt{Status: 500, Error: "because"},
	}
	switch s.Verdict {
	case spool.Done:
		s.Keep, s.Attempt = rapid.Bool().Draw(t, "keep"), spool.Attempt{Status: 200}
	case spool.Retry:
		s.Delay = rapid.SampledFrom([]time.Duration{0, defaultWait}).Draw(t, "delay")
	}
	for i, store := range p.both() {
		store.Settle(p.leased[n][i], s)
	}
	delete(p.leased, n)
}

func (p *pair) anyMessage(t *rapid.T) int {
	return rapid.IntRange(0, max(len(p.ids[inStore])-1, 0)).Draw(t, "message")
}

func (p *pair) replay(t *rapid.T) {
	p.flush(t)
	if len(p.routes) == 0 {
		return
	}
	n := p.anyMessage(t)
	require.Equal(t, p.model.Replay(context.Background(), p.ids[inModel][n]),
		p.store.Replay(context.Background(), p.ids[inStore][n]))
}

// filters draws a filter, for each store with its own id in it.
func (p *pair) filters(t *rapid.T) (filters [2]spool.Filter) {
	f := spool.Filter{
		State: rapid.SampledFrom([]spool.State{"", spool.Pending, spool.Dead, spool.Delivered}).
			Draw(t, "state"),
		Route:     rapid.SampledFrom([]string{"", "route0", "route1", "none"}).Draw(t, "route"),
		RequestID: rapid.SampledFrom([]string{"", "", "x", "z"}).Draw(t, "request id"),
		Newest:    rapid.Bool().Draw(t, "newest"),
		Limit:     rapid.SampledFrom([]int{0, 1, 3}).Draw(t, "limit"),
	}
	filters = [2]spool.Filter{f, f}
	if len(p.routes) > 0 && rapid.Bool().Draw(t, "after something") {
		n := p.anyMessage(t)
		filters[inStore].After, filters[inModel].After = p.ids[inStore][n], p.ids[inModel][n]
	}
	return filters
}

func (p *pair) replayAll(t *rapid.T) {
	p.flush(t)
	filters := p.filters(t)
	var replayed [2]int
	for i, store := range p.both() {
		for done, f := false, filters[i]; !done; {
			var n int
			var err error
			n, f.After, done, err = store.ReplayAll(context.Background(), f)
			require.NoError(t, err)
			replayed[i] += n
		}
	}
	require.Equal(t, replayed[inModel], replayed[inStore])
}

func (p *pair) drop(t *rapid.T) {
	p.flush(t)
	if len(p.routes) == 0 {
		return
	}
	n := p.anyMessage(t)
	want, wantErr := p.model.Drop(context.Background(), p.ids[inModel][n])
	got, err := p.store.Drop(context.Background(), p.ids[inStore][n])
	require.Equal(t, wantErr, err)
	if want != nil {
		p.compare(got, want)
	}
}

func (p *pair) dropAll(t *rapid.T) {
	p.flush(t)
	filters := p.filters(t)
	var dropped [2][]int
	for i, store := range p.both() {
		list, err := store.DropAll(context.Background(), filters[i])
		require.NoError(t, err)
		dropped[i] = p.numbers(list, i)
	}
	require.Equal(t, dropped[inModel], dropped[inStore])
}

func (p *pair) expire(t *rapid.T) {
	p.flush(t)
	route := rapid.SampledFrom(modelRoutes).Draw(t, "route")
	age := rapid.SampledFrom([]time.Duration{0, time.Hour}).Draw(t, "age")
	var expired [2][]int
	for i, store := range p.both() {
		for {
			list, err := store.Expire(context.Background(), route, age, "expired", 100)
			require.NoError(t, err)
			if len(list) == 0 {
				break
			}
			expired[i] = append(expired[i], p.numbers(list, i)...)
		}
	}
	require.ElementsMatch(t, expired[inModel], expired[inStore])
}

func (p *pair) pause(t *rapid.T) {
	p.t = t
	route, paused := rapid.SampledFrom(modelRoutes).
		Draw(t, "route"),
		rapid.IntRange(0, 2).
			Draw(t, "paused") ==
			0
	for _, store := range p.both() {
		require.NoError(t, store.Pause(context.Background(), route, paused))
	}
}

func (p *pair) list(t *rapid.T) {
	p.flush(t)
	filters := p.filters(t)
	var numbers [2][]int
	var counts [2]int64
	for i, store := range p.both() {
		list, err := store.List(context.Background(), filters[i])
		require.NoError(t, err)
		numbers[i] = p.numbers(list, i)
		counts[i], err = store.Count(context.Background(), filters[i])
		require.NoError(t, err)
	}
	require.Equal(t, numbers[inModel], numbers[inStore])
	require.Equal(t, counts[inModel], counts[inStore])
}

// reopen closes both, on which the leases end.
func (p *pair) reopen(t *rapid.T) {
	p.t = t
	for _, store := range p.both() {
		require.NoError(t, store.Close(context.Background()))
	}
	clear(p.leased)
	p.store, p.model = p.open(), p.place.Open()
}

// check compares everything that can be seen.
func (p *pair) check(t *rapid.T) {
	p.flush(t)
	var lists [2][]*spool.Message
	var counts [2]spool.Counts
	for i, store := range p.both() {
		var err error
		lists[i], err = store.List(context.Background(), spool.Filter{Limit: 10_000})
		require.NoError(t, err)
		counts[i], err = store.Counts(context.Background())
		require.NoError(t, err)
		for name, c := range counts[i].Routes {
			c.OldestPending = time.Time{}
			if len(p.leased) > 0 {
				c.Retrying = 0 // what is in an attempt may count, or what is before it again
			}
			counts[i].Routes[name] = c
		}
	}
	require.Equal(t, p.numbers(lists[inModel], inModel), p.numbers(lists[inStore], inStore))
	for i, m := range lists[inStore] {
		p.compare(m, lists[inModel][i])
	}
	require.Equal(t, counts[inModel].Routes, counts[inStore].Routes)
	require.Equal(t, counts[inModel].Fingerprints, counts[inStore].Fingerprints)
}

package selection

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/disk/bodies"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/disk/index"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/disk/requests"
)

// update runs a function in a transaction of an empty index.
func update(t *testing.T, fn func(*index.Tx) error) {
	dir := t.TempDir()
	fsys := new(bodies.OS)
	require.NoError(t, fsys.Enter(dir))
	x, _, err := index.OpenOrCreate(fsys, dir)
	require.NoError(t, err)
	require.NoError(t, x.Update(fn))
	require.NoError(t, x.Close(false))
	require.NoError(t, fsys.Leave())
}

// put writes a message to where it belongs.
func put(t *index.Tx, route *index.RouteInfo, m *index.Entry, bucket index.Bucket) error {
	record := index.AppendRecord(nil, m)
	switch bucket {
	case index.Parked:
		return t.Park(route.Number, m.ID, record)
	case index.Dead:
		return t.Bury(route.Number, m.ID, m.DiedAt, record)
	}
	return t.Put(bucket, index.IDKey(route.Number, m.ID), record)
}

func idsOf(places []index.Place) []spool.ID {
	ids := []spool.ID{}
	for _, p := range places {
		ids = append(ids, p.ID)
	}
	return ids
}

// What is selected by way of the index is compared with what [spool.Filter.Matches] says of every
// message.
func TestAFilterSelectsWhatItMatches(t *testing.T) {
	update(t, func(tx *index.Tx) error {
		rng := rand.New(rand.NewPCG(1, 2))
		routes := []*index.RouteInfo{{Name: "a", Number: 1}, {Name: "b", Number: 2}, {Name: "c", Number: 3}}
		begin := time.Now().Add(-time.Hour)
		later := func() time.Duration { return time.Duration(rng.Int64N(int64(time.Hour))) }
		pick := func(texts ...string) string { return texts[rng.IntN(len(texts))] }
		var ids spool.IDSource
		var known requests.Table
		var all []*index.Entry
		for i := range 500 {
			m := &index.Entry{}
			m.ReceivedAt = begin.Add(time.Duration(i) * 7 * time.Second)
			m.ID = ids.Next(m.ReceivedAt.Add(time.Duration(rng.IntN(5)) * time.Second))
			m.RequestID, m.User, m.OrderKey = pick("", "x", "y"), pick("", "eve"), rng.Uint64N(20)
			route, bucket := routes[rng.IntN(2)], index.Buckets("")[rng.IntN(4)]
			m.Route, m.State = route.Name, bucket.MessageState()
			switch bucket {
			case index.Dead:
				m.DiedAt = m.ReceivedAt.Add(later())
			case index.Kept:
				m.DeliveredAt = m.ReceivedAt.Add(later())
			}
			known.Add(m.ID, m.RequestID)
			require.NoError(t, put(tx, route, m, bucket))
			all = append(all, m)
		}

		for range 2000 {
			filter := spool.Filter{
				State:     spool.State(pick("", string(spool.Pending), string(spool.Dead), string(spool.Delivered))),
				Route:     pick("", "a", "b", "c", "unknown"),
				RequestID: pick("", "", "x", "z"),
				User:      pick("", "eve"),
				Newest:    rng.IntN(2) == 0,
				Limit:     1 + rng.IntN(100),
			}
			if rng.IntN(3) == 0 {
				filter.Since = begin.Add(later())
			}
			if rng.IntN(3) == 0 {
				filter.Until = begin.Add(later())
			}
			if rng.IntN(3) == 0 {
				filter.EndedFor = later()
			}
			what := fmt.Sprintf("%+v", filter)

			s := New(tx, routes, &known, filter)
			matching := []spool.ID{}
			for _, m := range all {
				if filter.Matches(&m.Message, s.now) {
					matching = append(matching, m.ID)
				}
			}
			require.EqualValues(t, len(matching), s.Count(), what)

			if filter.State != spool.Dead || filter.EndedFor == 0 { // those come in another order
				leased := all[rng.IntN(len(all))].ID
				free := slices.DeleteFunc(slices.Clone(matching), func(id spool.ID) bool { return id == leased })
				oldest := filter
				oldest.Newest = false
				found := New(tx, routes, &known, oldest).Droppable(func(id spool.ID) bool { return id == leased })
				require.Equal(t, free[:min(len(free), filter.Limit)], idsOf(found), what)
			}

			if filter.Newest {
				slices.Reverse(matching)
			}
			if rng.IntN(2) == 0 && len(matching) > 0 {
				n := rng.IntN(len(matching))
				s.After, matching = matching[n], matching[n+1:]
			}
			require.Equal(t, matching[:min(len(matching), filter.Limit)], idsOf(s.Places()), what)
		}
		return nil
	})
}

func TestLongDeadLettersAreDroppableByTheirDeath(t *testing.T) {
	update(t, func(tx *index.Tx) error {
		route := &index.RouteInfo{Name: "a", Number: 1}
		var ids spool.IDSource
		now := time.Now()
		var dead []spool.ID
		for _, hours := range []int{1, 5, 3, 4} {
			m := &index.Entry{}
			m.ID, m.ReceivedAt = ids.Next(now), now
			m.DiedAt = now.Add(-time.Duration(hours) * time.Hour)
			require.NoError(t, put(tx, route, m, index.Dead))
			dead = append(dead, m.ID)
		}
		filter := spool.Filter{State: spool.Dead, EndedFor: 2 * time.Hour, Limit: 2}
		s := New(tx, []*index.RouteInfo{route}, new(requests.Table), filter)
		found := s.Droppable(func(spool.ID) bool { return false })
		require.Equal(t, []spool.ID{dead[1], dead[3]}, idsOf(found))
		return nil
	})
}

package ledger

import (
	"encoding/binary"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/disk/bodies"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/disk/index"
)

// books are an index, and what a store has in memory beside it.
type books struct {
	t        *testing.T
	dir      string
	fsys     *bodies.OS
	index    *index.Index
	routes   map[string]index.RouteInfo
	segments *bodies.Segments
	files    *bodies.Large
}

func newBooks(t *testing.T) *books {
	dir := t.TempDir()
	b := &books{
		t: t, dir: dir, fsys: new(bodies.OS),
		routes: map[string]index.RouteInfo{
			"a": {Name: "a", Number: 1},
			"b": {Name: "b", Number: 2},
		},
	}
	b.segments, b.files = bodies.NewSegments(b.fsys, dir, 1<<20), bodies.NewLarge(b.fsys, dir)
	require.NoError(t, b.fsys.Enter(dir))
	var err error
	b.index, _, err = index.OpenOrCreate(b.fsys, dir)
	require.NoError(t, err)
	t.Cleanup(func() {
		if t.Failed() {
			return // in a transaction, which would be waited for
		}
		require.NoError(t, b.index.Close(false))
		require.NoError(t, b.fsys.Leave())
	})
	return b
}

// update makes a transaction, and has memory hear of it.
func (b *books) update(fn func(*Ledger)) *Ledger {
	var l *Ledger
	require.NoError(b.t, b.index.Update(func(t *index.Tx) error {
		l = New(t, func(name string) index.RouteInfo { return b.routes[name] }, b.segments)
		fn(l)
		return l.Finish()
	}))
	l.Publish(b.files)
	for name, info := range l.Routes() {
		b.routes[name] = *info
	}
	return l
}

// check opens the index anew, which compares what it says twice, and then what was counted there.
func (b *books) check() {
	require.NoError(b.t, b.index.Close(false))
	var found *index.Tally
	var err error
	b.index, found, err = index.Open(b.fsys, b.dir)
	require.NoError(b.t, err)
	for name, info := range b.routes {
		require.Equal(b.t, found.Routes[info.Number], info.Counts, name)
	}
	for number := range uint32(10) {
		require.Equal(b.t, found.Segments[number], b.segments.Stat(number), "segment %d", number)
	}
}

// places returns copies of where all messages are.
func (b *books) places(l *Ledger) (places []index.Place) {
	for name := range b.routes {
		info := l.Route(name)
		for _, bucket := range index.Buckets("") {
			l.Scan(bucket, index.RouteKey(info.Number), nil, func(key, record []byte) bool {
				p := index.Place{Bucket: bucket, Route: info, ID: index.KeyID(key), Record: record}
				places = append(places, p.Clone())
				return true
			})
		}
	}
	return places
}

// location returns a place for a body, in a segment or in a file of its own.
func location(rng *rand.Rand) bodies.Location {
	where := bodies.Location{Segment: rng.Uint32N(10), Size: rng.Int64N(1000)}
	if where.Segment == 0 {
		binary.BigEndian.PutUint64(where.File[:], rng.Uint64())
	}
	return where
}

func TestTheBooksAreInOrderWhateverIsDone(t *testing.T) {
	b := newBooks(t)
	rng := rand.New(rand.NewPCG(1, 2))
	var ids spool.IDSource
	var last spool.ID
	enter := func(l *Ledger) {
		m := &index.Entry{Where: location(rng)}
		m.ID, m.Size, m.OrderKey = ids.Next(time.Now()), m.Where.Size, 1+rng.Uint64N(5)
		m.Route = []string{"a", "b"}[rng.IntN(2)]
		bucket := index.Buckets("")[rng.IntN(4)]
		if bucket == index.Dead {
			m.DiedAt = time.Now()
		}
		require.NoError(t, l.Enter(bucket, m, index.AppendRecord(nil, m)))
		last = m.ID
	}
	change := func(l *Ledger, p index.Place) error {
		m, err := p.Entry()
		require.NoError(t, err)
		pending := p.IsPending()
		switch rng.IntN(6) {
		case 0:
			_, err = l.Remove(p)
			require.Contains(t, l.Gone(), p.ID)
		case 1:
			err = l.ParkAgain(p, m)
		case 2:
			if pending {
				_, err = l.Kill(p, m, time.Now())
			}
		case 3:
			if pending {
				m.DeliveredAt = time.Now()
				err = l.Keep(p, m)
			}
		case 4:
			err = l.ParkFresh(p.Route.Name, []spool.ID{p.ID})
		case 5:
			where := location(rng)
			where.Size = m.Size
			err = l.Move(p, where)
		}
		return err
	}
	for round := range 200 {
		b.update(func(l *Ledger) {
			for range rng.IntN(5) {
				enter(l)
			}
			for range rng.IntN(8) {
				if places := b.places(l); len(places) > 0 {
					require.NoError(t, change(l, places[rng.IntN(len(places))]))
				}
			}
		})
		if round%20 == 0 {
			b.check()
		}
	}

	b.update(func(l *Ledger) { require.NoError(t, l.ParkAllFresh("a")) })
	b.check()
	b.update(func(l *Ledger) {
		require.Equal(t, last[:], l.Get(index.State, index.LastID))
		for _, p := range b.places(l) {
			require.False(t, p.Bucket == index.Fresh && p.Route.Name == "a")
			_, err := l.Remove(p)
			require.NoError(t, err)
		}
	})
	b.check()
	for name, info := range b.routes {
		require.True(t, info.Counts.IsZero(), name)
	}
}

// Of a record that cannot be read nobody knows how large its body was, nor its order key.
func TestADamagedRecordIsCountedAmongTheDead(t *testing.T) {
	b := newBooks(t)
	var ids spool.IDSource
	m := &index.Entry{}
	m.ID, m.Route, m.OrderKey = ids.Next(time.Now()), "a", 7
	b.update(func(l *Ledger) {
		require.NoError(t, l.Enter(index.Parked, m, index.AppendRecord(nil, m)))
	})
	b.update(func(l *Ledger) {
		p, ok := l.At(l.Route("a"), m.ID, index.Parked)
		require.True(t, ok)
		p = p.Clone()
		p.Record[len(p.Record)-1] ^= 1
		require.NoError(t, l.Put(index.Parked, index.IDKey(1, m.ID), p.Record))
		require.NoError(t, l.KillDamaged(p))
	})
	b.check()
	require.EqualValues(t, 1, b.routes["a"].Counts.Dead)
	require.Zero(t, b.routes["a"].Counts.Pending)
}

func TestASegmentIsRemovedWhenNothingOfItIsNeeded(t *testing.T) {
	b := newBooks(t)
	b.segments.Adopt(map[uint32]bodies.Stats{3: {Size: 100}, 4: {Size: 100, Live: 1, LiveBytes: 50}})
	l := b.update(func(l *Ledger) {
		l.Visit(3)
		l.Visit(4)
	})
	require.Equal(t, []uint32{3}, l.empty)
	require.Equal(t, bodies.Stats{Size: 100, Live: 1, LiveBytes: 50}, b.segments.Stat(4))
}

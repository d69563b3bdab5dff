package selection

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/disk/index"
)

func TestOverdueIsWhatIsDueAndFirstOfItsOrderKey(t *testing.T) {
	update(t, func(tx *index.Tx) error {
		route := &index.RouteInfo{Name: "a", Number: 1}
		var ids spool.IDSource
		now := time.Now()
		add := func(bucket index.Bucket, order uint64, scheduled, next time.Duration) spool.ID {
			m := &index.Entry{}
			m.ID, m.OrderKey, m.ReceivedAt = ids.Next(now), order, now
			m.ScheduledFrom, m.NextAttemptAt = now.Add(scheduled), now.Add(next)
			require.NoError(t, put(tx, route, m, bucket))
			return m.ID
		}
		due := add(index.Parked, 1, -2*time.Hour, -time.Minute)
		add(index.Parked, 1, -2*time.Hour, -time.Minute) // behind it
		add(index.Parked, 2, -2*time.Hour, time.Minute)  // not due
		add(index.Parked, 3, -2*time.Hour, -time.Minute) // leased
		add(index.Parked, 4, -time.Minute, -time.Minute) // its schedule began later
		fresh := add(index.Fresh, 5, -2*time.Hour, 0)
		add(index.Fresh, 2, -2*time.Hour, 0) // behind one that is parked
		another := add(index.Fresh, 6, -2*time.Hour, 0)
		add(index.Fresh, 7, -time.Minute, 0)

		overdue := func(limit int) []spool.ID {
			return idsOf(Overdue(tx, route, now.Add(-time.Hour), now, map[uint64]bool{3: true}, limit))
		}
		require.Equal(t, []spool.ID{due, fresh, another}, overdue(10))
		require.Equal(t, []spool.ID{due, fresh}, overdue(2))
		return nil
	})
}

func TestTheOldestKeptIsThatOfAllRoutes(t *testing.T) {
	update(t, func(tx *index.Tx) error {
		routes := []*index.RouteInfo{{Name: "a", Number: 1}, {Name: "b", Number: 2}, {Name: "c", Number: 3}}
		_, ok := OldestKept(tx, routes)
		require.False(t, ok)

		var ids spool.IDSource
		var first spool.ID
		for _, n := range []int{1, 0, 1, 0} {
			m := &index.Entry{}
			m.ID = ids.Next(time.Now())
			require.NoError(t, put(tx, routes[n], m, index.Kept))
			if first.IsZero() {
				first = m.ID
			}
		}
		p, ok := OldestKept(tx, routes)
		require.True(t, ok)
		require.Equal(t, first, p.ID)
		require.Equal(t, routes[1], p.Route)
		require.True(t, p.Record.Intact())
		return nil
	})
}

// What is meant because of its age.

package selection

import (
	"time"

	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/disk/index"
)

// Overdue returns copies of pending messages of a route that are due, that nothing of their order key
// is before, and whose schedule began before a time. Those with an order key that is taken are left
// out: something of it is leased.
func Overdue(
	t *index.Tx,
	info *index.RouteInfo,
	scheduledBefore, now time.Time,
	taken map[uint64]bool,
	limit int,
) []index.Place {
	var places []index.Place
	isOld := func(record []byte) bool {
		return index.Record(record).ScheduledFrom() <= index.UnixNano(scheduledBefore)
	}
	take := func(bucket index.Bucket, id spool.ID, record []byte) {
		p := index.Place{Bucket: bucket, Route: info, ID: id, Record: record}
		places = append(places, p.Clone())
	}
	takeDue := func(key, order []byte) bool {
		if len(places) >= limit || index.KeyTime(key) > index.UnixNano(now) {
			return false
		}
		id := index.KeyID(key)
		if record := t.Get(index.Parked, index.IDKey(info.Number, id)); index.Record(record).Intact() &&
			isOld(record) &&
			!taken[index.Uint64(order)] {
			take(index.Parked, id, record)
		}
		return true
	}
	t.Scan(index.Due, index.RouteKey(info.Number), nil, takeDue)
	t.Scan(index.Again, index.RouteKey(info.Number), nil, takeDue)
	t.Scan(index.Fresh, index.RouteKey(info.Number), nil, func(key, record []byte) bool {
		if !index.Record(record).Intact() {
			return true // it is dealt with when its turn to be delivered comes
		}
		if len(places) >= limit || !isOld(record) {
			return false // the rest came later
		}
		order := index.Record(record).OrderKey()
		if _, parked := t.FirstParked(info.Number, order); !parked && !taken[order] {
			take(index.Fresh, index.KeyID(key), record)
		}
		return true
	})
	return places
}

// OldestKept returns a copy of the message that was accepted first of those that are kept.
func OldestKept(t *index.Tx, routes []*index.RouteInfo) (oldest index.Place, ok bool) {
	for _, info := range routes {
		id, found := t.First(index.Kept, info.Number)
		if !found || ok && id.Compare(oldest.ID) > 0 {
			continue
		}
		oldest, ok = index.Place{Bucket: index.Kept, Route: info, ID: id}, true
	}
	if ok {
		oldest.Record = t.Get(index.Kept, index.IDKey(oldest.Route.Number, oldest.ID))
	}
	return oldest.Clone(), ok
}

// The lists of parked messages and dead letters, each of which is in several buckets.

package index

import (
	"encoding/binary"
	"time"

	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
)

// FirstParked returns the first parked message of an order key.
func (t *Tx) FirstParked(route uint32, order uint64) (id spool.ID, ok bool) {
	t.Scan(Order, OrderPrefix(route, order), nil, func(key, _ []byte) bool {
		id, ok = KeyID(key), true
		return false
	})
	return id, ok
}

// Park puts a record among the parked. Its order key's entry in Due, or in Again, always belongs
// to the first parked message, so it moves when this one comes before.
func (t *Tx) Park(route uint32, id spool.ID, record []byte) error {
	order := Record(record).OrderKey()
	if first, ok := t.FirstParked(route, order); ok && id.Compare(first) < 0 {
		if err := t.deleteDue(route, first); err != nil {
			return err
		}
	}
	if err := t.Put(Parked, IDKey(route, id), record); err != nil {
		return err
	}
	if err := t.Put(Order, orderKey(route, order, id), nil); err != nil {
		return err
	}
	return t.putDue(route, order)
}

// CountTried returns how many of the parked messages of a route were tried, up to a limit. Those are
// the first ones of their order keys, and only they have a time.
func (t *Tx) CountTried(route uint32, limit int) (n int) {
	for _, bucket := range [...]Bucket{Due, Again} {
		after := binary.BigEndian.AppendUint64(nil, 1)
		t.Scan(bucket, RouteKey(route), after, func(_, _ []byte) bool {
			if n < limit {
				n++
			}
			return n < limit
		})
	}
	return n
}

// Unpark takes a record away from the parked and makes the next of its
// order key due. It reports whether there is a next one.
func (t *Tx) Unpark(route uint32, id spool.ID, order uint64) (more bool, err error) {
	if err := t.deleteDue(route, id); err != nil {
		return false, err
	}
	if err := t.Delete(Parked, IDKey(route, id)); err != nil {
		return false, err
	}
	if err := t.Delete(Order, orderKey(route, order, id)); err != nil {
		return false, err
	}
	if _, more = t.FirstParked(route, order); more {
		err = t.putDue(route, order)
	}
	return more, err
}

// putDue enters the first parked message of an order key into Due.
func (t *Tx) putDue(route uint32, order uint64) error {
	first, ok := t.FirstParked(route, order)
	if !ok {
		return nil
	}
	record := Record(t.Get(Parked, IDKey(route, first)))
	key := timeKey(route, record.nextAttempt(), first)
	return t.Put(record.turn(), key, binary.BigEndian.AppendUint64(nil, order))
}

// deleteDue removes a parked message from where it has its turn, if it is there.
func (t *Tx) deleteDue(route uint32, id spool.ID) error {
	record := Record(t.Get(Parked, IDKey(route, id)))
	return t.Delete(record.turn(), timeKey(route, record.nextAttempt(), id))
}

// turn is the bucket in which a parked message has its turn.
func (b Record) turn() Bucket {
	if b.Replayed() {
		return Again
	}
	return Due
}

// Bury puts a record among the dead letters.
func (t *Tx) Bury(route uint32, id spool.ID, died time.Time, record []byte) error {
	if err := t.Put(Dead, IDKey(route, id), record); err != nil {
		return err
	}
	return t.Put(Died, timeKey(route, UnixNano(died), id), nil)
}

// Exhume takes a record away from the dead letters.
func (t *Tx) Exhume(route uint32, id spool.ID, died time.Time) error {
	if err := t.Delete(Died, timeKey(route, UnixNano(died), id)); err != nil {
		return err
	}
	return t.Delete(Dead, IDKey(route, id))
}

// UnparkDamaged is unpark for a record that does not tell its order key or time, or is not there.
func (t *Tx) UnparkDamaged(route uint32, id spool.ID) error {
	if err := t.Delete(Parked, IDKey(route, id)); err != nil {
		return err
	}
	turn := Due
	due, orders := t.keyOf(turn, route, id)
	if due == nil {
		turn = Again
		due, orders = t.keyOf(turn, route, id)
	}
	if due != nil {
		if err := t.Delete(turn, due); err != nil {
			return err
		}
	}
	place, _ := t.keyOf(Order, route, id)
	if place != nil {
		if err := t.Delete(Order, place); err != nil {
			return err
		}
	}
	if due == nil {
		return nil
	}
	return t.putDue(route, Uint64(orders))
}

// keyOf finds the entry of a message in a bucket whose keys end with the id. It looks at all of
// the route's.
func (t *Tx) keyOf(bucket Bucket, route uint32, id spool.ID) (key, value []byte) {
	t.Scan(bucket, RouteKey(route), nil, func(k, v []byte) bool {
		if KeyID(k) != id {
			return true
		}
		key, value = append([]byte(nil), k...), append([]byte(nil), v...)
		return false
	})
	return key, value
}

// ExhumeDamaged is exhume for a record that does not tell when it died.
func (t *Tx) ExhumeDamaged(route uint32, id spool.ID) error {
	if died, _ := t.keyOf(Died, route, id); died != nil {
		if err := t.Delete(Died, died); err != nil {
			return err
		}
	}
	return t.Delete(Dead, IDKey(route, id))
}

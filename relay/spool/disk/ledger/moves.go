// What is done to a message: every way into the index, through it and out of it.

package ledger

import (
	"time"

	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/disk/bodies"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/disk/index"
)

// Enter puts a message into a bucket that was not there before, with its record and its body, of
// which the message says where it is.
func (l *Ledger) Enter(bucket index.Bucket, m *index.Entry, record index.Record) error {
	index.SetRecordLocation(record, m.Where)
	if err := l.insert(bucket, m, record); err != nil {
		return err
	}
	l.noteID(m.ID)
	return l.retain(m.Where, m.ID)
}

// Remove takes a message out of the index with all that belongs to it.
// more says whether there are more parked ones of its order key.
func (l *Ledger) Remove(p index.Place) (more bool, err error) {
	more, err = l.extract(p)
	l.gone = append(l.gone, p.ID)
	if err != nil || !p.Record.Intact() { // which then does not tell where its body is
		return more, err
	}
	return more, l.release(p.Record.Location())
}

// ParkAgain puts a message among the parked that is to be delivered later, or once more.
func (l *Ledger) ParkAgain(p index.Place, m *index.Entry) error {
	if _, err := l.extract(p); err != nil {
		return err
	}
	return l.insert(index.Parked, m, index.AppendRecord(nil, m))
}

// Kill makes a dead letter of a pending message. more says whether there are more parked ones of its
// order key.
func (l *Ledger) Kill(p index.Place, m *index.Entry, at time.Time) (more bool, err error) {
	more, err = l.extract(p)
	if err != nil {
		return more, err
	}
	m.State, m.DiedAt, m.NextAttemptAt = spool.Dead, at, time.Time{}
	return more, l.insert(index.Dead, m, index.AppendRecord(nil, m))
}

// KillDamaged makes a dead letter of a record that cannot be read. Its body is not counted.
func (l *Ledger) KillDamaged(p index.Place) error {
	p = p.Clone() // a change moves what is mapped
	if _, err := l.extract(p); err != nil {
		return err
	}
	l.Route(p.Route.Name).Counts.Dead++
	return l.Bury(p.Route.Number, p.ID, time.Now(), p.Record)
}

// Keep puts a message that was delivered among those that are kept. Its body stays.
func (l *Ledger) Keep(p index.Place, m *index.Entry) error {
	if _, err := l.extract(p); err != nil {
		return err
	}
	m.State = spool.Delivered
	return l.insert(index.Kept, m, index.AppendRecord(nil, m))
}

// ParkFresh moves fresh messages of a route to the parked, as far as they are still there.
func (l *Ledger) ParkFresh(route string, ids []spool.ID) error {
	info := l.Route(route)
	for _, id := range ids {
		p, ok := l.At(info, id, index.Fresh)
		if !ok {
			continue // settled or dropped meanwhile
		}
		p = p.Clone() // a change moves what is mapped
		if err := l.Delete(index.Fresh, index.IDKey(info.Number, id)); err != nil {
			return err
		}
		if err := l.Park(info.Number, id, p.Record); err != nil {
			return err
		}
		info.Counts.Parked++
	}
	return nil
}

// ParkAllFresh moves all fresh messages of a route to the parked.
func (l *Ledger) ParkAllFresh(route string) error {
	var ids []spool.ID
	l.Scan(index.Fresh, index.RouteKey(l.Route(route).Number), nil, func(key, _ []byte) bool {
		ids = append(ids, index.KeyID(key))
		return true
	})
	return l.ParkFresh(route, ids)
}

// Move changes where a message's body is. It writes to the record of the place.
func (l *Ledger) Move(p index.Place, where bodies.Location) error {
	if err := l.release(p.Record.Location()); err != nil {
		return err
	}
	if err := l.retain(where, p.ID); err != nil {
		return err
	}
	index.SetRecordLocation(p.Record, where)
	return l.Put(p.Bucket, index.IDKey(p.Route.Number, p.ID), p.Record)
}

// insert puts a record into a bucket, and counts it there.
func (l *Ledger) insert(bucket index.Bucket, m *index.Entry, record index.Record) error {
	info := l.Route(m.Route)
	totals := &info.Counts
	switch bucket {
	case index.Kept:
		totals.Delivered++
		totals.DeliveredBytes += m.Size
		return l.Put(index.Kept, index.IDKey(info.Number, m.ID), record)
	case index.Dead:
		totals.Dead++
		totals.DeadBytes += m.Size
		return l.Bury(info.Number, m.ID, m.DiedAt, record)
	}
	totals.Pending++
	totals.PendingBytes += m.Size
	if bucket == index.Fresh {
		return l.Put(index.Fresh, index.IDKey(info.Number, m.ID), record)
	}
	totals.Parked++
	return l.Park(info.Number, m.ID, record)
}

// extract takes a record out of the bucket where it is, and counts it there no more. more says
// whether there are more parked ones of its order key.
func (l *Ledger) extract(p index.Place) (more bool, err error) {
	totals := &l.Route(p.Route.Name).Counts
	size, order := int64(0), p.Record.OrderKey()
	intact := p.Record.Intact()
	if intact {
		size = p.Record.Location().Size
	}
	switch p.Bucket {
	case index.Damaged: // which are not counted
		return false, l.Delete(index.Damaged, index.IDKey(p.Route.Number, p.ID))
	case index.Kept:
		totals.Delivered--
		totals.DeliveredBytes -= size
		return false, l.Delete(index.Kept, index.IDKey(p.Route.Number, p.ID))
	case index.Dead:
		totals.Dead--
		totals.DeadBytes -= size
		if !intact {
			return false, l.ExhumeDamaged(p.Route.Number, p.ID)
		}
		return false, l.Exhume(p.Route.Number, p.ID, p.Record.EndedAt())
	case index.Fresh:
		err = l.Delete(index.Fresh, index.IDKey(p.Route.Number, p.ID))
	case index.Parked:
		totals.Parked--
		if intact {
			more, err = l.Unpark(p.Route.Number, p.ID, order)
		} else {
			err = l.UnparkDamaged(p.Route.Number, p.ID)
			_, more = l.FirstParked(p.Route.Number, order)
		}
	}
	totals.Pending--
	totals.PendingBytes -= size
	return more, err
}

// Where in the index a message is.

package index

import (
	"bytes"
	"fmt"

	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
)

// Place is where a message is, with its record there. That is valid until the transaction ends or
// changes something.
type Place struct {
	Bucket Bucket
	Route  *RouteInfo
	ID     spool.ID
	Record Record
}

// At looks a message of a route up in some buckets.
func (t *Tx) At(route *RouteInfo, id spool.ID, buckets ...Bucket) (Place, bool) {
	for _, bucket := range buckets {
		if record := t.Get(bucket, IDKey(route.Number, id)); record != nil {
			return Place{Bucket: bucket, Route: route, ID: id, Record: record}, true
		}
	}
	return Place{}, false
}

// Find looks a message up in every one of some routes, because its id does not tell.
func (t *Tx) Find(routes []*RouteInfo, id spool.ID) (Place, bool) {
	for _, route := range routes {
		if p, ok := t.At(route, id, Fresh, Parked, Dead, Kept); ok {
			return p, true
		}
	}
	return Place{}, false
}

// Clone has a place outlive the transaction that it was found in.
func (p Place) Clone() Place {
	p.Record = bytes.Clone(p.Record)
	return p
}

// IsPending reports whether the message there waits to be delivered.
func (p Place) IsPending() bool { return p.Bucket == Fresh || p.Bucket == Parked }

// Entry decodes the record. Where it cannot be read, the error is [spool.ErrDamaged].
func (p Place) Entry() (*Entry, error) {
	m, err := ParseRecord(p.Record)
	if err != nil {
		return nil, fmt.Errorf("message %s: %w: %w", p.ID, spool.ErrDamaged, err)
	}
	m.ID, m.Route, m.State = p.ID, p.Route.Name, p.Bucket.MessageState()
	return m, nil
}

// Shown is the message for those who only look: of a record that cannot be read, it says so.
func (p Place) Shown() *spool.Message {
	m, err := p.Entry()
	if err == nil {
		return &m.Message
	}
	return &spool.Message{
		ID: p.ID, Route: p.Route.Name, State: p.Bucket.MessageState(), ReceivedAt: p.ID.Time(),
		LastError: spool.ClipError(err.Error()),
	}
}

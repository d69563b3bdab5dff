// Where a message is, and what it is: Body, Get, List.

package disk

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/disk/bodies"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/disk/index"
)

// Body implements [spool.Store].
func (d *Store) Body(_ context.Context, id spool.ID) (spool.Body, error) {
	where, err := d.locate(id)
	if err != nil {
		return nil, err
	}
	body, err := bodies.Open(d.segments, d.files, where)
	if err == nil || !errors.Is(err, fs.ErrNotExist) {
		return body, err
	}
	current, err := d.entry(id) // it was moved, or is gone
	if err != nil {
		return nil, err
	}
	if current.Where == where {
		return nil, fmt.Errorf("message %s: %w: its body is missing", id, spool.ErrDamaged)
	}
	return bodies.Open(d.segments, d.files, current.Where)
}

// locate says where the body of a message is, or was when the message was leased.
func (d *Store) locate(id spool.ID) (bodies.Location, error) {
	d.mu.Lock()
	l := d.leases[id]
	d.mu.Unlock()
	if l != nil {
		return l.Msg.Where, nil
	}
	m, err := d.entry(id)
	if err != nil {
		return bodies.Location{}, err
	}
	return m.Where, nil
}

// Get implements [spool.Store].
func (d *Store) Get(_ context.Context, id spool.ID) (*spool.Message, error) {
	m, err := d.entry(id)
	if err != nil {
		return nil, err
	}
	return m.Shown(), nil
}

// entry finds a message in the index.
func (d *Store) entry(id spool.ID) (*index.Entry, error) {
	var found *index.Entry
	err := d.view(func(t *index.Tx) error {
		place, ok := d.find(t, id)
		if !ok {
			return spool.ErrNotFound
		}
		m, err := place.message()
		found = m
		return err
	})
	return found, err
}

// place is where in the index a message is.
type place struct {
	bucket index.Bucket
	info   *index.RouteInfo
	id     spool.ID
	record []byte
}

func (p place) message() (*index.Entry, error) {
	m, err := index.ParseRecord(p.record)
	if err != nil {
		return nil, fmt.Errorf("message %s: %w: %w", p.id, spool.ErrDamaged, err)
	}
	m.ID, m.Route, m.State = p.id, p.info.Name, spool.Pending
	if p.bucket == index.Dead {
		m.State = spool.Dead
	}
	return m, nil
}

// show is message for those who only look: of a record that cannot be read, it says so.
func (p place) show() *spool.Message {
	m, err := p.message()
	if err == nil {
		return &m.Message
	}
	damaged := &spool.Message{
		ID: p.id, Route: p.info.Name, State: spool.Pending, ReceivedAt: p.id.Time(),
		LastError: spool.ClipError(err.Error()),
	}
	if p.bucket == index.Dead {
		damaged.State = spool.Dead
	}
	return damaged
}

// find looks for a message, in every route because its id does not tell.
func (d *Store) find(t *index.Tx, id spool.ID) (place, bool) {
	for _, info := range d.routeInfos() {
		for _, bucket := range [...]index.Bucket{index.Fresh, index.Parked, index.Dead} {
			if record := t.Get(bucket, index.IDKey(info.Number, id)); record != nil {
				return place{bucket: bucket, info: info, id: id, record: record}, true
			}
		}
	}
	return place{}, false
}

// routeInfos returns the routes. Their names and numbers never change.
func (d *Store) routeInfos() []*index.RouteInfo {
	d.mu.Lock()
	defer d.mu.Unlock()
	infos := make([]*index.RouteInfo, 0, len(d.routes))
	for _, info := range d.routes {
		infos = append(infos, info)
	}
	return infos
}

// List implements [spool.Store].
func (d *Store) List(_ context.Context, filter spool.Filter) ([]*spool.Message, error) {
	if filter.Limit <= 0 {
		filter.Limit = spool.DefaultListLimit
	}
	var buckets []index.Bucket
	if filter.State != spool.Dead {
		buckets = append(buckets, index.Fresh, index.Parked)
	}
	if filter.State != spool.Pending {
		buckets = append(buckets, index.Dead)
	}

	messages := []*spool.Message{}
	infos := d.routeInfos()
	err := d.view(func(t *index.Tx) error {
		var places []place // the first ones of every list; more than the limit cannot be needed
		for _, info := range infos {
			if filter.Route != "" && filter.Route != info.Name {
				continue
			}
			for _, bucket := range buckets {
				n := 0
				t.Scan(bucket, index.RouteKey(info.Number), filter.After[:], func(key, record []byte) bool {
					if filter.User != "" && index.Record(record).User() != filter.User {
						return true
					}
					places = append(
						places,
						place{bucket: bucket, info: info, id: index.KeyID(key), record: record},
					)
					n++
					return n < filter.Limit
				})
			}
		}
		slices.SortFunc(places, func(a, b place) int { return a.id.Compare(b.id) })
		for _, p := range places[:min(len(places), filter.Limit)] {
			messages = append(messages, p.show())
		}
		return nil
	})
	return messages, err
}

// Where a message is, and what it is: Body, Get.

package disk

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/disk/bodies"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/disk/index"
)

// Body implements [spool.Store].
func (d *Store) Body(ctx context.Context, id spool.ID) (spool.Body, error) {
	if err := d.enter(ctx); err != nil {
		return nil, err
	}
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
func (d *Store) Get(ctx context.Context, id spool.ID) (*spool.Message, error) {
	if err := d.enter(ctx); err != nil {
		return nil, err
	}
	m, err := d.entry(id)
	if err != nil {
		return nil, err
	}
	return m.Shown(), nil
}

// entry finds a message in the index.
func (d *Store) entry(id spool.ID) (found *index.Entry, err error) {
	routes := d.routeInfos()
	err = d.view(func(t *index.Tx) error {
		p, ok := t.Find(routes, id)
		if !ok {
			return spool.ErrNotFound
		}
		found, err = p.Entry()
		return err
	})
	return found, err
}

// routeInfos returns the routes. Their names and numbers never change. It takes d.mu, so nobody but
// the writer may call it while it reads the index: Lease holds d.mu and waits to read, and a commit
// that has the index grow lets nobody begin to read until those are done who do.
func (d *Store) routeInfos() []*index.RouteInfo {
	d.mu.Lock()
	defer d.mu.Unlock()
	infos := make([]*index.RouteInfo, 0, len(d.routes))
	for _, info := range d.routes {
		infos = append(infos, info)
	}
	return infos
}

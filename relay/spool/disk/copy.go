// How messages leave for another store, and come from one.

package disk

import (
	"cmp"
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/disk/bodies"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/disk/index"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/disk/selection"
)

// importedFor is how long it is remembered what was imported, printsPage how many fingerprints are
// taken at a time.
const (
	importedFor = 30 * 24 * time.Hour
	printsPage  = 4 * maxGroup
)

// Export implements [spool.Portable].
func (d *Store) Export(
	ctx context.Context,
	after spool.ID,
	limit int,
) (page []spool.Exported, err error) {
	if err := d.enter(ctx); err != nil {
		return nil, err
	}
	all := spool.Filter{After: after, Limit: limit}
	err = d.viewSelected(all, func(s *selection.Selection) error {
		for _, p := range s.Places() {
			_, damage := p.Entry()
			page = append(page, spool.Exported{Message: p.Shown(), Err: damage})
		}
		return nil
	})
	return page, err
}

// Missing implements [spool.Portable].
func (d *Store) Missing(ctx context.Context, ids []spool.ID) (missing []spool.ID, err error) {
	if err := d.enter(ctx); err != nil {
		return nil, err
	}
	routes := d.routeInfos()
	err = d.view(func(t *index.Tx) error {
		for _, id := range ids {
			if !has(t, routes, id) {
				missing = append(missing, id)
			}
		}
		return nil
	})
	return missing, err
}

// has reports whether a message is in one of some routes, or was imported.
func has(t *index.Tx, routes []*index.RouteInfo, id spool.ID) bool {
	if t.Get(index.Imported, id[:]) != nil {
		return true
	}
	_, found := t.Find(routes, id)
	return found
}

// Import implements [spool.Portable].
func (d *Store) Import(
	ctx context.Context,
	messages []spool.Imported,
) (kept []spool.ID, err error) {
	if err := d.enter(ctx); err != nil {
		discard(messages)
		return nil, err
	}
	var ops []*operation
	for i, m := range messages {
		op, err := importing(m)
		if err == nil && !d.ops.push(op, true) {
			err = spool.ErrClosed
		}
		if err != nil {
			discard(messages[i:])
			return nil, err
		}
		ops = append(ops, op)
	}
	for _, op := range ops {
		failed := <-op.done
		if failed == nil && !op.accept.receipt.Duplicate {
			kept = append(kept, op.accept.msg.ID)
		}
		err = cmp.Or(err, failed)
	}
	return kept, err
}

func discard(messages []spool.Imported) {
	for _, m := range messages {
		m.Body.Discard()
	}
}

// importing is the operation of a message that is imported.
func importing(imported spool.Imported) (*operation, error) {
	body, ok := imported.Body.(*bodies.Writer)
	if !ok {
		return nil, fmt.Errorf("a body of type %T is not of this store", imported.Body)
	}
	where, err := body.Finish()
	if err != nil {
		return nil, bodies.Refusal(err)
	}
	m := &index.Entry{Message: *imported.Message}
	if m.OrderKey == 0 { // a sequence of its own
		m.OrderKey = rand.Uint64()
	}
	// Among the parked, messages of one key are in the order of their ids whenever they come.
	bucket := index.Parked
	switch m.State {
	case spool.Dead:
		bucket = index.Dead
	case spool.Delivered:
		bucket = index.Kept
	}
	return &operation{done: make(chan error, 1), accept: &acceptance{
		msg: m, body: body, where: where, record: index.AppendRecord(nil, m),
		restored: true, bucket: bucket, imported: true,
	}}, nil
}

// importOnce is the operation of a message that is imported, unless it was before.
func (a *acceptance) importOnce(c *change) error {
	id := a.msg.ID
	if has(c.Tx, c.d.routeInfos(), id) {
		a.receipt.Duplicate = true
		return nil
	}
	now := binary.BigEndian.AppendUint64(nil, uint64(time.Now().UnixNano()))
	if err := c.Put(index.Imported, id[:], now); err != nil {
		return err
	}
	if a.bucket == index.Parked {
		// The parked ones come before the fresh ones of their key, whatever their ids are.
		if err := c.ParkAllFresh(a.msg.Route); err != nil {
			return err
		}
		c.imported = true
	}
	return a.restore(c)
}

// forgetImported forgets what was imported long ago, when the store is opened.
func (d *Store) forgetImported() {
	d.ops.push(&operation{apply: func(c *change) error {
		var old [][]byte
		limit := time.Now().Add(-importedFor)
		c.Scan(index.Imported, nil, nil, func(id, at []byte) bool {
			if index.FromUnixNano(int64(index.Uint64(at))).Before(limit) {
				old = append(old, slices.Clone(id))
			}
			return true
		})
		for _, id := range old {
			if err := c.Delete(index.Imported, id); err != nil {
				return err
			}
		}
		return nil
	}}, false)
}

// ExportPrints implements [spool.Portable].
func (d *Store) ExportPrints(ctx context.Context, take func([]spool.Print) error) error {
	var after []byte
	for {
		if err := d.enter(ctx); err != nil {
			return err
		}
		var page []spool.Print
		err := d.view(func(t *index.Tx) error {
			t.Scan(index.Prints, nil, after, func(key, value []byte) bool {
				after = slices.Clone(key)
				if p, ok := index.ParsePrint(value); ok {
					page = append(page, p)
				}
				return len(page) < printsPage
			})
			return nil
		})
		if err != nil || len(page) == 0 {
			return err
		}
		if err := take(page); err != nil {
			return err
		}
	}
}

// ImportPrints implements [spool.Portable].
func (d *Store) ImportPrints(ctx context.Context, prints []spool.Print) error {
	for chunk := range slices.Chunk(prints, printsPage) {
		err := d.perform(ctx, func(c *change) error {
			for _, p := range chunk {
				if c.prints.Has(p) {
					continue
				}
				if err := c.prints.Add(p.Fingerprint, p.ID); err != nil {
					return err
				}
			}
			return c.prints.WriteSequence()
		})
		if err != nil {
			return err
		}
	}
	return nil
}

var _ spool.Portable = (*Store)(nil)

// How messages that another inbox has accepted come into this one.

package disk

import (
	"context"
	"encoding/binary"
	"fmt"
	"slices"

	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
)

// restoration puts messages into a store that nobody uses yet, many in each transaction.
type restoration struct {
	d   *Store
	ops []*operation
}

// add takes a message over with its body. The message has its id and all that became of it.
func (r *restoration) add(m *entry, bucket []byte, w spool.BodyWriter) error {
	body, ok := w.(*bodyWriter)
	if !ok {
		return fmt.Errorf("a body of type %T is not of this store", w)
	}
	where, err := body.finish()
	if err != nil {
		body.Discard()
		return err
	}
	a := &acceptance{msg: m, body: body, where: where, record: appendRecord(nil, m), restored: bucket}
	op := &operation{accept: a, done: make(chan error, 1)}
	if !r.d.ops.push(op, true) {
		body.Discard()
		return spool.ErrClosed
	}
	if r.ops = append(r.ops, op); len(r.ops) >= maxGroup/4 {
		return r.wait()
	}
	return nil
}

// wait waits until all of them are on disk.
func (r *restoration) wait() error {
	ops := r.ops
	r.ops = nil
	for _, op := range ops {
		if err := <-op.done; err != nil {
			return err
		}
	}
	return nil
}

// restore is the operation of a message that is restored.
func (a *acceptance) restore(c *change) error {
	where := a.where
	if a.entry != nil {
		where = a.entry.where
	}
	info, id := c.route(a.msg.Route), a.msg.ID
	setRecordLocation(a.record, where)
	var err error
	switch &a.restored[0] {
	case &bucketDead[0]:
		err = c.bury(info.number, id, a.msg.DiedAt, a.record)
		info.counts.dead++
		info.counts.deadBytes += where.size
	case &bucketParked[0]:
		err = c.park(info.number, id, a.record)
		info.counts.parked++
		fallthrough
	default:
		info.counts.pending++
		info.counts.pendingBytes += where.size
	}
	if err == nil && &a.restored[0] == &bucketFresh[0] {
		err = c.put(bucketFresh, idKey(info.number, id), a.record)
	}
	if err != nil {
		return err
	}
	if id.Compare(c.lastID) > 0 {
		c.lastID = id
	}
	c.accepted++
	return c.retain(where, id)
}

// restorePrints puts fingerprints into a store that has none, as far as they are wanted.
func (d *Store) restorePrints(ctx context.Context, wanted func(printEntry) bool, prints []printEntry) error {
	for chunk := range slices.Chunk(prints, 4*maxGroup) {
		err := d.perform(ctx, func(c *change) error {
			for _, p := range chunk {
				if !wanted(p) {
					continue
				}
				if err := c.addPrint(p.fingerprint, p.id); err != nil {
					return err
				}
			}
			return c.put(bucketState, statePrintSequence, binary.BigEndian.AppendUint64(nil, c.printSequence))
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// How messages that another inbox has accepted come into this one.

package disk

import (
	"fmt"

	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/disk/bodies"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/disk/index"
)

// Restoration puts messages into a store that nobody uses yet, many in each transaction.
type Restoration struct {
	d   *Store
	ops []*operation
}

// Restore begins to put messages into the store that another inbox has accepted. Nobody else may
// use it yet.
func (d *Store) Restore() *Restoration { return &Restoration{d: d} }

// Add takes a message over with its body. The message has its id and all that became of it.
func (r *Restoration) Add(m *index.Entry, bucket index.Bucket, w spool.BodyWriter) error {
	body, ok := w.(*bodies.Writer)
	if !ok {
		return fmt.Errorf("a body of type %T is not of this store", w)
	}
	where, err := body.Finish()
	if err != nil {
		body.Discard()
		return err
	}
	a := &acceptance{
		msg:      m,
		body:     body,
		where:    where,
		record:   index.AppendRecord(nil, m),
		restored: true,
		bucket:   bucket,
	}
	op := &operation{accept: a, done: make(chan error, 1)}
	if !r.d.ops.push(op, true) {
		body.Discard()
		return spool.ErrClosed
	}
	if r.ops = append(r.ops, op); len(r.ops) >= maxGroup/4 {
		return r.Wait()
	}
	return nil
}

// Wait waits until all of them are on disk.
func (r *Restoration) Wait() error {
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
	m := a.placed()
	if err := c.Enter(a.bucket, m, a.record); err != nil {
		return err
	}
	c.d.writer.ids.Resume(m.ID)
	c.accepted++
	c.after = append(c.after, func() { c.d.requests.Add(m.ID, m.RequestID) })
	return nil
}

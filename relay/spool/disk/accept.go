// Accept: how a message gets in.

package disk

import (
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/disk/bodies"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/disk/index"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/disk/queue"
)

// NewBody implements [spool.Store].
func (d *Store) NewBody(ctx context.Context, sizeHint int64) (spool.BodyWriter, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := d.mayAccept(max(sizeHint, 0)); err != nil {
		return nil, err
	}
	return bodies.NewWriter(d.files, sizeHint, d.admit), nil
}

// mayAccept reports why a message would be refused at the moment.
func (d *Store) mayAccept(size int64) error {
	refusing := d.refusedBy()
	switch {
	case d.ops.isClosed():
		return spool.ErrClosed
	case refusing != nil && refusing.Reason != spool.ReasonFull:
		return refusing
	}
	d.noteFull()
	return d.admit(size)
}

// acceptance is a message on its way in.
type acceptance struct {
	msg         *index.Entry
	fingerprint spool.Fingerprint
	window      time.Duration
	body        *bodies.Writer
	where       bodies.Location
	record      []byte
	entry       *bodies.Small
	copies      []*operation // the same message again, in the same group
	receipt     spool.Receipt

	// restored says that another inbox has accepted the message before: it has its id, and goes to
	// the bucket where it was.
	restored bool
	bucket   index.Bucket
	imported bool // and may have been before
}

// stage finds the duplicates in a group and writes the bodies of the others to the active
// segment. It returns the operations that are left for the index.
func (w *writer) stage(group []*operation, now time.Time) []*operation {
	var refused error
	if w.store.isRefusing() {
		refused = w.store.refusal()
	}
	kept := make([]*operation, 0, len(group))
	var entries []*bodies.Small
	firsts := make(map[spool.Fingerprint]*acceptance)
	for _, op := range group {
		a := op.accept
		switch {
		case a == nil:
			kept = append(kept, op)
			continue
		case refused != nil:
			w.fail(op, refused)
			continue
		}
		if a.window > 0 && a.fingerprint != (spool.Fingerprint{}) {
			if original, ok := w.original(a, now); ok {
				a.receipt = spool.Receipt{ID: original, Duplicate: true, Size: a.where.Size}
				a.body.Discard()
				op.finish(nil)
				continue
			}
			if first := firsts[a.fingerprint]; first != nil {
				first.copies = append(first.copies, op)
				continue
			}
			firsts[a.fingerprint] = a
		}
		if !a.restored {
			a.msg.ID = w.ids.Next(now)
		}
		a.receipt = spool.Receipt{ID: a.msg.ID, Size: a.where.Size}
		if !a.body.IsLarge() {
			a.entry = &bodies.Small{
				Route: w.store.routeOf(a.msg.Route).Number,
				ID:    a.msg.ID,
				Body:  a.body.Bytes(),
				CRC:   a.where.CRC,
			}
			entries = append(entries, a.entry)
		}
		kept = append(kept, op)
	}
	if len(entries) == 0 {
		return kept
	}

	if err := w.store.segments.Append(entries); err != nil {
		w.stopAccepting(bodies.Refusal(err))
		return slices.DeleteFunc(kept, func(op *operation) bool {
			if op.accept == nil {
				return false
			}
			w.fail(op, bodies.Refusal(err))
			return true
		})
	}
	return kept
}

// original looks for a message with the same fingerprint within the window.
func (w *writer) original(a *acceptance, now time.Time) (id spool.ID, found bool) {
	id = w.prints.Latest(w.store.index.View, a.fingerprint)
	return id, !id.IsZero() && now.Sub(id.Time()) <= a.window
}

// routeOf returns what is known of a route, which gets its number here, the first time.
func (d *Store) routeOf(name string) index.RouteInfo {
	d.mu.Lock()
	defer d.mu.Unlock()
	info := d.routes[name]
	if info == nil {
		number := uint32(1)
		for taken := range d.numbers {
			number = max(number, taken+1)
		}
		info = &index.RouteInfo{Name: name, Number: number}
		d.routes[name], d.numbers[number] = info, info
	}
	return *info
}

// placed returns the message with where its body is.
func (a *acceptance) placed() *index.Entry {
	m := *a.msg
	m.Where = a.where
	if a.entry != nil {
		m.Where = a.entry.Where
	}
	m.Size = m.Where.Size
	return &m
}

// insert is the operation of Accept.
func (a *acceptance) insert(c *change) error {
	m := a.placed()
	if err := c.Enter(index.Fresh, m, a.record); err != nil {
		return err
	}
	if a.fingerprint != (spool.Fingerprint{}) {
		if err := c.prints.Add(a.fingerprint, m.ID); err != nil {
			return err
		}
	}
	c.accepted++
	c.acceptedBytes += m.Size
	c.after = append(c.after, func() {
		c.d.requests.Add(m.ID, m.RequestID)
		c.d.offer(m)
	})
	return nil
}

// offer puts a message that was just accepted in its queue, if that has read all before it. d.mu
// is held.
func (d *Store) offer(m *index.Entry) {
	q := d.queue(m.Route)
	defer d.notify(m.Route)
	w := queue.Waiting{ID: m.ID, Key: m.OrderKey, Dest: m.Destination, Msg: m}
	q.Offer(w, d.routes[m.Route].Counts.Parked > 0)
}

// Accept implements [spool.Store].
func (d *Store) Accept(
	ctx context.Context,
	message *spool.Message,
	fingerprint spool.Fingerprint,
	window time.Duration,
	body spool.BodyWriter,
) (spool.Receipt, error) {
	w, ok := body.(*bodies.Writer)
	if !ok {
		return spool.Receipt{}, fmt.Errorf("a body of type %T is not of this store", body)
	}
	if err := cmp.Or(ctx.Err(), d.mayAccept(w.Uncounted())); err != nil {
		w.Discard()
		return spool.Receipt{}, err
	}
	where, err := w.Finish()
	if err != nil {
		w.Discard()
		return spool.Receipt{}, bodies.Refusal(err)
	}

	msg := &index.Entry{Message: *message}
	msg.State, msg.ReceivedAt = spool.Pending, time.Now()
	msg.ScheduledFrom = msg.ReceivedAt
	if msg.OrderKey == 0 { // a sequence of its own
		msg.OrderKey = rand.Uint64()
	}
	a := &acceptance{
		msg:         msg,
		fingerprint: fingerprint,
		window:      window,
		body:        w,
		where:       where,
		record:      index.AppendRecord(nil, msg),
	}
	op := &operation{accept: a, done: make(chan error, 1)}
	if !d.ops.push(op, true) {
		w.Discard()
		return spool.Receipt{}, spool.ErrClosed
	}
	select {
	case err := <-op.done:
		if err == nil && !a.receipt.Duplicate {
			message.ID, message.State, message.Size = msg.ID, msg.State, a.receipt.Size
			message.ReceivedAt, message.ScheduledFrom = msg.ReceivedAt, msg.ScheduledFrom
		}
		return a.receipt, err
	case <-ctx.Done():
		return spool.Receipt{}, ctx.Err()
	}
}

// The writer: one goroutine through which every change to the disk goes, in groups.

package disk

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
)

const (
	// settleDelay is how long settled messages wait for a group commit to go along with.
	settleDelay = 20 * time.Millisecond

	// maintainDelay is how long after a change the writer looks for what can be tidied up.
	maintainDelay = time.Second

	// minCompany is how many senders there must be at a time for a group commit to wait for them.
	minCompany = 8

	// A group commit takes no more than this, so that the first in it does not wait too long.
	maxGroup      = 1024
	maxGroupBytes = 4 << 20
)

// operation is one change. Those that come together are one transaction.
type operation struct {
	accept *acceptance

	// apply makes the change. An error means that the index failed, and undoes everything of the
	// transaction.
	apply func(*change) error

	// durable operations must not fail: they are tried again until they are on disk.
	durable bool

	done chan error // gets the outcome; nil if nobody waits
}

// finish answers whoever waits. Only the first answer counts.
func (o *operation) finish(err error) {
	if o.done == nil {
		return
	}
	select {
	case o.done <- err:
	default:
	}
}

// acceptance is a message on its way in.
type acceptance struct {
	msg         *entry
	fingerprint spool.Fingerprint
	window      time.Duration
	body        *bodyWriter
	where       location
	record      []byte
	entry       *segmentEntry
	copies      []*operation // the same message again, in the same group
	receipt     spool.Receipt

	// restored is the bucket of a message that has been accepted before, by another inbox, and has its id.
	restored []byte
}

// errMistake is a panic in the engine itself.
var errMistake = errors.New("a mistake in the inbox")

// writerQueue collects operations for the writer, in order.
type writerQueue struct {
	mu      sync.Mutex
	ops     []*operation
	accepts int  // among ops
	armed   bool // a wake-up is under way
	closed  bool
	wake    chan struct{}

	quorum int // so many accepts the writer waits for, if not 0
	met    chan struct{}
}

func newWriterQueue() *writerQueue {
	return &writerQueue{wake: make(chan struct{}, 1), met: make(chan struct{}, 1)}
}

func (q *writerQueue) signal() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// push adds an operation, and reports whether it will be looked at.
func (q *writerQueue) push(op *operation, urgent bool) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return false
	}
	q.ops = append(q.ops, op)
	if op.accept != nil {
		q.accepts++
	}
	switch {
	case q.quorum > 0:
		q.checkQuorum()
	case urgent:
		q.signal()
	case !q.armed:
		q.armed = true
		time.AfterFunc(settleDelay, q.signal)
	}
	return true
}

// pushFront puts operations back that have failed and are to be tried again.
func (q *writerQueue) pushFront(ops []*operation) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.ops = append(slices.Clip(ops), q.ops...)
}

// checkQuorum ends gather when it has what it waits for. q.mu is held.
func (q *writerQueue) checkQuorum() {
	if q.quorum == 0 || q.accepts < q.quorum && !q.closed {
		return
	}
	q.quorum = 0
	select {
	case q.met <- struct{}{}:
	default:
	}
}

// gather waits until there are so many accepts, but not for long. It returns at once if there are none.
func (q *writerQueue) gather(quorum int, patience time.Duration) {
	q.mu.Lock()
	if q.accepts == 0 || q.accepts >= quorum || q.closed {
		q.mu.Unlock()
		return
	}
	q.quorum = quorum
	select {
	case <-q.met: // of an earlier time
	default:
	}
	q.mu.Unlock()

	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-q.met:
	case <-timer.C:
	}
	q.mu.Lock()
	q.quorum = 0
	q.mu.Unlock()
}

// waiting returns how many accepts there are.
func (q *writerQueue) waiting() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.accepts
}

// take returns the operations of the next group.
func (q *writerQueue) take() []*operation {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.armed = false
	n, size := 0, int64(0)
	for n < len(q.ops) && n < maxGroup && size < maxGroupBytes {
		if a := q.ops[n].accept; a != nil {
			size += a.where.size
			q.accepts--
		}
		n++
	}
	group := q.ops[:n:n]
	q.ops = q.ops[n:]
	if len(q.ops) > 0 {
		q.signal()
	} else {
		q.ops = nil
	}
	return group
}

// close lets nothing more in. It reports whether it was open.
func (q *writerQueue) close() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	wasOpen := !q.closed
	q.closed = true
	q.checkQuorum()
	q.signal()
	return wasOpen
}

func (q *writerQueue) isClosed() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.closed
}

func (q *writerQueue) isEmpty() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.ops) == 0
}

// writerState is the writer's alone.
type writerState struct {
	ids spool.IDSource

	company int // how many accepts to wait for

	retryAt time.Time     // before this, the index is left alone because it has just failed
	probeAt time.Time     // when to look whether messages can be accepted again
	backoff time.Duration // between such looks

	maintainAt time.Time // zero if there is nothing to look after
	compactAt  time.Time
	pinned     map[uint32]bool // segments that cannot be cleared
}

// writerPrints are the fingerprints, the writer's alone except for size.
type writerPrints struct {
	table printTable
	last  uint64 // the last sequence given out
	size  atomic.Int64
}

// run is the writer.
func (d *Store) run() {
	defer close(d.done)
	w := &d.writer
	w.pinned = make(map[uint32]bool)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		if next := d.nextWork(); next.IsZero() {
			timer.Stop()
		} else {
			timer.Reset(time.Until(next))
		}
		select {
		case <-d.ops.wake:
		case <-timer.C:
		}
		if d.ops.isClosed() {
			d.finish()
			return
		}
		d.work()
	}
}

// nextWork returns when the writer has to do something unasked, or zero.
func (d *Store) nextWork() time.Time {
	next := earlier(d.writer.retryAt, d.writer.maintainAt)
	if d.isRefusing() {
		next = earlier(next, d.writer.probeAt)
	}
	return next
}

// earlier returns the earlier of two times, of which zero means never.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

func (d *Store) isRefusing() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.refusing != nil && d.refusing.Reason != spool.ReasonFull
}

// work does one group commit, and what else is to be done.
func (d *Store) work() {
	d.ops.gather(d.writer.company, d.options.CommitDelay)
	now := time.Now()
	group := d.ops.take()
	defer d.countCompany(group)
	if now.Before(d.writer.retryAt) {
		d.turnAway(group, d.refusal())
		return
	}
	d.writer.retryAt = time.Time{}
	if d.index != nil {
		if broken := d.index.broken.Load(); broken != nil {
			d.indexFailed(group, *broken)
			return
		}
	} else if err := d.reopen(); err != nil {
		d.stopAccepting(refuse(err))
		d.turnAway(group, d.refusal())
		return
	}
	if len(group) > 0 {
		d.commit(group)
	}
	if d.isRefusing() && !now.Before(d.writer.probeAt) {
		d.recover()
	}
	switch maintainAt := d.writer.maintainAt; {
	case maintainAt.IsZero():
		d.writer.maintainAt = now.Add(maintainDelay)
	case !now.Before(maintainAt):
		d.writer.maintainAt = time.Time{}
		d.maintain(now)
	}
}

// countCompany estimates how many senders there are at a time: those that were just answered, most of
// which come again soon, and those that came meanwhile.
func (d *Store) countCompany(group []*operation) {
	company := d.ops.waiting()
	for _, op := range group {
		if op.accept != nil {
			company++
		}
	}
	if company < minCompany {
		company = 0
	}
	d.writer.company = company * 7 / 8
}

// finish writes what is left when the store is closed.
func (d *Store) finish() {
	works := d.index != nil
	for !d.ops.isEmpty() {
		group := d.ops.take()
		if works {
			works = d.commit(group) // if it fails, what must not be lost is in the queue again
			continue
		}
		for _, op := range group {
			if !op.durable { // what is lost here is delivered again after the restart
				d.fail(op, spool.ErrClosed)
			}
		}
	}
}

// turnAway fails the operations that may fail, and keeps the others for later.
func (d *Store) turnAway(group []*operation, err error) {
	var kept []*operation
	for _, op := range group {
		if op.durable {
			kept = append(kept, op)
			continue
		}
		d.fail(op, err)
	}
	d.ops.pushFront(kept)
}

// fail ends an operation without success.
func (d *Store) fail(op *operation, err error) {
	if a := op.accept; a != nil {
		a.body.Discard()
		for _, again := range a.copies {
			d.fail(again, err)
		}
	}
	op.finish(err)
}

// refusal is the current reason for turning operations away.
func (d *Store) refusal() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.refusing == nil {
		return &spool.RefusedError{Reason: spool.ReasonWrite, RetryAfter: refusedRetryAfter, Err: errors.New("the index has just failed")}
	}
	return d.refusing
}

// commit makes a group durable: first the bodies, then what points to them. It reports
// whether the index took it.
func (d *Store) commit(group []*operation) (taken bool) {
	defer func() { // a mistake of ours ends the group, and not the process
		if p := recover(); p != nil {
			d.indexFailed(group, fmt.Errorf("%w: %v", errMistake, p))
			taken = false
		}
	}()
	start := time.Now()
	group = d.stage(group, start)
	if len(group) == 0 {
		return true
	}

	c := d.newChange()
	err := d.index.update(func(t *indexTx) error {
		c.indexTx = t
		for _, op := range group {
			apply := op.apply
			switch a := op.accept; {
			case a == nil:
			case a.restored != nil:
				apply = a.restore
			default:
				apply = a.insert
			}
			if err := apply(c); err != nil {
				return err
			}
		}
		return c.finish(start)
	})
	if err != nil {
		d.indexFailed(group, err)
		return false
	}
	d.synced(start)
	c.publish()
	for _, op := range group {
		if a := op.accept; a != nil {
			a.body.keep()
			for _, again := range a.copies {
				again.accept.receipt = spool.Receipt{ID: a.receipt.ID, Duplicate: true, Size: a.where.size}
				again.accept.body.Discard()
				again.finish(nil)
			}
		}
		op.finish(nil)
	}
	return true
}

// synced tells how long a commit took that began at start.
func (d *Store) synced(start time.Time) {
	if d.options.Events.Synced != nil {
		d.options.Events.Synced(time.Since(start))
	}
}

// stage finds the duplicates in a group and writes the bodies of the others to the active
// segment. It returns the operations that are left for the index.
func (d *Store) stage(group []*operation, now time.Time) []*operation {
	var refused error
	if d.isRefusing() {
		refused = d.refusal()
	}
	kept := make([]*operation, 0, len(group))
	var entries []*segmentEntry
	firsts := make(map[spool.Fingerprint]*acceptance)
	for _, op := range group {
		a := op.accept
		switch {
		case a == nil:
			kept = append(kept, op)
			continue
		case refused != nil:
			d.fail(op, refused)
			continue
		}
		if a.window > 0 && a.fingerprint != (spool.Fingerprint{}) {
			if original, ok := d.original(a, now); ok {
				a.receipt = spool.Receipt{ID: original, Duplicate: true, Size: a.where.size}
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
		if a.restored == nil {
			a.msg.ID = d.writer.ids.Next(now)
		}
		a.receipt = spool.Receipt{ID: a.msg.ID, Size: a.where.size}
		if a.body.f == nil {
			a.entry = &segmentEntry{route: d.routeNumber(a.msg.Route), id: a.msg.ID, body: a.body.bytes(), crc: a.where.crc}
			entries = append(entries, a.entry)
		}
		kept = append(kept, op)
	}
	if len(entries) == 0 {
		return kept
	}

	if err := d.segments.append(entries); err != nil {
		d.stopAccepting(refuse(err))
		return slices.DeleteFunc(kept, func(op *operation) bool {
			if op.accept == nil {
				return false
			}
			d.fail(op, refuse(err))
			return true
		})
	}
	return kept
}

// original looks for a message with the same fingerprint within the window.
func (d *Store) original(a *acceptance, now time.Time) (id spool.ID, found bool) {
	d.prints.table.find(&a.fingerprint, func(sequence uint32) bool {
		_ = d.index.view(func(t *indexTx) error {
			value := t.get(bucketPrints, d.prints.key(sequence))
			if len(value) == len(a.fingerprint)+len(spool.ID{}) && spool.Fingerprint(value[:len(a.fingerprint)]) == a.fingerprint {
				id = spool.ID(value[len(a.fingerprint):])
				found = now.Sub(id.Time()) <= a.window
			}
			return nil
		})
		return found
	})
	return id, found
}

// routeNumber returns the number of a route, which is given out here for the first time if need be.
func (d *Store) routeNumber(name string) uint32 {
	d.mu.Lock()
	defer d.mu.Unlock()
	info := d.routes[name]
	if info == nil {
		number := uint32(1)
		for taken := range d.numbers {
			number = max(number, taken+1)
		}
		info = &routeInfo{name: name, number: number}
		d.routes[name], d.numbers[number] = info, info
	}
	return info.number
}

// indexFailed gives up a group that the index did not take, or of which nobody knows whether it did.
func (d *Store) indexFailed(group []*operation, err error) {
	refused := refuse(err)
	d.stopAccepting(refused)
	d.writer.retryAt = time.Now().Add(d.options.pause)
	if refused.Reason == spool.ReasonDisk && d.fsys.Remove(d.ballastPath()) == nil {
		d.writer.retryAt = time.Now()
	}

	err = d.reopen()
	if err != nil {
		refused = refuse(err)
		d.stopAccepting(refused)
	}
	reopened := err == nil
	var kept []*operation
	for _, op := range group {
		switch {
		case op.durable:
			kept = append(kept, op)
		case op.accept != nil && op.accept.body.f != nil && (!reopened || d.isKnownFile(op.accept.where)):
			op.accept.body.keep() // its record may have come to the disk, so its file stays until the next open
			d.fail(op, refused)
		default:
			d.fail(op, refused)
		}
	}
	d.ops.pushFront(kept)
}

func (d *Store) isKnownFile(where location) (known bool) {
	err := d.view(func(t *indexTx) error {
		known = t.get(bucketFiles, where.file[:]) != nil
		return nil
	})
	return known || err != nil
}

// stopAccepting refuses messages until something could be written again.
func (d *Store) stopAccepting(refused *spool.RefusedError) {
	d.mu.Lock()
	began := d.refusing == nil || d.refusing.Reason != refused.Reason
	if d.refusing == nil {
		d.since = time.Now()
	}
	d.refusing = refused
	d.mu.Unlock()

	d.writer.backoff = min(max(2*d.writer.backoff, d.options.pause), 10*d.options.pause)
	d.writer.probeAt = time.Now().Add(d.writer.backoff)
	if began && d.options.Events.Refusing != nil {
		d.options.Events.Refusing(refused.Reason, true, refused.Err)
	}
}

// noteFull notes whether there is no room for an ordinary message within max_size.
func (d *Store) noteFull() {
	full := d.admit(maxSegmentBody) != nil
	d.mu.Lock()
	var notify func(spool.Reason, bool, error)
	switch {
	case full && d.refusing == nil:
		d.refusing = &spool.RefusedError{Reason: spool.ReasonFull, RetryAfter: refusedRetryAfter}
		d.since = time.Now()
		notify = d.options.Events.Refusing
	case !full && d.refusing != nil && d.refusing.Reason == spool.ReasonFull:
		d.refusing = nil
		notify = d.options.Events.Refusing
	}
	d.mu.Unlock()
	if notify != nil {
		notify(spool.ReasonFull, full, nil)
	}
}

// recover finds out whether messages can be accepted again, by writing.
func (d *Store) recover() {
	err := d.probe()
	if err == nil {
		err = d.index.update(func(t *indexTx) error {
			return t.put(bucketState, []byte("probe"), binary.BigEndian.AppendUint64(nil, uint64(time.Now().UnixNano())))
		})
		if err != nil {
			d.indexFailed(nil, err)
			return
		}
	}
	if err != nil {
		d.stopAccepting(refuse(err))
		return
	}
	_ = d.restoreBallast() // it is tried again with the next start

	d.mu.Lock()
	reason := d.refusing.Reason
	d.refusing = nil
	d.writer.backoff = 0
	for route := range d.routes {
		d.notify(route)
	}
	d.mu.Unlock()
	if d.options.Events.Refusing != nil {
		d.options.Events.Refusing(reason, false, nil)
	}
}

// reopen replaces the index by the same through a fresh descriptor. If that fails,
// the writer tries again.
func (d *Store) reopen() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.indexMu.Lock()
	defer d.indexMu.Unlock()

	var err error
	var found *tally
	if d.index != nil {
		_ = d.index.close(false) // what it says no longer counts
		if d.index.broken.Load() == nil {
			err = d.index.rewriteRoots()
		}
		d.index = nil
	}
	if err == nil {
		d.index, found, err = openIndex(d.fsys, d.path)
		if errors.Is(err, spool.ErrForeign) || errors.Is(err, fs.ErrNotExist) { // which it was not when it was opened
			err = damagedIndex(filepath.Join(d.path, indexName), err)
		}
	}
	if err == nil {
		err = d.load(found)
	}
	if err == nil {
		d.requeue()
		return nil
	}
	if d.index != nil {
		_ = d.index.close(false)
		d.index = nil
	}
	pause := d.options.pause
	if errors.Is(err, spool.ErrDamaged) {
		pause *= 20 // it does not mend by itself, and each look is at all of it
	}
	d.writer.retryAt = time.Now().Add(pause)
	return err
}

// requeue begins to read the queues anew, around what is leased or not yet recorded. d.mu is held.
func (d *Store) requeue() {
	for route, q := range d.queues {
		if d.routes[route] == nil { // nothing of it ever came to the disk
			delete(d.queues, route)
			continue
		}
		q.reset()
		d.notify(route)
	}
	_ = d.index.view(func(t *indexTx) error {
		for id, l := range d.leases {
			l.parked = t.get(bucketFresh, idKey(l.queue.number, id)) == nil
			if l.advanced {
				continue
			}
			k := l.queue.key(l.msg.OrderKey)
			k.busy = true
			k.parked = k.parked || l.parked
			if l.settled {
				k.unrecorded++
			} else {
				k.leased = true
			}
		}
		return nil
	})
}

// change is a transaction that is being made up.
type change struct {
	*indexTx
	d        *Store
	routes   map[string]*routeInfo   // changed ones
	segments map[uint32]segmentStats // changed ones

	removedSegments []uint32
	removedFiles    []location
	addedPrints     []printChange
	removedPrints   []printChange
	printSequence   uint64
	lastID          spool.ID
	accepted        int
	after           []func() // what to do when it is on disk, with Disk.mu held
}

func (d *Store) newChange() *change {
	return &change{
		d:             d,
		routes:        make(map[string]*routeInfo),
		segments:      make(map[uint32]segmentStats),
		printSequence: d.prints.last,
	}
}

type printChange struct {
	fingerprint spool.Fingerprint
	sequence    uint32
}

// route returns the totals of a route for changing.
func (c *change) route(name string) *routeInfo {
	info := c.routes[name]
	if info == nil {
		number := c.d.routeNumber(name)
		c.d.mu.Lock()
		copied := *c.d.numbers[number]
		c.d.mu.Unlock()
		info = &copied
		c.routes[name] = info
	}
	return info
}

// segment returns what the index knows of a segment.
func (c *change) segment(number uint32) segmentStats {
	if stats, ok := c.segments[number]; ok {
		return stats
	}
	c.d.segments.mu.Lock()
	defer c.d.segments.mu.Unlock()
	return c.d.segments.stats[number]
}

// retain notes that a message needs a body.
func (c *change) retain(where location, id spool.ID) error {
	if where.segment == 0 {
		return c.put(bucketFiles, where.file[:], id[:])
	}
	stats := c.segment(where.segment)
	stats.live++
	stats.liveBytes += where.size + segmentHeader
	c.segments[where.segment] = stats
	return nil
}

// release notes that no message needs a body any more.
func (c *change) release(where location) error {
	if where.segment == 0 {
		c.removedFiles = append(c.removedFiles, where)
		return c.delete(bucketFiles, where.file[:])
	}
	stats := c.segment(where.segment)
	stats.live--
	stats.liveBytes -= where.size + segmentHeader
	c.segments[where.segment] = stats
	return nil
}

// insert is the operation of Accept.
func (a *acceptance) insert(c *change) error {
	where := a.where
	if a.entry != nil {
		where = a.entry.where
	}
	info := c.route(a.msg.Route)
	id := a.msg.ID
	setRecordLocation(a.record, where)
	if err := c.put(bucketFresh, idKey(info.number, id), a.record); err != nil {
		return err
	}
	if err := c.retain(where, id); err != nil {
		return err
	}
	if a.fingerprint != (spool.Fingerprint{}) {
		if err := c.addPrint(a.fingerprint, id); err != nil {
			return err
		}
	}
	info.counts.pending++
	info.counts.pendingBytes += where.size
	c.lastID = id
	c.accepted++

	msg := *a.msg
	msg.where, msg.Size = where, where.size
	c.after = append(c.after, func() { c.d.offer(&msg) })
	return nil
}

// offer puts a message that was just accepted in its queue, if that has read all before it. d.mu is held.
func (d *Store) offer(m *entry) {
	q := d.queue(m.Route)
	defer d.notify(m.Route)
	if !q.atEnd || m.ID.Compare(q.cursor) <= 0 {
		return
	}
	w := waiting{id: m.ID, key: m.OrderKey, dest: m.Destination, msg: m}
	if len(q.ready) >= q.limits.chunk {
		w.msg = nil // it may take long
	}
	switch k := q.keys[m.OrderKey]; {
	case k.occupied() && q.mayHold():
		q.hold(w)
	case !k.occupied() && q.hasRoom() && d.routes[m.Route].counts.parked == 0:
		q.makeReady(w)
	default: // read it from the index when there is room, or to see what is before it
		q.atEnd = false
		return
	}
	q.cursor = m.ID
}

// addPrint keeps a fingerprint.
func (c *change) addPrint(fingerprint spool.Fingerprint, id spool.ID) error {
	c.printSequence++
	if uint32(c.printSequence) == 0 { // means none to the table
		c.printSequence++
	}
	value := append(append(make([]byte, 0, len(fingerprint)+len(id)), fingerprint[:]...), id[:]...)
	c.addedPrints = append(c.addedPrints, printChange{fingerprint, uint32(c.printSequence)})
	return c.put(bucketPrints, binary.BigEndian.AppendUint64(nil, c.printSequence), value)
}

// trimPrints forgets fingerprints that are too old, or too many, faster than new ones come.
func (c *change) trimPrints(now time.Time) error {
	c.d.mu.Lock()
	oldest := now.Add(-c.d.window)
	c.d.mu.Unlock()
	p := &c.d.prints
	excess := p.table.count + len(c.addedPrints) - c.d.options.MaxFingerprints
	limit := 2*len(c.addedPrints) + 16

	var keys [][]byte
	c.scan(bucketPrints, nil, nil, func(key, value []byte) bool {
		if len(key) != 8 || len(value) != len(spool.Fingerprint{})+len(spool.ID{}) {
			keys = append(keys, slices.Clone(key))
			return len(keys) < limit
		}
		if excess <= len(keys) && !spool.ID(value[len(spool.Fingerprint{}):]).Time().Before(oldest) {
			return false
		}
		keys = append(keys, slices.Clone(key))
		c.removedPrints = append(c.removedPrints, printChange{spool.Fingerprint(value[:len(spool.Fingerprint{})]), parseUint32(key[4:])})
		return len(keys) < limit
	})
	for _, key := range keys {
		if err := c.delete(bucketPrints, key); err != nil {
			return err
		}
	}
	return nil
}

// finish writes the totals that the transaction has changed.
func (c *change) finish(now time.Time) error {
	if c.accepted > 0 {
		if err := c.trimPrints(now); err != nil {
			return err
		}
		if err := c.put(bucketState, statePrintSequence, binary.BigEndian.AppendUint64(nil, c.printSequence)); err != nil {
			return err
		}
		if err := c.put(bucketState, stateLastID, c.lastID[:]); err != nil {
			return err
		}
	}
	for name, info := range c.routes {
		if err := c.put(bucketRoutes, []byte(name), info.encode()); err != nil {
			return err
		}
	}
	active, size := c.d.segments.activeNumber()
	for number, stats := range c.segments {
		if number == active {
			stats.size = size
			c.segments[number] = stats
		} else if stats.live <= 0 {
			delete(c.segments, number)
			c.removedSegments = append(c.removedSegments, number)
			if err := c.delete(bucketSegments, binary.BigEndian.AppendUint32(nil, number)); err != nil {
				return err
			}
			continue
		}
		if err := c.put(bucketSegments, binary.BigEndian.AppendUint32(nil, number), stats.encode()); err != nil {
			return err
		}
	}
	return nil
}

// publish brings memory up to what is now on disk, and removes the files that nothing points to any more.
func (c *change) publish() {
	d := c.d
	for _, p := range c.removedPrints {
		d.prints.table.remove(&p.fingerprint, p.sequence)
	}
	for _, p := range c.addedPrints {
		d.prints.table.add(&p.fingerprint, p.sequence)
	}
	d.prints.last = c.printSequence
	d.prints.size.Store(int64(d.prints.table.count))
	d.segments.publish(c.segments, c.removedSegments)
	for _, where := range c.removedFiles {
		d.files.remove(where)
	}

	used, _ := d.index.usage()
	c.publishCounts(used)
	d.noteFull()
}

func (c *change) publishCounts(used int64) {
	d := c.d
	d.mu.Lock()
	defer d.mu.Unlock()
	d.usedDB = used
	for name, info := range c.routes {
		d.routes[name].counts = info.counts
	}
	for _, f := range c.after {
		f()
	}
}

// key returns the key in the index of a fingerprint that the table knows by half of its sequence.
func (p *writerPrints) key(sequence uint32) []byte {
	return binary.BigEndian.AppendUint64(nil, p.last-uint64(uint32(p.last)-sequence))
}

// load reads the fingerprints from the index, of which the last one tells where the sequence is.
func (p *writerPrints) load(t *indexTx, last uint64) {
	if last == 0 {
		last = parseUint64(t.get(bucketState, statePrintSequence))
	}
	p.table, p.last = printTable{}, last
	t.scan(bucketPrints, nil, nil, func(key, value []byte) bool {
		if len(key) == 8 && len(value) == len(spool.Fingerprint{})+len(spool.ID{}) {
			fingerprint := spool.Fingerprint(value[:len(spool.Fingerprint{})])
			p.table.add(&fingerprint, parseUint32(key[4:]))
		}
		return true
	})
	p.size.Store(int64(p.table.count))
}

// Accept implements [spool.Store].
func (d *Store) Accept(ctx context.Context, message *spool.Message, fingerprint spool.Fingerprint, window time.Duration, body spool.BodyWriter) (spool.Receipt, error) {
	w, ok := body.(*bodyWriter)
	if !ok {
		return spool.Receipt{}, fmt.Errorf("a body of type %T is not of this store", body)
	}
	arriving := w.size
	if w.f != nil {
		arriving = 0 // counted as it came
	}
	if err := d.mayAccept(arriving); err != nil {
		w.Discard()
		return spool.Receipt{}, err
	}
	where, err := w.finish()
	if err != nil {
		w.Discard()
		return spool.Receipt{}, refuse(err)
	}

	msg := &entry{Message: *message}
	a := &acceptance{msg: msg, fingerprint: fingerprint, window: window, body: w, where: where, record: appendRecord(nil, msg)}
	op := &operation{accept: a, done: make(chan error, 1)}
	if !d.ops.push(op, true) {
		w.Discard()
		return spool.Receipt{}, spool.ErrClosed
	}
	select {
	case err := <-op.done:
		return a.receipt, err
	case <-ctx.Done():
		return spool.Receipt{}, ctx.Err()
	}
}

// perform has the writer do something and waits until it is on disk.
func (d *Store) perform(ctx context.Context, apply func(*change) error) error {
	op := &operation{done: make(chan error, 1), apply: apply}
	if !d.ops.push(op, true) {
		return spool.ErrClosed
	}
	select {
	case err := <-op.done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func parseUint32(b []byte) uint32 {
	if len(b) < 4 {
		return 0
	}
	return binary.BigEndian.Uint32(b)
}

func parseUint64(b []byte) uint64 {
	if len(b) < 8 {
		return 0
	}
	return binary.BigEndian.Uint64(b)
}

func (i *routeInfo) encode() []byte {
	b := binary.BigEndian.AppendUint32(nil, i.number)
	for _, n := range [...]int64{i.counts.pending, i.counts.pendingBytes, i.counts.dead, i.counts.deadBytes, i.counts.parked} {
		b = binary.BigEndian.AppendUint64(b, uint64(n))
	}
	return b
}

func parseRouteInfo(name string, b []byte) *routeInfo {
	i := &routeInfo{name: name, number: parseUint32(b)}
	for k, n := range [...]*int64{&i.counts.pending, &i.counts.pendingBytes, &i.counts.dead, &i.counts.deadBytes, &i.counts.parked} {
		if at := 4 + 8*k; at+8 <= len(b) {
			*n = int64(parseUint64(b[at:]))
		}
	}
	return i
}

func (s segmentStats) encode() []byte {
	b := binary.BigEndian.AppendUint64(nil, uint64(s.size))
	b = binary.BigEndian.AppendUint64(b, uint64(s.live))
	return binary.BigEndian.AppendUint64(b, uint64(s.liveBytes))
}

// with returns the statistics with what was counted. Where there are records that cannot be read, their
// bodies may be more than that.
func (s segmentStats) with(counted segmentStats, atLeast bool) segmentStats {
	if atLeast && s.live > counted.live && s.liveBytes > counted.liveBytes && s.liveBytes <= s.size {
		return s
	}
	s.live, s.liveBytes = counted.live, counted.liveBytes
	return s
}

func parseSegmentStats(b []byte) segmentStats {
	if len(b) < 24 {
		return segmentStats{}
	}
	return segmentStats{size: int64(parseUint64(b)), live: int64(parseUint64(b[8:])), liveBytes: int64(parseUint64(b[16:]))}
}

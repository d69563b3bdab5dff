// Disk is the engine for one process on one file system. This file opens and closes
// it and answers questions; writer.go is where it writes.

package disk

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
)

const (
	lockName    = "inbox.lock"
	ballastName = "ballast"

	// ballastSize is given up when the disk is full, so that deliveries can still be
	// recorded, which is what makes room.
	ballastSize = 2 << 20

	defaultSegmentSize     = 32 << 20
	defaultMaxFingerprints = 4 << 20
	defaultCommitDelay     = time.Millisecond
	defaultPause           = 500 * time.Millisecond
	defaultDedupeWindow    = 24 * time.Hour

	// maxUnrecorded bounds how many settled messages may wait to be on disk: after a crash they are delivered again.
	maxUnrecorded = 4096
)

// DiskOptions configures [OpenDisk].
type Options struct {
	// MaxSize is how many bytes the store may take up on disk. 0: no limit.
	MaxSize int64

	// MaxFingerprints bounds how many fingerprints are kept, whatever the window: each takes about
	// 16 bytes of memory and 100 bytes on disk. Default 4,194,304.
	MaxFingerprints int

	// CommitDelay is how long a group commit waits for company at most, when there are many senders at a
	// time: it ends when most of those have come that were there before. A single sender never
	// waits. Default 1ms; negative: none.
	CommitDelay time.Duration

	// Events are told what happens in the store.
	Events spool.StoreEvents

	segmentSize int64
	pause       time.Duration // the first one before something that failed is tried again
	limits      queueLimits
	fsys        fileSystem
}

// Disk is the [Store] on one file system, for one process. Its design is in the package documentation.
type Store struct {
	options Options
	fsys    fileSystem
	path    string
	lock    *os.File

	segments *segments
	files    *bodyFiles

	// indexMu is held for reading while the index is used, for writing while it
	// is replaced. It is taken after mu where both are.
	indexMu sync.RWMutex
	index   *index // nil while it cannot be opened

	mu       sync.Mutex
	routes   map[string]*routeInfo
	numbers  map[uint32]*routeInfo
	queues   map[string]*queue
	leases   map[spool.ID]*lease
	unstored int // leases that are settled but not on disk
	watch    func(route string)
	refusing *spool.RefusedError
	since    time.Time // refusing
	window   time.Duration
	usedDB   int64
	maxSize  int64
	putAside bool // there are records that an earlier version put aside

	prints writerPrints

	ops *writerQueue

	writer writerState
	done   chan struct{} // closed when the writer has ended
}

// routeInfo is what the index knows of a route.
type routeInfo struct {
	name   string
	number uint32
	counts routeTotals
}

// routeTotals are kept up to date with every transaction.
type routeTotals struct {
	pending, pendingBytes, dead, deadBytes, parked int64
}

// OpenDisk opens the store in a directory, and creates it if there is nothing. The
// errors that an operator meets are ErrLocked and ErrForeign, with the path in
// the text.
func Open(path string, options Options) (*Store, error) {
	if options.fsys == nil {
		options.fsys = &osFileSystem{}
	}
	if options.segmentSize == 0 {
		options.segmentSize = defaultSegmentSize
	}
	if options.CommitDelay == 0 {
		options.CommitDelay = defaultCommitDelay
	}
	if options.pause == 0 {
		options.pause = defaultPause
	}
	if options.limits == (queueLimits{}) {
		options.limits = defaultQueueLimits
	}
	if options.MaxFingerprints == 0 {
		options.MaxFingerprints = defaultMaxFingerprints
	}
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}

	d := &Store{
		options:  options,
		fsys:     options.fsys,
		path:     path,
		segments: newSegments(options.fsys, path, options.segmentSize),
		files:    newBodyFiles(options.fsys, path),
		leases:   make(map[spool.ID]*lease),
		queues:   make(map[string]*queue),
		window:   defaultDedupeWindow,
		maxSize:  options.MaxSize,
		ops:      newWriterQueue(),
		done:     make(chan struct{}),
	}
	if err := d.open(); err != nil {
		return nil, fmt.Errorf("inbox %s: %w", path, err)
	}
	if d.putAside {
		d.adoptDamaged()
	}
	go d.run()
	return d, nil
}

func (d *Store) open() (err error) {
	if err := makeDir(d.path); err != nil {
		return err
	}
	if err := d.fsys.Enter(d.path); err != nil {
		return err
	}
	defer func() {
		if err == nil {
			return
		}
		if d.index != nil {
			err = errors.Join(err, d.index.close(false))
		}
		if d.lock != nil {
			_ = d.lock.Close()
		}
		err = errors.Join(err, d.fsys.Leave())
	}()
	if err := d.closeToOthers(); err != nil {
		return err
	}
	d.lock, err = d.fsys.OpenIndex(filepath.Join(d.path, lockName), os.O_RDWR|os.O_CREATE, filePerm)
	if err != nil {
		return err
	}
	if err := lockFile(d.lock); err != nil {
		return err
	}

	if err := d.checkBodiesHaveIndex(); err != nil {
		return err
	}
	for _, dir := range []string{segmentDir, bodyDir} {
		if err := d.fsys.Mkdir(filepath.Join(d.path, dir)); err != nil {
			return err
		}
	}
	var found *tally
	if d.index, found, err = openOrCreateIndex(d.fsys, d.path); err != nil {
		return err
	}
	if used, size := d.index.usage(); worthCompacting(used, size) {
		if found, err = d.replaceIndex(); err != nil {
			return err
		}
	}
	if err := d.load(found); err != nil {
		return err
	}
	if err := d.segments.sweep(); err != nil {
		return err
	}
	err = d.index.view(func(t *indexTx) error {
		return d.files.sweep(func(name [16]byte) bool { return t.get(bucketFiles, name[:]) != nil })
	})
	if err != nil {
		return err
	}
	return d.restoreBallast()
}

// closeToOthers has a directory closed to others. One that has
// something else in it is left as it is: our files are closed by themselves.
func (d *Store) closeToOthers() error {
	entries, err := d.fsys.ReadDir(d.path)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		switch entry.Name() {
		case lockName, indexName, indexDraftName, segmentDir, bodyDir, ballastName, probeName:
		default:
			return nil
		}
	}
	info, err := d.fsys.Stat(d.path)
	if err != nil || !mayClose(info) {
		return err
	}
	return os.Chmod(d.path, dirPerm)
}

// checkBodiesHaveIndex refuses to start afresh where bodies lie around whose index
// is missing: the sweep would delete them.
func (d *Store) checkBodiesHaveIndex() error {
	if _, err := d.fsys.Stat(filepath.Join(d.path, indexName)); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, dir := range []string{segmentDir, bodyDir} {
		entries, err := d.fsys.ReadDir(filepath.Join(d.path, dir))
		if err == nil && len(entries) > 0 {
			return fmt.Errorf("%w: %s is missing beside stored bodies; restore it from a backup or move the directory away",
				spool.ErrForeign, indexName)
		}
	}
	return nil
}

// load reads what is kept in memory: the routes, the segments, the fingerprints. What can be counted is
// taken as it was counted.
func (d *Store) load(found *tally) error {
	d.routes, d.numbers = make(map[string]*routeInfo), make(map[uint32]*routeInfo)
	segments := make(map[uint32]segmentStats)

	err := d.index.view(func(t *indexTx) error {
		t.scan(bucketRoutes, nil, nil, func(key, value []byte) bool {
			info := parseRouteInfo(string(key), value)
			info.counts = found.routes[info.number]
			d.routes[info.name], d.numbers[info.number] = info, info
			return true
		})
		t.scan(bucketSegments, nil, nil, func(key, value []byte) bool {
			number := parseUint32(key)
			segments[number] = parseSegmentStats(value).with(found.segments[number], found.unreadable > 0)
			return true
		})
		if last := t.get(bucketState, stateLastID); len(last) == len(spool.ID{}) {
			d.writer.ids.Resume(spool.ID(last))
		}
		d.prints.load(t, found.prints)
		t.scan(bucketDamaged, nil, nil, func(_, _ []byte) bool {
			d.putAside = true
			return false
		})
		return nil
	})
	if err != nil {
		return err
	}
	d.segments.mu.Lock()
	d.segments.stats = segments
	d.segments.mu.Unlock()
	d.usedDB, _ = d.index.usage()
	return nil
}

// SetLimits implements [spool.Store].
func (d *Store) SetLimits(limits spool.Limits) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.maxSize, d.window = limits.MaxBytes, limits.Fingerprints
}

// Watch implements [spool.Store].
func (d *Store) Watch(f func(route string)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.watch = f
}

// notify tells the watcher about a route. d.mu is held.
func (d *Store) notify(route string) {
	if d.watch != nil {
		d.watch(route)
	}
}

// view reads the index.
func (d *Store) view(fn func(*indexTx) error) error {
	d.indexMu.RLock()
	defer d.indexMu.RUnlock()
	if d.index == nil {
		return d.unavailable()
	}
	err := d.index.view(fn)
	if d.index.broken.Load() != nil {
		d.ops.signal() // for the writer to see to it
	}
	return err
}

// unavailable says why there is no index.
func (d *Store) unavailable() error {
	select {
	case <-d.done:
		return spool.ErrClosed
	default:
		return &spool.RefusedError{Reason: spool.ReasonWrite, RetryAfter: refusedRetryAfter, Err: errNoIndex}
	}
}

var errNoIndex = errors.New("the index cannot be opened at present")

// queue returns the queue of a route, or nil if no message of it was ever accepted. d.mu is held.
func (d *Store) queue(route string) *queue {
	q := d.queues[route]
	if q == nil {
		info := d.routes[route]
		if info == nil {
			return nil
		}
		q = newQueue(route, info.number, d.options.limits)
		d.queues[route] = q
	}
	return q
}

// Lease implements [spool.Store].
func (d *Store) Lease(_ context.Context, request spool.LeaseRequest) ([]*spool.Lease, time.Time, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	q := d.queue(request.Route)
	if q == nil || request.Max <= 0 || d.unstored >= maxUnrecorded {
		return nil, time.Time{}, nil
	}
	if d.ops.isClosed() {
		return nil, time.Time{}, spool.ErrClosed
	}

	batch := leasing{d: d, q: q, request: request, parked: d.routes[request.Route].counts.parked > 0}
	if !batch.parked && !request.Tried && !request.Newest && len(q.ready) >= request.Max {
		batch.takeReady(nil) // nothing to look up
	}
	if len(batch.leased) < request.Max && batch.mayFind() {
		if err := d.view(batch.fill); err != nil {
			for _, m := range batch.leased {
				d.giveBack(d.leases[m.ID])
			}
			return nil, time.Time{}, err
		}
	}
	leased := make([]*spool.Lease, len(batch.leased))
	for i, m := range batch.leased {
		leased[i] = &spool.Lease{Message: m.shown()}
	}
	return leased, batch.next, nil
}

// leasing is one call of Lease. d.mu is held throughout.
type leasing struct {
	d       *Store
	q       *queue
	request spool.LeaseRequest
	parked  bool // there are parked messages
	leased  []*entry
	next    time.Time
}

// maxPassedOver is how many parked messages are passed over in one call because of where they go.
const maxPassedOver = 4096

// mayFind reports whether it is worth to look at the index.
func (l *leasing) mayFind() bool {
	return l.parked || !l.request.Tried && (!l.q.atEnd || len(l.q.ready) > 0)
}

func (l *leasing) missing() int { return l.request.Max - len(l.leased) }

// fill looks for messages in the index.
func (l *leasing) fill(t *indexTx) error {
	l.takeResumed(t)
	if l.request.Tried {
		l.takeDue(t)
		return nil
	}
	l.takeFresh(t)
	l.takeParked(t)
	return nil
}

// wanted reports whether a parked message is one of those that are asked for.
func (l *leasing) wanted(m *entry) bool {
	return m.NextAttemptAt.IsZero() != l.request.Tried && !m.NextAttemptAt.After(l.request.Now) &&
		!l.request.Avoid.Has(m.Destination)
}

// takeResumed leases the next parked message of keys of which the one before is done, which
// the index does not know yet.
func (l *leasing) takeResumed(t *indexTx) {
	kept := l.q.resumed[:0]
	for _, order := range l.q.resumed {
		k := l.q.keys[order]
		switch {
		case k == nil || k.leased || k.unrecorded == 0: // the index knows by now
		case l.missing() == 0 || !l.takeFirst(t, order):
			kept = append(kept, order)
		}
	}
	l.q.resumed = kept
}

// takeFirst leases the first parked message of an order key that is not leased, if it is wanted.
func (l *leasing) takeFirst(t *indexTx, order uint64) (taken bool) {
	t.scan(bucketOrder, orderPrefix(l.q.number, order), nil, func(key, _ []byte) bool {
		id := keyID(key)
		if l.d.leases[id] != nil {
			return true
		}
		if m, err := parseRecord(t.get(bucketParked, idKey(l.q.number, id))); err == nil && l.wanted(m) {
			m.ID = id
			l.lease(m, true)
			taken = true
		}
		return false
	})
	return taken
}

// takeDue leases parked messages whose time has come.
func (l *leasing) takeDue(t *indexTx) {
	if !l.parked {
		return
	}
	passed := 0
	untried := binary.BigEndian.AppendUint64(nil, 0)
	after := append(untried, bytes.Repeat([]byte{0xff}, len(spool.ID{}))...)
	t.scan(bucketDue, routeKey(l.q.number), after, func(key, value []byte) bool {
		due := fromUnixNano(keyTime(key))
		switch {
		case l.isTaken(key, value):
			return true
		case due.After(l.request.Now):
			l.next = due
			return false
		case l.missing() == 0:
			return false
		}
		return l.takeEntry(t, key, &passed)
	})
}

// takeParked leases parked messages that were not tried.
func (l *leasing) takeParked(t *indexTx) {
	if !l.parked || l.missing() == 0 {
		return
	}
	scan := func(fn func(key, value []byte) bool) {
		prefix := binary.BigEndian.AppendUint64(routeKey(l.q.number), 0)
		if l.request.Newest {
			t.scanBack(bucketDue, prefix, fn)
		} else {
			t.scan(bucketDue, prefix, nil, fn)
		}
	}
	passed := 0
	scan(func(key, value []byte) bool {
		if l.isTaken(key, value) {
			return true
		}
		return l.takeEntry(t, key, &passed) && l.missing() > 0
	})
}

// isTaken reports whether an entry of bucketDue is leased, or another one of its order key.
func (l *leasing) isTaken(key, value []byte) bool {
	if l.d.leases[keyID(key)] != nil {
		return true
	}
	k := l.q.keys[parseUint64(value)]
	return k != nil && k.busy
}

// takeEntry leases the message of an entry of bucketDue, unless its destination is to be avoided.
// It reports whether to go on.
func (l *leasing) takeEntry(t *indexTx, key []byte, passed *int) bool {
	id := keyID(key)
	record := t.get(bucketParked, idKey(l.q.number, id))
	if l.request.Avoid.Has(recordDestination(record)) {
		*passed++
		return *passed < maxPassedOver
	}
	m, err := parseRecord(record)
	if err != nil {
		l.d.quarantine(l.q, id)
		return true
	}
	m.ID = id
	l.lease(m, true)
	return true
}

// takeFresh leases messages that were never tried.
func (l *leasing) takeFresh(t *indexTx) {
	for chunks := 0; ; chunks++ {
		complete := l.q.atEnd || !l.q.hasRoom()
		if !l.request.Newest || complete {
			l.takeReady(t)
		}
		switch {
		case l.missing() == 0 || l.q.atEnd:
			return
		case complete:
			for _, order := range l.q.clear(l.request.Now) {
				l.d.park(l.q, order, nil)
			}
			return
		case chunks == 4: // enough for one call: have another one made
			l.takeReady(t)
			l.d.notify(l.q.route)
			return
		}
		l.load(t)
	}
}

// takeReady leases messages that are in line. Without a transaction it takes only those
// that are in memory as a whole.
func (l *leasing) takeReady(t *indexTx) {
	ready := l.q.ready
	if l.request.Newest {
		slices.Reverse(ready)
		defer func() { slices.Reverse(l.q.ready) }()
	}
	var passed []waiting
	taken := 0
	for _, w := range ready {
		if l.missing() == 0 || w.msg == nil && t == nil {
			break
		}
		taken++
		if l.request.Avoid.Has(w.dest) {
			passed = append(passed, w)
			continue
		}
		m := w.msg
		if m == nil {
			record := t.get(bucketFresh, idKey(l.q.number, w.id))
			var err error
			if m, err = parseRecord(record); err != nil {
				if record != nil {
					l.d.quarantine(l.q, w.id)
				}
				defer l.q.advance(w.key)
				continue
			}
			m.ID = w.id
		}
		l.lease(m, false)
	}
	// What was passed over stays in front of the rest.
	gone := taken - len(passed)
	copy(ready[gone:], passed)
	clear(ready[:gone])
	l.q.ready = ready[gone:]
}

func (l *leasing) lease(m *entry, parked bool) {
	m.State, m.Route = spool.Pending, l.q.route
	l.d.leases[m.ID] = &lease{msg: m, queue: l.q, parked: parked}
	l.q.inFlight++
	k := l.q.key(m.OrderKey)
	k.busy, k.leased = true, true
	k.parked = k.parked || parked
	l.leased = append(l.leased, m)
}

// load reads the next fresh messages and finds each its place.
func (l *leasing) load(t *indexTx) {
	q := l.q
	overflow := make(map[uint64][]waiting)
	read := 0
	t.scan(bucketFresh, routeKey(q.number), q.cursor[:], func(key, record []byte) bool {
		read++
		w := waiting{id: keyID(key), key: recordOrderKey(record), dest: recordDestination(record)}
		q.cursor = w.id
		if l.d.leases[w.id] != nil {
			return read < q.limits.chunk
		}
		k := q.keys[w.key]
		if !k.occupied() && l.parked {
			if _, parked := t.firstParked(q.number, w.key); parked {
				k = q.key(w.key)
				k.parked = true
			}
		}
		switch {
		case !k.occupied():
			q.makeReady(w)
		case q.mayHold() && overflow[w.key] == nil:
			q.hold(w)
		default:
			overflow[w.key] = append(overflow[w.key], w)
		}
		return read < q.limits.chunk && q.hasRoom()
	})
	q.atEnd = read < q.limits.chunk && q.hasRoom()
	for order, more := range overflow {
		l.d.park(q, order, more)
	}
}

// giveBack ends a lease without a trace. d.mu is held.
func (d *Store) giveBack(l *lease) {
	delete(d.leases, l.msg.ID)
	l.queue.inFlight--
	q, order := l.queue, l.msg.OrderKey
	k := q.key(order)
	k.leased = false
	switch {
	case l.parked && k.unrecorded > 0:
		q.resumed = append(q.resumed, order)
	case l.parked:
		q.advance(order)
	case l.msg.ID.Compare(q.cursor) > 0: // it will be read again
		delete(q.keys, order)
	default:
		q.ready = slices.Insert(q.ready, 0, waiting{id: l.msg.ID, key: order, dest: l.msg.Destination})
	}
	d.notify(l.queue.route)
}

// Settle implements [spool.Store].
func (d *Store) Settle(leased *spool.Lease, s spool.Settlement) {
	d.settle(leased.Message.ID, s)
}

func (d *Store) settle(id spool.ID, s spool.Settlement) {
	d.mu.Lock()
	defer d.mu.Unlock()
	l := d.leases[id]
	if l == nil || l.settled {
		return
	}
	if l.dropped {
		s.Verdict = spool.Done
	}
	if s.Verdict == spool.Return {
		d.giveBack(l)
		return
	}
	l.settled, l.advanced = true, !l.parked && s.Verdict != spool.Retry
	l.queue.inFlight--
	d.unstored++
	q, order := l.queue, l.msg.OrderKey
	k := q.key(order)
	k.leased = false
	switch {
	case l.advanced:
		if q.advance(order) {
			d.notify(q.route)
		}
	case s.Verdict == spool.Retry:
		k.unrecorded++
	default:
		k.unrecorded++
		q.resumed = append(q.resumed, order)
		d.notify(q.route)
	}
	d.ops.push(d.settleOperation(l, s), false)
}

// Body implements [spool.Store].
func (d *Store) Body(_ context.Context, id spool.ID) (spool.Body, error) {
	where, err := d.locate(id)
	if err != nil {
		return nil, err
	}
	body, err := d.body(where)
	if err == nil || !errors.Is(err, fs.ErrNotExist) {
		return body, err
	}
	current, err := d.entry(id) // it was moved, or is gone
	if err != nil {
		return nil, err
	}
	if current.where == where {
		return nil, fmt.Errorf("message %s: %w: its body is missing", id, spool.ErrDamaged)
	}
	return d.body(current.where)
}

// locate says where the body of a message is, or was when the message was leased.
func (d *Store) locate(id spool.ID) (location, error) {
	d.mu.Lock()
	l := d.leases[id]
	d.mu.Unlock()
	if l != nil {
		return l.msg.where, nil
	}
	m, err := d.entry(id)
	if err != nil {
		return location{}, err
	}
	return m.where, nil
}

func (d *Store) body(where location) (spool.Body, error) {
	switch {
	case where.segment == 0:
		return d.files.open(where)
	case where.size > maxSegmentBody:
		return nil, spool.ErrDamaged
	}
	return d.segments.read(where)
}

// Get implements [spool.Store].
func (d *Store) Get(_ context.Context, id spool.ID) (*spool.Message, error) {
	m, err := d.entry(id)
	if err != nil {
		return nil, err
	}
	return m.shown(), nil
}

// entry finds a message in the index.
func (d *Store) entry(id spool.ID) (*entry, error) {
	var found *entry
	err := d.view(func(t *indexTx) error {
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
	bucket []byte
	info   *routeInfo
	id     spool.ID
	record []byte
}

func (p place) message() (*entry, error) {
	m, err := parseRecord(p.record)
	if err != nil {
		return nil, fmt.Errorf("message %s: %w: %w", p.id, spool.ErrDamaged, err)
	}
	m.ID, m.Route, m.State = p.id, p.info.name, spool.Pending
	if &p.bucket[0] == &bucketDead[0] {
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
		ID: p.id, Route: p.info.name, State: spool.Pending, ReceivedAt: p.id.Time(),
		LastError: spool.ClipError(err.Error()),
	}
	if &p.bucket[0] == &bucketDead[0] {
		damaged.State = spool.Dead
	}
	return damaged
}

// find looks for a message, in every route because its id does not tell.
func (d *Store) find(t *indexTx, id spool.ID) (place, bool) {
	for _, info := range d.routeInfos() {
		for _, bucket := range [...][]byte{bucketFresh, bucketParked, bucketDead} {
			if record := t.get(bucket, idKey(info.number, id)); record != nil {
				return place{bucket: bucket, info: info, id: id, record: record}, true
			}
		}
	}
	return place{}, false
}

// routeInfos returns the routes. Their names and numbers never change.
func (d *Store) routeInfos() []*routeInfo {
	d.mu.Lock()
	defer d.mu.Unlock()
	infos := make([]*routeInfo, 0, len(d.routes))
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
	var buckets [][]byte
	if filter.State != spool.Dead {
		buckets = append(buckets, bucketFresh, bucketParked)
	}
	if filter.State != spool.Pending {
		buckets = append(buckets, bucketDead)
	}

	messages := []*spool.Message{}
	infos := d.routeInfos()
	err := d.view(func(t *indexTx) error {
		var places []place // the first ones of every list; more than the limit cannot be needed
		for _, info := range infos {
			if filter.Route != "" && filter.Route != info.name {
				continue
			}
			for _, bucket := range buckets {
				n := 0
				t.scan(bucket, routeKey(info.number), filter.After[:], func(key, record []byte) bool {
					if filter.User != "" && recordUser(record) != filter.User {
						return true
					}
					places = append(places, place{bucket: bucket, info: info, id: keyID(key), record: record})
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

// Counts implements [spool.Store].
func (d *Store) Counts(context.Context) (spool.Counts, error) {
	used := d.used()
	d.mu.Lock()
	counts := spool.Counts{
		Routes:       make(map[string]spool.RouteCounts, len(d.routes)),
		DiskBytes:    used,
		MaxBytes:     d.maxSize,
		Fingerprints: int(d.prints.size.Load()),
	}
	if d.refusing != nil {
		counts.Refusing, counts.RefusingSince = d.refusing.Reason, d.since
	}
	numbers := make(map[string]uint32, len(d.routes))
	for name, info := range d.routes {
		numbers[name] = info.number
		c := spool.RouteCounts{
			Pending: info.counts.pending, PendingBytes: info.counts.pendingBytes,
			Dead: info.counts.dead, DeadBytes: info.counts.deadBytes,
		}
		if q := d.queues[name]; q != nil {
			c.InFlight = q.inFlight
		}
		counts.Routes[name] = c
	}
	d.mu.Unlock()

	_ = d.view(func(t *indexTx) error { // without an index, the age is unknown
		for name, number := range numbers {
			c := counts.Routes[name]
			for _, bucket := range [...][]byte{bucketFresh, bucketParked} {
				if id, ok := t.first(bucket, number); ok {
					received := recordReceivedAt(t.get(bucket, idKey(number, id)))
					c.OldestPending = earlier(c.OldestPending, fromUnixNano(received))
				}
			}
			counts.Routes[name] = c
		}
		return nil
	})
	return counts, nil
}

// used returns how many bytes the store takes up on disk, or is about to.
func (d *Store) used() int64 {
	bodies := d.segments.bytes() + d.files.kept.Load() + d.files.arriving.Load()
	d.mu.Lock()
	defer d.mu.Unlock()
	return bodies + d.usedDB
}

// admit reports whether there may be so many bytes more.
func (d *Store) admit(more int64) error {
	used := d.used()
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.maxSize > 0 && more > d.maxSize-used {
		return &spool.RefusedError{Reason: spool.ReasonFull, RetryAfter: refusedRetryAfter}
	}
	return nil
}

// NewBody implements [spool.Store].
func (d *Store) NewBody(_ context.Context, sizeHint int64) (spool.BodyWriter, error) {
	if err := d.mayAccept(max(sizeHint, 0)); err != nil {
		return nil, err
	}
	return newBodyWriter(d.files, sizeHint, d.admit), nil
}

// mayAccept reports why a message would be refused at the moment.
func (d *Store) mayAccept(size int64) error {
	d.mu.Lock()
	refusing := d.refusing
	d.mu.Unlock()
	switch {
	case d.ops.isClosed():
		return spool.ErrClosed
	case refusing != nil && refusing.Reason != spool.ReasonFull:
		return refusing
	}
	d.noteFull()
	return d.admit(size)
}

// Flush implements [spool.Store].
func (d *Store) Flush(ctx context.Context) error {
	return d.perform(ctx, func(*change) error { return nil })
}

// droppedLeases returns what is to be forgotten although its delivery has not ended.
func (d *Store) droppedLeases() []spool.ID {
	d.mu.Lock()
	defer d.mu.Unlock()
	var ids []spool.ID
	for id, l := range d.leases {
		if l.dropped && !l.settled {
			ids = append(ids, id)
		}
	}
	return ids
}

// Close implements [spool.Store].
func (d *Store) Close(context.Context) error {
	for _, id := range d.droppedLeases() {
		d.settle(id, spool.Settlement{Verdict: spool.Done})
	}
	if !d.ops.close() {
		<-d.done
		return nil
	}
	<-d.done

	d.indexMu.Lock()
	defer d.indexMu.Unlock()
	var err error
	if d.index != nil {
		err = d.index.close(true)
		d.index = nil
	}
	d.segments.close()
	return errors.Join(err, d.lock.Close(), d.fsys.Leave())
}

var _ spool.Store = (*Store)(nil)

// The store: what it is made of, and the methods that are not a thought of their own.

package disk

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/caddy-deepgram/deepgram-callback/internal/inturn"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/disk/bodies"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/disk/index"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/disk/queue"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/disk/requests"
)

const (
	defaultSegmentSize     = 32 << 20
	segmentShare           = 16 // of max_size, a segment takes up no more than that
	minSegmentSize         = 1 << 20
	defaultMaxFingerprints = 4 << 20
	defaultCommitDelay     = time.Millisecond
	defaultPause           = 500 * time.Millisecond
	defaultDedupeWindow    = 24 * time.Hour
)

// Options configure [Open].
type Options struct {
	// MaxSize is how many bytes the store may take up on disk. 0: no limit.
	MaxSize int64

	// MaxFingerprints bounds how many fingerprints are kept, whatever the window: each takes about
	// 16 bytes of memory and 100 bytes on disk. Default 4,194,304.
	MaxFingerprints int

	// CommitDelay is how long a group commit waits for company at most, when there are many
	// senders at a time: it ends when most of those have come that were there before. A single
	// sender never waits. Default 1ms; negative: none.
	CommitDelay time.Duration

	// Events are told what happens in the store.
	Events spool.StoreEvents

	segmentSize int64
	pause       time.Duration // the first one before something that failed is tried again
	limits      queue.Limits
	fsys        bodies.FileSystem
}

// Store is the [spool.Store] on one file system, for one process. Its design is in the package
// documentation.
type Store struct {
	options Options
	fsys    bodies.FileSystem
	path    string
	lock    *os.File

	segments *bodies.Segments
	files    *bodies.Large

	// indexMu is held for reading while the index is used, for writing while it
	// is replaced. It is taken after mu where both are.
	indexMu sync.RWMutex
	index   *index.Index // nil while it cannot be opened

	mu       sync.Mutex
	routes   map[string]*index.RouteInfo
	numbers  map[uint32]*index.RouteInfo
	queues   map[string]*queue.Queue
	leases   map[spool.ID]*queue.Lease
	unstored int // leases that are settled but not on disk
	watch    func(route string)
	refusing *spool.RefusedError
	since    time.Time // refusing
	window   time.Duration
	usedDB   int64
	maxSize  int64
	paused   map[string]bool
	lost     map[string]spool.OpenStream // live when the process before this one ended
	putAside bool                        // there are records that an earlier version put aside

	told inturn.Teller[*spool.RefusedError] // before mu

	hasImported bool // when it was opened, it had messages from another store

	requests requests.Table

	ops *operations

	writer *writer
	done   chan struct{} // closed when the writer has ended
}

// Open opens the store in a directory, and creates it if there is nothing. The
// errors that an operator meets are ErrLocked and ErrForeign, with the path in
// the text.
func Open(path string, options Options) (*Store, error) {
	if options.fsys == nil {
		options.fsys = &bodies.OS{}
	}
	if options.segmentSize == 0 {
		options.segmentSize = defaultSegmentSize
		if options.MaxSize > 0 { // room is given back by whole segments
			options.segmentSize = min(defaultSegmentSize, max(options.MaxSize/segmentShare, minSegmentSize))
		}
	}
	if options.CommitDelay == 0 {
		options.CommitDelay = defaultCommitDelay
	}
	if options.pause == 0 {
		options.pause = defaultPause
	}
	if options.limits == (queue.Limits{}) {
		options.limits = queue.DefaultLimits
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
		segments: bodies.NewSegments(options.fsys, path, options.segmentSize),
		files:    bodies.NewLarge(options.fsys, path),
		leases:   make(map[spool.ID]*queue.Lease),
		queues:   make(map[string]*queue.Queue),
		window:   defaultDedupeWindow,
		maxSize:  options.MaxSize,
		ops:      newOperations(),
		done:     make(chan struct{}),
	}
	d.writer = &writer{store: d, pinned: make(map[uint32]bool)}
	if err := d.open(); err != nil {
		return nil, fmt.Errorf("inbox %s: %w", path, err)
	}
	if d.putAside {
		d.adoptDamaged()
	}
	if d.hasImported {
		d.forgetImported()
	}
	go d.writer.run()
	return d, nil
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
func (d *Store) view(fn func(*index.Tx) error) error {
	d.indexMu.RLock()
	defer d.indexMu.RUnlock()
	if d.index == nil {
		return d.unavailable()
	}
	err := d.index.View(fn)
	if d.index.Damage() != nil {
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
		return &spool.RefusedError{
			Reason:     spool.ReasonWrite,
			RetryAfter: bodies.RetryAfter,
			Err:        errNoIndex,
		}
	}
}

var errNoIndex = errors.New("the index cannot be opened at present")

// queue returns the queue of a route, or nil if no message of it was ever accepted. d.mu is held.
func (d *Store) queue(route string) *queue.Queue {
	q := d.queues[route]
	if q == nil {
		info := d.routes[route]
		if info == nil {
			return nil
		}
		q = queue.New(route, info.Number, d.options.limits)
		d.queues[route] = q
	}
	return q
}

// enter begins a method that can fail.
func (d *Store) enter(ctx context.Context) error {
	if d.ops.isClosed() {
		return spool.ErrClosed
	}
	return ctx.Err()
}

// Flush implements [spool.Store].
func (d *Store) Flush(ctx context.Context) error {
	return d.perform(ctx, func(*change) error { return nil })
}

// Close implements [spool.Store].
func (d *Store) Close(context.Context) error {
	for _, l := range d.droppedLeases() {
		d.settle(l, spool.Settlement{Verdict: spool.Done})
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
		err = d.index.Close(true)
		d.index = nil
	}
	d.segments.Close()
	return errors.Join(err, d.lock.Close(), d.fsys.Leave())
}

var _ spool.Store = (*Store)(nil)

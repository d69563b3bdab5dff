// The index: where bbolt keeps everything about messages but their bodies.
// No other file knows bbolt.

package disk

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
)

const (
	indexName      = "inbox.db"
	indexDraftName = "inbox.db.new" // becomes indexName when it is complete

	// indexFormat marks an index as ours. Another version gets another number.
	indexFormat = "deepgram-callback inbox 1"

	// indexLockTimeout: bbolt's own lock is a second line behind the lock file, so there is nothing to wait for.
	indexLockTimeout = 100 * time.Millisecond

	routeKeySize = 4
	idKeySize    = routeKeySize + 16
	timeKeySize  = routeKeySize + 8 + 16
	printSize    = len(spool.Fingerprint{}) + len(spool.ID{})
)

// The buckets, and what is in them. Numbers are big endian, so that the order
// of keys is the order of numbers.
var (
	bucketState    = []byte("state")    // "format", "last_id", "print_sequence"
	bucketRoutes   = []byte("routes")   // name → number and counts
	bucketFresh    = []byte("fresh")    // route, id → record: never tried, in order of acceptance
	bucketParked   = []byte("parked")   // route, id → record: waits for another attempt, or behind one that does
	bucketOrder    = []byte("order")    // route, order key, id → nothing: the parked by their order key
	bucketDue      = []byte("due")      // route, time, id → order key: for each order key its first parked message
	bucketDead     = []byte("dead")     // route, id → record
	bucketDied     = []byte("died")     // route, time, id → nothing
	bucketDamaged  = []byte("damaged")  // route, id → record that could not be read, kept for an investigation
	bucketPrints   = []byte("prints")   // sequence → fingerprint, id
	bucketSegments = []byte("segments") // number → size and counts
	bucketFiles    = []byte("files")    // name of a body file → id

	allBuckets = [...][]byte{
		bucketState, bucketRoutes, bucketFresh, bucketParked, bucketOrder, bucketDue, bucketDead, bucketDied,
		bucketDamaged, bucketPrints, bucketSegments, bucketFiles,
	}

	stateFormat        = []byte("format")
	stateLastID        = []byte("last_id")
	statePrintSequence = []byte("print_sequence")
)

// index is an open index file. Whatever goes wrong in bbolt ends with an error here, and
// never the process: see [index.guard] and [commitLogger].
type index struct {
	fsys     fileSystem
	path     string
	db       *bolt.DB
	pageSize int
	commits  *commitLogger

	// roots is the file once more, to look at its root pages before bbolt relies on them.
	roots   *os.File
	rootsMu sync.Mutex // held while the roots are read
	root    [2][pageHeader + rootSize]byte

	// committing is held while a transaction is committed, which writes a root.
	committing sync.Mutex

	// broken is set once something in bbolt has panicked, or a root is bad: nothing is read or written any more.
	broken atomic.Pointer[error]

	// stuck is set when bbolt may have kept a lock, so that it cannot even be closed.
	stuck atomic.Bool
}

// openOrCreateIndex opens the index in dir, or creates it if there is nothing at all.
func openOrCreateIndex(fsys fileSystem, dir string) (*index, *tally, error) {
	if _, err := fsys.Stat(filepath.Join(dir, indexName)); errors.Is(err, fs.ErrNotExist) {
		if err := createIndex(fsys, dir); err != nil {
			return nil, nil, err
		}
	} else if err != nil {
		return nil, nil, err
	}
	return openIndex(fsys, dir)
}

// openIndex opens the index in dir. All of it is looked at before, and counted.
func openIndex(fsys fileSystem, dir string) (*index, *tally, error) {
	path := filepath.Join(dir, indexName)
	f, err := fsys.OpenIndex(path, os.O_RDONLY, 0)
	if err != nil {
		return nil, nil, err
	}
	info, err := f.Stat()
	if err != nil {
		return nil, nil, errors.Join(err, f.Close())
	}
	found, err := checkIndex(f, info.Size(), path)
	if err != nil {
		return nil, nil, errors.Join(err, f.Close())
	}
	x := &index{fsys: fsys, path: path, roots: f, commits: new(commitLogger)}
	if x.db, err = openBolt(fsys, path, x.commits); err != nil {
		return nil, nil, errors.Join(err, f.Close())
	}
	x.pageSize = x.db.Info().PageSize
	return x, found, nil
}

// openBolt opens a file with bbolt, which has to be sound: bbolt looks for the free pages
// in a goroutine of its own, which nobody can keep from ending the process.
func openBolt(fsys fileSystem, path string, commits *commitLogger) (db *bolt.DB, err error) {
	var f *os.File
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			_ = f.Close() // with it goes bbolt's lock
			db, err = nil, damagedIndex(path, p)
		}
	}()
	db, err = bolt.Open(path, filePerm, &bolt.Options{
		Timeout:        indexLockTimeout,
		NoFreelistSync: true,
		FreelistType:   bolt.FreelistMapType,
		Logger:         commits,
		OpenFile: func(name string, flag int, perm fs.FileMode) (_ *os.File, err error) {
			f, err = fsys.OpenIndex(name, flag, perm)
			return f, err
		},
	})
	switch {
	case err == nil:
		return db, nil
	case errors.Is(err, bolterrors.ErrTimeout):
		return nil, fmt.Errorf("%s: %w", path, spool.ErrLocked)
	case errors.Is(err, bolterrors.ErrInvalid), errors.Is(err, bolterrors.ErrVersionMismatch), errors.Is(err, bolterrors.ErrChecksum):
		return nil, damagedIndex(path, err)
	}
	return nil, pathError("open", path, err)
}

// commitLogger is what bbolt logs to. A commit that fails is logged before anything else is done about
// it, and what bbolt would do is to look for the free pages, in a goroutine of its own in
// which a bad page is the end of the process. So the log breaks the commit off; the
// index is opened anew after a failure anyway.
type commitLogger struct {
	silent
	armed atomic.Bool
}

// brokenOff is what the log panics with.
type brokenOff struct{ cause error }

// Errorf implements bolt.Logger.
func (l *commitLogger) Errorf(format string, args ...any) {
	if !l.armed.Load() {
		return
	}
	for _, arg := range args {
		if cause, ok := arg.(error); ok {
			panic(brokenOff{cause})
		}
	}
	panic(brokenOff{fmt.Errorf(format, args...)})
}

// silent is a log that nobody reads.
type silent struct{}

func (silent) Debug(...any)            {}
func (silent) Debugf(string, ...any)   {}
func (silent) Error(...any)            {}
func (silent) Errorf(string, ...any)   {}
func (silent) Info(...any)             {}
func (silent) Infof(string, ...any)    {}
func (silent) Warning(...any)          {}
func (silent) Warningf(string, ...any) {}
func (silent) Fatal(...any)            {}
func (silent) Fatalf(string, ...any)   {}
func (silent) Panic(...any)            {}
func (silent) Panicf(string, ...any)   {}

// createIndex makes an empty index under another name and renames it, so that
// whatever has the name of an index is a complete one.
func createIndex(fsys fileSystem, dir string) error {
	draft := filepath.Join(dir, indexDraftName)
	if err := removeIfExists(fsys, draft); err != nil {
		return err
	}
	db, err := openBolt(fsys, draft, new(commitLogger))
	if err != nil {
		return err
	}
	err = db.Update(func(tx *bolt.Tx) error {
		for _, name := range allBuckets {
			if _, err := tx.CreateBucket(name); err != nil {
				return err
			}
		}
		return tx.Bucket(bucketState).Put(stateFormat, []byte(indexFormat))
	})
	if err := errors.Join(err, db.Close()); err != nil {
		return pathError("create", draft, err)
	}
	return installIndex(fsys, dir)
}

// installIndex puts the finished draft in the place of the index.
func installIndex(fsys fileSystem, dir string) error {
	if err := fsys.Rename(filepath.Join(dir, indexDraftName), filepath.Join(dir, indexName)); err != nil {
		return err
	}
	return fsys.SyncDir(dir)
}

// close closes the index. With the list of free pages on disk, which is
// otherwise left out of every commit, the next open need not look for them.
func (x *index) close(tidy bool) error {
	if tidy && x.broken.Load() == nil {
		x.db.NoFreelistSync = false
		_ = x.update(func(*indexTx) error { return nil }) // only saves time
	}
	err := x.roots.Close()
	if x.stuck.Load() {
		return err // what it has mapped stays so until the process ends
	}
	return errors.Join(err, x.guard(x.db.Close))
}

// guard runs something in which bbolt reads the index. bbolt panics at some kinds of damage, and memory
// whose part of the file cannot be read, or is no more, faults. After either, the index is broken.
func (x *index) guard(fn func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			err = x.breakDown(p)
		}
	}()
	return fn()
}

// breakDown says that the index is not to be used any more, and returns why.
func (x *index) breakDown(cause any) error {
	err := damagedIndex(x.path, cause)
	x.broken.CompareAndSwap(nil, &err)
	return *x.broken.Load()
}

// begin begins a transaction.
func (x *index) begin(writable bool) (tx *bolt.Tx, err error) {
	if broken := x.broken.Load(); broken != nil {
		return nil, *broken
	}
	if !x.rootsAreSound() {
		// It may be that one was being written just now.
		x.committing.Lock()
		defer x.committing.Unlock()
		if !x.rootsAreSound() {
			return nil, x.breakDown("the root pages")
		}
	}
	ended := false
	err = x.guard(func() error {
		var err error
		tx, err = x.db.Begin(writable)
		ended = true
		return err
	})
	if !ended {
		x.stuck.Store(true)
	}
	return tx, err
}

// rootsAreSound looks at the root pages before bbolt does, which would panic with locks
// held where both are bad, and go back by a transaction where one is.
func (x *index) rootsAreSound() bool {
	x.rootsMu.Lock()
	defer x.rootsMu.Unlock()
	for i := range x.root {
		b := x.root[i][:]
		if n, _ := x.roots.ReadAt(b, int64(i)*int64(x.pageSize)); n < len(b) {
			return false
		}
		if _, err := parseRoot(b); err != nil {
			return false
		}
	}
	return true
}

// rewriteRoots makes sure of the two pages from which bbolt finds everything else, after a sync failed.
// The kernel reports a failed write once and then takes the page for clean, so what the last
// commit wrote may never reach the disk although reading shows it. For
// all pages but these two that does no harm: the commit before did not use them,
// and the next one writes them again before it does.
func (x *index) rewriteRoots() error {
	f, err := x.fsys.OpenFile(x.path, os.O_RDWR)
	if err != nil {
		return err
	}
	roots := make([]byte, 2*x.pageSize)
	_, err = f.ReadAt(roots, 0)
	if err == nil {
		err = writeFull(f, roots, 0)
	}
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// update runs fn in a transaction and makes its changes durable. The error says
// which kind of failure it was: see refuse. After one, the index has to be opened anew.
func (x *index) update(fn func(*indexTx) error) error {
	tx, err := x.begin(true)
	if err != nil {
		return err
	}
	err = x.guard(func() error {
		if err := fn(&indexTx{tx: tx}); err != nil {
			return err
		}
		return x.commit(tx)
	})
	x.rollBack(tx) // which does nothing after a commit
	return err
}

// commit commits a transaction.
func (x *index) commit(tx *bolt.Tx) (err error) {
	x.committing.Lock()
	defer x.committing.Unlock()
	x.commits.armed.Store(true)
	defer x.commits.armed.Store(false)
	defer x.catchBrokenOff(&err)
	return x.classify(tx.Commit())
}

// catchBrokenOff, deferred, makes an error of a commit that the log has broken off.
func (x *index) catchBrokenOff(err *error) {
	switch p := recover().(type) {
	case nil:
	case brokenOff:
		*err = x.classify(p.cause)
	default:
		panic(p)
	}
}

// rollBack gives up a transaction, if it is not over.
func (x *index) rollBack(tx *bolt.Tx) {
	over := false
	_ = x.guard(func() error {
		_ = tx.Rollback()
		over = true
		return nil
	})
	if !over {
		x.stuck.Store(true)
	}
}

// classify tells failed syncs from failed writes: bbolt syncs through the bare
// system call, whose error names no path, and flattens some errors to text.
func (x *index) classify(err error) error {
	if err == nil {
		return nil
	}
	text := err.Error()
	if strings.Contains(text, syscall.ENOSPC.Error()) && !isDiskFull(err) {
		return fmt.Errorf("%s: %s: %w", x.path, text, syscall.ENOSPC)
	}
	var errno syscall.Errno
	var named *fs.PathError
	hasPath := errors.As(err, &named)
	if errors.As(err, &errno) && !hasPath || hasPath && named.Op == "sync" {
		return &syncError{path: x.path, err: err}
	}
	return pathError("write", x.path, err)
}

// view runs fn on the last committed state.
func (x *index) view(fn func(*indexTx) error) error {
	tx, err := x.begin(false)
	if err != nil {
		return err
	}
	err = x.guard(func() error { return fn(&indexTx{tx: tx}) })
	x.rollBack(tx)
	return err
}

// usage returns how many bytes of the index are in use, and how many its file has.
func (x *index) usage() (used, size int64) {
	stats := x.db.Stats()
	_ = x.view(func(t *indexTx) error {
		size = t.tx.Size()
		return nil
	})
	return max(size-int64(stats.FreePageN+stats.PendingPageN)*int64(x.pageSize), 0), size
}

// compact writes the index anew without its free pages and puts that in its place.
// The index is closed after, whether that worked or not.
func (x *index) compact() error {
	dir := filepath.Dir(x.path)
	draft := filepath.Join(dir, indexDraftName)
	err := removeIfExists(x.fsys, draft)
	if err == nil {
		err = x.copyTo(draft)
	}
	err = errors.Join(err, x.close(false))
	if err != nil {
		_ = removeIfExists(x.fsys, draft)
		return err
	}
	return installIndex(x.fsys, dir)
}

func (x *index) copyTo(path string) error {
	if !x.rootsAreSound() {
		return x.breakDown("the root pages")
	}
	commits := new(commitLogger)
	dst, err := openBolt(x.fsys, path, commits)
	if err != nil {
		return err
	}
	dst.NoSync = true // until all is written: nobody reads the draft before
	err = x.guard(func() (err error) {
		commits.armed.Store(true)
		defer commits.armed.Store(false)
		defer x.catchBrokenOff(&err)
		return bolt.Compact(dst, x.db, 1<<20)
	})
	if err == nil {
		err = x.classify(dst.Sync())
	}
	return errors.Join(err, x.guard(dst.Close))
}

func removeIfExists(fsys fileSystem, path string) error {
	if err := fsys.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// indexTx is a transaction on the index.
type indexTx struct {
	tx      *bolt.Tx
	buckets [len(allBuckets)]*bolt.Bucket
}

func (t *indexTx) bucket(name []byte) *bolt.Bucket {
	for i, known := range allBuckets {
		if &known[0] != &name[0] {
			continue
		}
		if t.buckets[i] == nil {
			t.buckets[i] = t.tx.Bucket(name)
			switch string(name) {
			case "fresh", "prints": // written in order, so pages need no room in between
				t.buckets[i].FillPercent = 0.95
			}
		}
		return t.buckets[i]
	}
	return nil
}

func (t *indexTx) put(bucket, key, value []byte) error { return t.bucket(bucket).Put(key, value) }
func (t *indexTx) delete(bucket, key []byte) error     { return t.bucket(bucket).Delete(key) }

// get returns a value that is valid until the transaction ends.
func (t *indexTx) get(bucket, key []byte) []byte { return t.bucket(bucket).Get(key) }

// scan calls fn for the entries whose keys begin with prefix and are greater than
// prefix and after together, in order, until fn returns false. fn must not change the bucket.
func (t *indexTx) scan(bucket, prefix, after []byte, fn func(key, value []byte) bool) {
	cursor := t.bucket(bucket).Cursor()
	start := append(append(make([]byte, 0, 64), prefix...), after...)
	key, value := cursor.Seek(start)
	if len(after) > 0 && bytes.Equal(key, start) {
		key, value = cursor.Next()
	}
	for ; key != nil && bytes.HasPrefix(key, prefix); key, value = cursor.Next() {
		if !fn(key, value) {
			return
		}
	}
}

// scanBack is scan from the end.
func (t *indexTx) scanBack(bucket, prefix []byte, fn func(key, value []byte) bool) {
	cursor := t.bucket(bucket).Cursor()
	end := append(append(make([]byte, 0, 64), prefix...), bytes.Repeat([]byte{0xff}, idKeySize)...)
	before := cursor.Prev
	if beyond, _ := cursor.Seek(end); beyond == nil { // no key is as long
		before = cursor.Last
	}
	for key, value := before(); key != nil && bytes.HasPrefix(key, prefix); key, value = cursor.Prev() {
		if !fn(key, value) {
			return
		}
	}
}

func routeKey(route uint32) []byte {
	return binary.BigEndian.AppendUint32(make([]byte, 0, 32), route)
}

func idKey(route uint32, id spool.ID) []byte { return append(routeKey(route), id[:]...) }

func keyID(key []byte) spool.ID { return spool.ID(key[len(key)-len(spool.ID{}):]) }

func orderPrefix(route uint32, order uint64) []byte {
	return binary.BigEndian.AppendUint64(routeKey(route), order)
}

func orderKey(route uint32, order uint64, id spool.ID) []byte {
	return append(orderPrefix(route, order), id[:]...)
}

// timeKey is the key of bucketDue and bucketDied. Times before 1970 are as good as zero.
func timeKey(route uint32, nanos int64, id spool.ID) []byte {
	return append(binary.BigEndian.AppendUint64(routeKey(route), uint64(max(nanos, 0))), id[:]...)
}

func keyTime(key []byte) int64 { return int64(binary.BigEndian.Uint64(key[routeKeySize:])) }

// firstParked returns the first parked message of an order key.
func (t *indexTx) firstParked(route uint32, order uint64) (id spool.ID, ok bool) {
	t.scan(bucketOrder, orderPrefix(route, order), nil, func(key, _ []byte) bool {
		id, ok = keyID(key), true
		return false
	})
	return id, ok
}

// first returns the first id of a route in a bucket whose keys are route and id.
func (t *indexTx) first(bucket []byte, route uint32) (id spool.ID, ok bool) {
	t.scan(bucket, routeKey(route), nil, func(key, _ []byte) bool {
		id, ok = keyID(key), true
		return false
	})
	return id, ok
}

// park puts a record among the parked. Its order key's entry in bucketDue
// always belongs to the first parked message, so it moves when this one comes before.
func (t *indexTx) park(route uint32, id spool.ID, record []byte) error {
	order := recordOrderKey(record)
	if first, ok := t.firstParked(route, order); ok && id.Compare(first) < 0 {
		if err := t.deleteDue(route, first); err != nil {
			return err
		}
	}
	if err := t.put(bucketParked, idKey(route, id), record); err != nil {
		return err
	}
	if err := t.put(bucketOrder, orderKey(route, order, id), nil); err != nil {
		return err
	}
	return t.putDue(route, order)
}

// unpark takes a record away from the parked and makes the next of its
// order key due. It reports whether there is a next one.
func (t *indexTx) unpark(route uint32, id spool.ID, order uint64) (more bool, err error) {
	if err := t.deleteDue(route, id); err != nil {
		return false, err
	}
	if err := t.delete(bucketParked, idKey(route, id)); err != nil {
		return false, err
	}
	if err := t.delete(bucketOrder, orderKey(route, order, id)); err != nil {
		return false, err
	}
	if _, more = t.firstParked(route, order); more {
		err = t.putDue(route, order)
	}
	return more, err
}

// putDue enters the first parked message of an order key into bucketDue.
func (t *indexTx) putDue(route uint32, order uint64) error {
	first, ok := t.firstParked(route, order)
	if !ok {
		return nil
	}
	record := t.get(bucketParked, idKey(route, first))
	return t.put(bucketDue, timeKey(route, recordNextAttempt(record), first), binary.BigEndian.AppendUint64(nil, order))
}

// deleteDue removes a parked message from bucketDue, if it is there.
func (t *indexTx) deleteDue(route uint32, id spool.ID) error {
	record := t.get(bucketParked, idKey(route, id))
	return t.delete(bucketDue, timeKey(route, recordNextAttempt(record), id))
}

// bury puts a record among the dead letters.
func (t *indexTx) bury(route uint32, id spool.ID, died time.Time, record []byte) error {
	if err := t.put(bucketDead, idKey(route, id), record); err != nil {
		return err
	}
	return t.put(bucketDied, timeKey(route, unixNano(died), id), nil)
}

// exhume takes a record away from the dead letters.
func (t *indexTx) exhume(route uint32, id spool.ID, died time.Time) error {
	if err := t.delete(bucketDied, timeKey(route, unixNano(died), id)); err != nil {
		return err
	}
	return t.delete(bucketDead, idKey(route, id))
}

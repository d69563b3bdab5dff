// The index: the bbolt database in which everything about messages is but their bodies.

package index

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/disk/bodies"
)

const (
	FileName  = "inbox.db"
	DraftName = "inbox.db.new" // becomes FileName when it is complete
	// indexFormat marks an index as ours. Another version gets another number.
	indexFormat = "deepgram-callback inbox 1"
	// indexLockTimeout: bbolt's own lock is a second line behind the lock file, so there is
	// nothing to wait for.
	indexLockTimeout = 100 * time.Millisecond
)

// Index is an open index file. Whatever goes wrong in bbolt ends with an error here, and
// never the process: see [Index.guard] and [commitLogger].
type Index struct {
	fsys     bodies.FileSystem
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

	// broken is set once something in bbolt has panicked, or a root is bad: nothing is read or
	// written any more.
	broken atomic.Pointer[error]

	// stuck is set when bbolt may have kept a lock, so that it cannot even be closed.
	stuck atomic.Bool
}

// OpenOrCreate opens the index in dir, or creates it if there is nothing at all.
func OpenOrCreate(fsys bodies.FileSystem, dir string) (*Index, *Tally, error) {
	if _, err := fsys.Stat(filepath.Join(dir, FileName)); errors.Is(err, fs.ErrNotExist) {
		if err := createIndex(fsys, dir); err != nil {
			return nil, nil, err
		}
	} else if err != nil {
		return nil, nil, err
	}
	return Open(fsys, dir)
}

// Open opens the index in dir. All of it is looked at before, and counted.
func Open(fsys bodies.FileSystem, dir string) (*Index, *Tally, error) {
	path := filepath.Join(dir, FileName)
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
	x := &Index{fsys: fsys, path: path, roots: f, commits: new(commitLogger)}
	if x.db, err = openBolt(fsys, path, x.commits); err != nil {
		return nil, nil, errors.Join(err, f.Close())
	}
	x.pageSize = x.db.Info().PageSize
	return x, found, nil
}

// openBolt opens a file with bbolt, which has to be sound: bbolt looks for the free pages
// in a goroutine of its own, which nobody can keep from ending the process.
func openBolt(fsys bodies.FileSystem, path string, commits *commitLogger) (db *bolt.DB, err error) {
	var f *os.File
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			_ = f.Close() // with it goes bbolt's lock
			db, err = nil, DamagedError(path, p)
		}
	}()
	db, err = bolt.Open(path, bodies.FilePerm, &bolt.Options{
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
	case errors.Is(err, bolterrors.ErrInvalid),
		errors.Is(err, bolterrors.ErrVersionMismatch),
		errors.Is(err, bolterrors.ErrChecksum):
		return nil, DamagedError(path, err)
	}
	return nil, bodies.PathError("open", path, err)
}

// createIndex makes an empty index under another name and renames it, so that
// whatever has the name of an index is a complete one.
func createIndex(fsys bodies.FileSystem, dir string) error {
	draft := filepath.Join(dir, DraftName)
	if err := bodies.RemoveIfExists(fsys, draft); err != nil {
		return err
	}
	db, err := openBolt(fsys, draft, new(commitLogger))
	if err != nil {
		return err
	}
	err = db.Update(func(tx *bolt.Tx) error {
		for _, name := range bucketNames {
			if _, err := tx.CreateBucket([]byte(name)); err != nil {
				return err
			}
		}
		return tx.Bucket([]byte(State.String())).Put(stateFormat, []byte(indexFormat))
	})
	if err := errors.Join(err, db.Close()); err != nil {
		return bodies.PathError("create", draft, err)
	}
	return installIndex(fsys, dir)
}

// installIndex puts the finished draft in the place of the index.
func installIndex(fsys bodies.FileSystem, dir string) error {
	if err := fsys.Rename(filepath.Join(dir, DraftName), filepath.Join(dir, FileName)); err != nil {
		return err
	}
	return fsys.SyncDir(dir)
}

// Close closes the index. With the list of free pages on disk, which is
// otherwise left out of every commit, the next open need not look for them.
func (x *Index) Close(tidy bool) error {
	if tidy && x.Damage() == nil {
		x.db.NoFreelistSync = false
		_ = x.Update(func(*Tx) error { return nil }) // only saves time
	}
	err := x.roots.Close()
	if x.stuck.Load() {
		return err // what it has mapped stays so until the process ends
	}
	return errors.Join(err, x.guard(x.db.Close))
}

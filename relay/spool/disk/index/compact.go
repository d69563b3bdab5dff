// An index that is mostly free pages is written anew.

package index

import (
	"errors"
	"path/filepath"

	bolt "go.etcd.io/bbolt"

	"github.com/caddy-deepgram/deepgram-callback/relay/spool/disk/bodies"
)

// Usage returns how many bytes of the index are in use, and how many its file has.
func (x *Index) Usage() (used, size int64) {
	stats := x.db.Stats()
	_ = x.View(func(t *Tx) error {
		size = t.tx.Size()
		return nil
	})
	return max(size-int64(stats.FreePageN+stats.PendingPageN)*int64(x.pageSize), 0), size
}

// Compact writes the index anew without its free pages and puts that in its place.
// The index is closed after, whether that worked or not.
func (x *Index) Compact() error {
	dir := filepath.Dir(x.path)
	draft := filepath.Join(dir, DraftName)
	err := bodies.RemoveIfExists(x.fsys, draft)
	if err == nil {
		err = x.copyTo(draft)
	}
	err = errors.Join(err, x.Close(false))
	if err != nil {
		_ = bodies.RemoveIfExists(x.fsys, draft)
		return err
	}
	return installIndex(x.fsys, dir)
}

func (x *Index) copyTo(path string) error {
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

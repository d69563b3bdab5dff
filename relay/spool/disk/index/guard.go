// Transactions, and how whatever goes wrong in bbolt ends with an error and never the process.

package index

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime/debug"
	"strings"
	"sync/atomic"
	"syscall"

	bolt "go.etcd.io/bbolt"

	"github.com/caddy-deepgram/deepgram-callback/relay/spool/disk/bodies"
)

// commitLogger is what bbolt logs to. A commit that fails is logged before anything else is done
// about it, and what bbolt would do is to look for the free pages, in a goroutine of its own in
// which a bad page is the end of the process. So the log breaks the commit off; the index is
// opened anew after a failure anyway.
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

func (silent) Debug(...any) {}

func (silent) Debugf(string, ...any) {}

func (silent) Error(...any) {}

func (silent) Errorf(string, ...any) {}

func (silent) Info(...any) {}

func (silent) Infof(string, ...any) {}

func (silent) Warning(...any) {}

func (silent) Warningf(string, ...any) {}

func (silent) Fatal(...any) {}

func (silent) Fatalf(string, ...any) {}

func (silent) Panic(...any) {}

func (silent) Panicf(string, ...any) {}

// guard runs something in which bbolt reads the index. bbolt panics at some kinds of damage, and
// memory whose part of the file cannot be read, or is no more, faults. After either, the index is
// broken.
func (x *Index) guard(fn func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			err = x.breakDown(p)
		}
	}()
	return fn()
}

// Damage returns why the index is broken, or nil if it is not.
func (x *Index) Damage() error {
	if broken := x.broken.Load(); broken != nil {
		return *broken
	}
	return nil
}

// breakDown says that the index is not to be used any more, and returns why.
func (x *Index) breakDown(cause any) error {
	err := DamagedError(x.path, cause)
	x.broken.CompareAndSwap(nil, &err)
	return *x.broken.Load()
}

// begin begins a transaction.
func (x *Index) begin(writable bool) (tx *bolt.Tx, err error) {
	if err := x.Damage(); err != nil {
		return nil, err
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
func (x *Index) rootsAreSound() bool {
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

// RewriteRoots makes sure of the two pages from which bbolt finds everything else, after a sync
// failed. The kernel reports a failed write once and then takes the page for clean, so what the
// last commit wrote may never reach the disk although reading shows it. For all pages but these
// two that does no harm: the commit before did not use them, and the next one writes them again
// before it does.
func (x *Index) RewriteRoots() error {
	f, err := x.fsys.OpenFile(x.path, os.O_RDWR)
	if err != nil {
		return err
	}
	roots := make([]byte, 2*x.pageSize)
	_, err = f.ReadAt(roots, 0)
	if err == nil {
		err = bodies.WriteFull(f, roots, 0)
	}
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// Update runs fn in a transaction and makes its changes durable. The error says
// which kind of failure it was: see bodies.Refusal. After one, the index has to be opened anew.
func (x *Index) Update(fn func(*Tx) error) error {
	tx, err := x.begin(true)
	if err != nil {
		return err
	}
	err = x.guard(func() error {
		if err := fn(&Tx{tx: tx}); err != nil {
			return err
		}
		return x.commit(tx)
	})
	x.rollBack(tx) // which does nothing after a commit
	return err
}

// commit commits a transaction.
func (x *Index) commit(tx *bolt.Tx) (err error) {
	x.committing.Lock()
	defer x.committing.Unlock()
	x.commits.armed.Store(true)
	defer x.commits.armed.Store(false)
	defer x.catchBrokenOff(&err)
	return x.classify(tx.Commit())
}

// catchBrokenOff, deferred, makes an error of a commit that the log has broken off.
func (x *Index) catchBrokenOff(err *error) {
	switch p := recover().(type) {
	case nil:
	case brokenOff:
		*err = x.classify(p.cause)
	default:
		panic(p)
	}
}

// rollBack gives up a transaction, if it is not over.
func (x *Index) rollBack(tx *bolt.Tx) {
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
func (x *Index) classify(err error) error {
	if err == nil {
		return nil
	}
	text := err.Error()
	if strings.Contains(text, syscall.ENOSPC.Error()) && !bodies.IsDiskFull(err) {
		return fmt.Errorf("%s: %s: %w", x.path, text, syscall.ENOSPC)
	}
	var errno syscall.Errno
	var named *fs.PathError
	hasPath := errors.As(err, &named)
	if errors.As(err, &errno) && !hasPath || hasPath && named.Op == "sync" {
		return &bodies.SyncError{Path: x.path, Err: err}
	}
	return bodies.PathError("write", x.path, err)
}

// View runs fn on the last committed state.
func (x *Index) View(fn func(*Tx) error) error {
	tx, err := x.begin(false)
	if err != nil {
		return err
	}
	err = x.guard(func() error { return fn(&Tx{tx: tx}) })
	x.rollBack(tx)
	return err
}

//go:build unix

package bodies

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"

	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
)

// IsDiskFull reports whether err means that there is no room for more.
func IsDiskFull(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}

// syncDir makes the entries of a directory durable: POSIX promises this of fsync
// on the directory only, not of fsync on the file.
func syncDir(path string, open func() (*os.File, error)) error {
	dir, err := open()
	if err != nil {
		return err
	}
	if err := dir.Sync(); err != nil {
		return errors.Join(&SyncError{Path: path, Err: err}, dir.Close())
	}
	return dir.Close()
}

// LockFile takes the lock that keeps other processes out; it is released when the file is
// closed or the process ends.
func LockFile(f *os.File) error {
	err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	switch {
	case errors.Is(err, syscall.EWOULDBLOCK):
		return spool.ErrLocked
	case err != nil:
		return fmt.Errorf("lock %s: %w", f.Name(), err)
	}
	return nil
}

// checkOwner refuses what another user owns, or what anybody can write to. The superuser counts
// as no other: it could change everything anyway, and volumes that are shared by a group
// (fsGroup in Kubernetes) belong to it. Members of the group are trusted where the mode says so.
func checkOwner(info fs.FileInfo) error {
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return nil
	}
	self := os.Geteuid()
	if owner := int(stat.Uid); owner != self && owner != 0 {
		return fmt.Errorf("%w: it belongs to user %d, and this process runs as user %d; "+
			"give it to that user (chown), or use a directory of its own", ErrNotOwn, owner, self)
	}
	if info.Mode().Perm()&0o002 != 0 {
		return fmt.Errorf(
			"%w: every user can write to it (mode %v); close it to others (chmod o-w)",
			ErrNotOwn,
			info.Mode(),
		)
	}
	return nil
}

// MayClose reports whether a directory that holds nothing but the inbox is to be closed to all
// but its owner: not if it is another's, or open to its group on purpose.
func MayClose(info fs.FileInfo) bool {
	stat, ok := info.Sys().(*syscall.Stat_t)
	return ok && int(stat.Uid) == os.Geteuid() && info.Mode().Perm()&0o020 == 0
}

// GiveTo has a file belong to whom another does, where this process may do that.
func GiveTo(other fs.FileInfo, path string) error {
	stat, ok := other.Sys().(*syscall.Stat_t)
	if !ok || os.Geteuid() != 0 {
		return nil
	}
	return os.Lchown(path, int(stat.Uid), int(stat.Gid))
}

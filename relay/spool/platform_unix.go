//go:build unix

package spool

import (
	"errors"
	"fmt"
	"os"
	"syscall"
)

// isDiskFull reports whether err means that there is no room for more.
func isDiskFull(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}

// syncDir makes the entries of a directory durable: POSIX promises this of fsync
// on the directory only, not of fsync on the file.
func syncDir(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	if err := dir.Sync(); err != nil {
		return errors.Join(&syncError{path: path, err: err}, dir.Close())
	}
	return dir.Close()
}

// lockFile takes the lock that keeps other processes out; it is released when the file is
// closed or the process ends.
func lockFile(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, filePerm)
	if err != nil {
		return nil, err
	}
	err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if err == nil {
		return f, nil
	}
	_ = f.Close()
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return nil, ErrLocked
	}
	return nil, fmt.Errorf("lock %s: %w", path, err)
}

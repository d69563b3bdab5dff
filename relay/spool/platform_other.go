//go:build !unix

package spool

import (
	"errors"
	"os"
	"syscall"
)

// Windows' ERROR_HANDLE_DISK_FULL and ERROR_DISK_FULL.
const (
	errHandleDiskFull = syscall.Errno(39)
	errDiskFull       = syscall.Errno(112)
)

// isDiskFull reports whether err means that there is no room for more.
func isDiskFull(err error) bool {
	return errors.Is(err, errDiskFull) || errors.Is(err, errHandleDiskFull)
}

// syncDir does nothing: directories cannot be synced here, their entries are journalled.
func syncDir(string) error { return nil }

// lockFile opens the lock file. The lock that counts here is bbolt's own on the index.
func lockFile(path string) (*os.File, error) {
	return os.OpenFile(path, os.O_RDWR|os.O_CREATE, filePerm)
}

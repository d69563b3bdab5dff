//go:build !unix

package bodies

import (
	"errors"
	"io/fs"
	"os"
	"syscall"
)

// Windows' ERROR_HANDLE_DISK_FULL and ERROR_DISK_FULL.
const (
	errHandleDiskFull = syscall.Errno(39)
	errDiskFull       = syscall.Errno(112)
)

// IsDiskFull reports whether err means that there is no room for more.
func IsDiskFull(err error) bool {
	return errors.Is(err, errDiskFull) || errors.Is(err, errHandleDiskFull)
}

// syncDir does nothing: directories cannot be synced here, their entries are journalled.
func syncDir(string, func() (*os.File, error)) error { return nil }

// LockFile does nothing: the lock that counts here is bbolt's own on the index.
func LockFile(*os.File) error { return nil }

// checkOwner does nothing: who may change a file is not in its mode here. A new
// directory inherits the access list of the one that it is in.
func checkOwner(fs.FileInfo) error { return nil }

// MayClose reports whether the mode of a directory is to be changed, which says nothing here.
func MayClose(fs.FileInfo) bool { return false }

// GiveTo does nothing: a new file has the access list of its directory.
func GiveTo(fs.FileInfo, string) error { return nil }

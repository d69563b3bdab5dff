// The seam between the engine and the file system: everything the engine
// writes goes through it, so that tests can make any of it fail.

package spool

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

const (
	filePerm fs.FileMode = 0o600
	dirPerm  fs.FileMode = 0o700
)

// fileSystem is what the engine needs of the operating system.
type fileSystem interface {
	OpenFile(name string, flag int) (file, error)

	// OpenIndex opens the file of the index, which bbolt maps into memory and
	// therefore needs as it is. The signature is bbolt's.
	OpenIndex(name string, flag int, perm fs.FileMode) (*os.File, error)

	Mkdir(name string) error
	ReadDir(name string) ([]fs.DirEntry, error)
	Remove(name string) error
	Rename(from, to string) error

	// SyncDir makes the entries of a directory durable.
	SyncDir(name string) error
}

// file is an open file. Sync makes data and size durable, or returns a *syncError.
type file interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
	Sync() error
	Size() (int64, error)
	Truncate(size int64) error
}

// osFileSystem is the real one.
type osFileSystem struct{}

type osFile struct{ *os.File }

func (osFileSystem) OpenFile(name string, flag int) (file, error) {
	f, err := os.OpenFile(name, flag, filePerm)
	if err != nil {
		return nil, err
	}
	return osFile{f}, nil
}

func (osFileSystem) OpenIndex(name string, flag int, perm fs.FileMode) (*os.File, error) {
	return os.OpenFile(name, flag, perm)
}

func (osFileSystem) Mkdir(name string) error {
	if err := os.Mkdir(name, dirPerm); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}

func (osFileSystem) ReadDir(name string) ([]fs.DirEntry, error) { return os.ReadDir(name) }
func (osFileSystem) Remove(name string) error                   { return os.Remove(name) }
func (osFileSystem) Rename(from, to string) error               { return os.Rename(from, to) }
func (osFileSystem) SyncDir(name string) error                  { return syncDir(name) }

func (f osFile) Sync() error {
	if err := syncData(f.File); err != nil {
		return &syncError{path: f.Name(), err: err}
	}
	return nil
}

func (f osFile) Size() (int64, error) {
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

// makeDir creates the inbox's directory with its parents, durably, or checks that it is one.
// A directory that holds nothing else is closed to other users of the machine.
func makeDir(fsys fileSystem, path string) error {
	if info, err := os.Stat(path); err == nil {
		if !info.IsDir() {
			return &fs.PathError{Op: "open", Path: path, Err: errors.New("not a directory")}
		}
		return nil
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	parent := filepath.Dir(path)
	if parent != path {
		if err := makeDir(fsys, parent); err != nil {
			return err
		}
	}
	if err := fsys.Mkdir(path); err != nil {
		return err
	}
	return fsys.SyncDir(parent)
}

// writeFull writes all of p, and treats a short write as the failure it is.
func writeFull(f file, p []byte, offset int64) error {
	n, err := f.WriteAt(p, offset)
	if err == nil && n < len(p) {
		err = io.ErrShortWrite
	}
	return err
}

var (
	_ fileSystem = osFileSystem{}
	_ file       = osFile{}
)

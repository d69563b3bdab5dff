// The seam between the engine and the file system: everything the engine writes goes through it,
// so that tests can make any of it fail.

package bodies

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

func RemoveIfExists(fsys FileSystem, path string) error {
	if err := fsys.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

const (
	// LockName is the file that is locked for as long as an inbox is open.
	LockName = "inbox.lock"

	FilePerm fs.FileMode = 0o600
	DirPerm  fs.FileMode = 0o700
)

// FileSystem is what the engine needs of the operating system. Every name is that of something
// in the directory that it was entered with, or of that directory itself.
type FileSystem interface {
	// Enter opens the directory. It refuses one that other users of the machine could change.
	Enter(dir string) error

	// Leave closes what Enter opened. Files that are open stay so.
	Leave() error

	OpenFile(name string, flag int) (File, error)

	// OpenIndex opens the file of the index, which bbolt maps into memory and
	// therefore needs as it is. The signature is bbolt's.
	OpenIndex(name string, flag int, perm fs.FileMode) (*os.File, error)

	// Mkdir makes sure of a directory.
	Mkdir(name string) error

	ReadDir(name string) ([]fs.DirEntry, error)
	Stat(name string) (fs.FileInfo, error)
	Remove(name string) error
	Rename(from, to string) error

	// SyncDir makes the entries of a directory durable.
	SyncDir(name string) error
}

// File is an open file. Sync makes data and size durable, or returns a *SyncError.
type File interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
	Sync() error
	Size() (int64, error)
	Truncate(size int64) error
}

// OS is the real one. It holds the directory open as an [os.Root], so that nothing in
// it can lead out of it, and follows no symbolic link in it at all: whoever could put one
// there would have the engine overwrite, or deliver, a file of somebody else.
type OS struct {
	root *os.Root
	dir  string

	// anyOwner accepts files of any user, for a rescue by an administrator that only reads.
	AnyOwner bool
}

type osFile struct{ *os.File }

// Enter implements FileSystem.
func (s *OS) Enter(dir string) error {
	info, err := os.Stat(dir) // the operator's own path to it may go over links
	if err != nil {
		return err
	}
	if !info.IsDir() {
		return &fs.PathError{Op: "open", Path: dir, Err: errors.New("not a directory")}
	}
	if err := s.checkOwner(dir, info); err != nil {
		return err
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	if opened, err := root.Stat("."); err != nil || !os.SameFile(info, opened) {
		return errors.Join(&fs.PathError{Op: "open", Path: dir, Err: ErrExchanged}, err, root.Close())
	}
	s.root, s.dir = root, dir
	return nil
}

// Leave implements FileSystem.
func (s *OS) Leave() error {
	if s.root == nil {
		return nil
	}
	return s.root.Close()
}

var (
	ErrNotRegular = errors.New("not a regular file")
	ErrExchanged  = errors.New("exchanged for another while it was opened")
	ErrNotOwn     = errors.New("not safe to use")
	errOutside    = errors.New("outside of the inbox")
)

// relative returns the name below the directory.
func (s *OS) relative(name string) (string, error) {
	rest, below := strings.CutPrefix(name, s.dir)
	switch {
	case s.root == nil || !below:
		return "", &fs.PathError{Op: "open", Path: name, Err: errOutside}
	case rest == "":
		return ".", nil
	}
	return strings.TrimPrefix(rest, string(filepath.Separator)), nil
}

// checkOwner reports why something cannot be relied on to be the inbox's own.
func (s *OS) checkOwner(path string, info fs.FileInfo) error {
	if s.AnyOwner {
		return nil
	}
	if err := checkOwner(info); err != nil {
		return &fs.PathError{Op: "open", Path: path, Err: err}
	}
	return nil
}

// open opens a regular file of ours, or creates it.
func (s *OS) open(path string, flag int, perm fs.FileMode) (*os.File, error) {
	name, err := s.relative(path)
	if err != nil {
		return nil, err
	}
	before, err := s.root.Lstat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist) && flag&os.O_CREATE != 0:
		flag |= os.O_EXCL // so that what appears meanwhile is not followed
	case err != nil:
		return nil, named(err, path)
	case flag&os.O_EXCL != 0:
	case !before.Mode().IsRegular():
		return nil, &fs.PathError{Op: "open", Path: path, Err: ErrNotRegular}
	default:
		if err := s.checkOwner(path, before); err != nil {
			return nil, err
		}
	}
	f, err := s.root.OpenFile(name, flag, perm)
	if err != nil {
		return nil, named(err, path)
	}
	if flag&os.O_EXCL != 0 {
		return f, nil
	}
	if opened, err := f.Stat(); err != nil || !os.SameFile(before, opened) {
		return nil, errors.Join(&fs.PathError{Op: "open", Path: path, Err: ErrExchanged}, err, f.Close())
	}
	return f, nil
}

// named has an error tell the whole path, where a Root tells the name below it.
func named(err error, path string) error {
	var named *fs.PathError
	if errors.As(err, &named) {
		return &fs.PathError{Op: named.Op, Path: path, Err: named.Err}
	}
	return err
}

// OpenFile implements FileSystem.
func (s *OS) OpenFile(path string, flag int) (File, error) {
	f, err := s.open(path, flag, FilePerm)
	if err != nil {
		return nil, err
	}
	return osFile{f}, nil
}

// OpenIndex implements FileSystem.
func (s *OS) OpenIndex(path string, flag int, perm fs.FileMode) (*os.File, error) {
	return s.open(path, flag, perm)
}

// Mkdir implements FileSystem.
func (s *OS) Mkdir(path string) error {
	name, err := s.relative(path)
	if err != nil {
		return err
	}
	if err := s.root.Mkdir(name, DirPerm); err == nil {
		return s.SyncDir(filepath.Dir(path))
	} else if !errors.Is(err, fs.ErrExist) {
		return named(err, path)
	}
	return s.isDir(path, name)
}

// isDir reports why something is not a directory of ours.
func (s *OS) isDir(path, name string) error {
	info, err := s.root.Lstat(name)
	if err != nil {
		return named(err, path)
	}
	if !info.IsDir() {
		return &fs.PathError{Op: "open", Path: path, Err: errors.New("not a directory")}
	}
	return s.checkOwner(path, info)
}

// ReadDir implements FileSystem.
func (s *OS) ReadDir(path string) ([]fs.DirEntry, error) {
	name, err := s.relative(path)
	if err != nil {
		return nil, err
	}
	if err := s.isDir(path, name); err != nil {
		return nil, err
	}
	entries, err := fs.ReadDir(s.root.FS(), filepath.ToSlash(name))
	return entries, named(err, path)
}

// Stat implements FileSystem.
func (s *OS) Stat(path string) (fs.FileInfo, error) {
	name, err := s.relative(path)
	if err != nil {
		return nil, err
	}
	info, err := s.root.Lstat(name)
	return info, named(err, path)
}

// Remove implements FileSystem.
func (s *OS) Remove(path string) error {
	name, err := s.relative(path)
	if err != nil {
		return err
	}
	return named(s.root.Remove(name), path)
}

// Rename implements FileSystem.
func (s *OS) Rename(from, to string) error {
	oldName, err := s.relative(from)
	if err != nil {
		return err
	}
	newName, err := s.relative(to)
	if err != nil {
		return err
	}
	return s.root.Rename(oldName, newName)
}

// SyncDir implements FileSystem.
func (s *OS) SyncDir(path string) error {
	name, err := s.relative(path)
	if err != nil {
		return err
	}
	return syncDir(path, func() (*os.File, error) { return s.root.Open(name) })
}

// Sync implements file.
func (f osFile) Sync() error {
	if err := syncData(f.File); err != nil {
		return &SyncError{Path: f.Name(), Err: err}
	}
	return nil
}

// Size implements file.
func (f osFile) Size() (int64, error) {
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

// MakeDir creates the inbox's directory with its parents, durably, or checks that it is one.
func MakeDir(path string) error {
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
		if err := MakeDir(parent); err != nil {
			return err
		}
	}
	if err := os.Mkdir(path, DirPerm); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return syncDir(parent, func() (*os.File, error) { return os.Open(parent) })
}

// WriteFull writes all of p, and treats a short write as the failure it is.
func WriteFull(f File, p []byte, offset int64) error {
	n, err := f.WriteAt(p, offset)
	if err == nil && n < len(p) {
		err = io.ErrShortWrite
	}
	return err
}

var (
	_ FileSystem = (*OS)(nil)
	_ File       = osFile{}
)

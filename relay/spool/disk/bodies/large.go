// Body files: a file for each of the large bodies.

package bodies

import (
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"

	"github.com/google/uuid"

	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
)

const (
	LargeDir    = "bodies"
	LargeSuffix = ".body"
	// MaxSmall is the size above which a body gets a file of its own.
	MaxSmall = 64 << 10
)

// Large is the directory of the large bodies.
type Large struct {
	fsys FileSystem
	dir  string

	// kept is how many bytes the accepted ones take up, arriving those on their way in.
	kept, arriving atomic.Int64
}

func NewLarge(fsys FileSystem, dir string) *Large {
	return &Large{fsys: fsys, dir: filepath.Join(dir, LargeDir)}
}

func (b *Large) path(name [16]byte) string {
	return filepath.Join(b.dir, uuid.UUID(name).String()+LargeSuffix)
}

// LargeName is path backwards, for the name of a file.
func LargeName(file string) (name [16]byte, ok bool) {
	text, ok := strings.CutSuffix(file, LargeSuffix)
	id, err := uuid.Parse(text)
	return id, ok && err == nil && id.String() == text
}

// Sweep removes the files that no record points to, and adds up the others.
func (b *Large) Sweep(known func(name [16]byte) bool) error {
	entries, err := b.fsys.ReadDir(b.dir)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		name, ok := LargeName(entry.Name())
		if !ok {
			continue
		}
		if !known(name) {
			if err := b.fsys.Remove(b.path(name)); err != nil {
				return err
			}
			continue
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		b.kept.Add(info.Size())
	}
	return nil
}

// Bytes returns how much the bodies take up, accepted or on their way in.
func (b *Large) Bytes() int64 { return b.kept.Load() + b.arriving.Load() }

// Remove deletes the file of a message that is gone. If that fails, the next open sweeps it.
func (b *Large) Remove(where Location) {
	if b.fsys.Remove(b.path(where.File)) == nil {
		b.kept.Add(-where.Size)
	}
}

// open opens a large body for delivery.
func (b *Large) open(where Location) (spool.Body, error) {
	f, err := b.fsys.OpenFile(b.path(where.File), os.O_RDONLY)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %w", spool.ErrDamaged, err)
	}
	if err != nil {
		return nil, err
	}
	size, err := f.Size()
	if err == nil && size != where.Size {
		err = fmt.Errorf(
			"%s: %w: %d bytes long instead of %d",
			b.path(where.File),
			spool.ErrDamaged,
			size,
			where.Size,
		)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &fileBody{f: f, where: where}, nil
}

// fileBody reads a large body and checks it on the way.
type fileBody struct {
	f       File
	where   Location
	offset  int64
	crc     uint32 // of the bytes up to checked
	checked int64
}

// Size returns the size of the body.
func (b *fileBody) Size() int64 { return b.where.Size }

// Read implements io.Reader.
func (b *fileBody) Read(p []byte) (int, error) {
	if b.offset == b.where.Size {
		if b.checked == b.where.Size && b.crc != b.where.CRC {
			return 0, spool.ErrDamaged
		}
		return 0, io.EOF
	}
	p = p[:min(int64(len(p)), b.where.Size-b.offset)]
	n, err := b.f.ReadAt(p, b.offset)
	if b.checked == b.offset {
		b.crc = crc32.Update(b.crc, castagnoli, p[:n])
		b.checked += int64(n)
	}
	b.offset += int64(n)
	if n == len(p) {
		return n, nil // the end, and the check, come with the next call
	}
	if errors.Is(err, io.EOF) {
		err = spool.ErrDamaged
	}
	return n, err
}

// Seek implements io.Seeker.
func (b *fileBody) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += b.offset
	case io.SeekEnd:
		offset += b.where.Size
	}
	if offset < 0 || offset > b.where.Size {
		return 0, fmt.Errorf("seek to %d in a body of %d bytes", offset, b.where.Size)
	}
	b.offset = offset
	return offset, nil
}

// Close closes the file.
func (b *fileBody) Close() error { return b.f.Close() }

var (
	_ spool.Body       = (*fileBody)(nil)
	_ spool.BodyWriter = (*Writer)(nil)
)

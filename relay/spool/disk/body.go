// Bodies on their way in: small ones in memory until their group commit,
// large ones straight to a file of their own; and large ones on their way out.

package disk

import (
	"crypto/rand"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"math/bits"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/google/uuid"

	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
)

const (
	bodyDir    = "bodies"
	bodySuffix = ".body"

	// maxSegmentBody is the size above which a body gets a file of its own.
	maxSegmentBody = 64 << 10

	minBufferBits = 12 // 4 KiB
	maxBufferBits = 16 // maxSegmentBody
)

// buffer is a piece of pooled memory.
type buffer struct {
	b     []byte
	class int
}

// buffers has a pool for each power of two from 4 KiB to 64 KiB.
var buffers [maxBufferBits - minBufferBits + 1]sync.Pool

// getBuffer returns a buffer for size bytes, at most maxSegmentBody.
func getBuffer(size int) *buffer {
	class := max(bits.Len(uint(max(size, 1)-1))-minBufferBits, 0)
	if pooled, ok := buffers[class].Get().(*buffer); ok {
		return pooled
	}
	return &buffer{b: make([]byte, 1<<(class+minBufferBits)), class: class}
}

func (b *buffer) free() { buffers[b.class].Put(b) }

// bodyFiles is the directory of the large bodies.
type bodyFiles struct {
	fsys fileSystem
	dir  string

	// kept is how many bytes the accepted ones take up, arriving those on their way in.
	kept, arriving atomic.Int64
}

func newBodyFiles(fsys fileSystem, dir string) *bodyFiles {
	return &bodyFiles{fsys: fsys, dir: filepath.Join(dir, bodyDir)}
}

func (b *bodyFiles) path(name [16]byte) string {
	return filepath.Join(b.dir, uuid.UUID(name).String()+bodySuffix)
}

// bodyName is path backwards, for the name of a file.
func bodyName(file string) (name [16]byte, ok bool) {
	text, ok := strings.CutSuffix(file, bodySuffix)
	id, err := uuid.Parse(text)
	return id, ok && err == nil && id.String() == text
}

// sweep removes the files that no record points to, and adds up the others.
func (b *bodyFiles) sweep(known func(name [16]byte) bool) error {
	entries, err := b.fsys.ReadDir(b.dir)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		name, ok := bodyName(entry.Name())
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

// remove deletes the file of a message that is gone. If that fails, the next open sweeps it.
func (b *bodyFiles) remove(where location) {
	if b.fsys.Remove(b.path(where.file)) == nil {
		b.kept.Add(-where.size)
	}
}

// open opens a large body for delivery.
func (b *bodyFiles) open(where location) (spool.Body, error) {
	f, err := b.fsys.OpenFile(b.path(where.file), os.O_RDONLY)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %w", spool.ErrDamaged, err)
	}
	if err != nil {
		return nil, err
	}
	size, err := f.Size()
	if err == nil && size != where.size {
		err = fmt.Errorf("%s: %w: %d bytes long instead of %d", b.path(where.file), spool.ErrDamaged, size, where.size)
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &fileBody{f: f, where: where}, nil
}

// fileBody reads a large body and checks it on the way.
type fileBody struct {
	f       file
	where   location
	offset  int64
	crc     uint32 // of the bytes up to checked
	checked int64
}

// Size returns the size of the body.
func (b *fileBody) Size() int64 { return b.where.size }

// Read implements io.Reader.
func (b *fileBody) Read(p []byte) (int, error) {
	if b.offset == b.where.size {
		if b.checked == b.where.size && b.crc != b.where.crc {
			return 0, spool.ErrDamaged
		}
		return 0, io.EOF
	}
	p = p[:min(int64(len(p)), b.where.size-b.offset)]
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
		offset += b.where.size
	}
	if offset < 0 || offset > b.where.size {
		return 0, fmt.Errorf("seek to %d in a body of %d bytes", offset, b.where.size)
	}
	b.offset = offset
	return offset, nil
}

// Close closes the file.
func (b *fileBody) Close() error { return b.f.Close() }

// bodyWriter takes in one body.
type bodyWriter struct {
	files *bodyFiles

	// admit reports whether there may be so many bytes more on disk.
	admit func(more int64) error

	size   int64
	crc    uint32
	small  *buffer // nil once there is a file
	f      file
	name   [16]byte
	closed bool
}

func newBodyWriter(files *bodyFiles, sizeHint int64, admit func(int64) error) *bodyWriter {
	hint := 0
	if sizeHint > 0 && sizeHint <= maxSegmentBody {
		hint = int(sizeHint)
	}
	return &bodyWriter{files: files, admit: admit, small: getBuffer(hint)}
}

// Write implements io.Writer.
func (w *bodyWriter) Write(p []byte) (int, error) {
	if w.f == nil && w.size+int64(len(p)) <= maxSegmentBody {
		w.remember(p)
		return len(p), nil
	}
	if w.f == nil {
		if err := w.spill(); err != nil {
			return 0, refuse(err)
		}
	}
	if err := w.writeFile(p); err != nil {
		return 0, refuse(err)
	}
	return len(p), nil
}

// remember keeps p in memory.
func (w *bodyWriter) remember(p []byte) {
	if need := int(w.size) + len(p); need > len(w.small.b) {
		larger := getBuffer(need)
		copy(larger.b, w.small.b[:w.size])
		w.small.free()
		w.small = larger
	}
	copy(w.small.b[w.size:], p)
	w.crc = crc32.Update(w.crc, castagnoli, p)
	w.size += int64(len(p))
}

// spill moves what came so far to a file.
func (w *bodyWriter) spill() error {
	if _, err := rand.Read(w.name[:]); err != nil {
		return err
	}
	f, err := w.files.fsys.OpenFile(w.files.path(w.name), os.O_RDWR|os.O_CREATE|os.O_EXCL)
	if err != nil {
		return err
	}
	w.f = f
	head, size := w.small, w.size
	w.small, w.size, w.crc = nil, 0, 0
	defer head.free()
	return w.writeFile(head.b[:size])
}

func (w *bodyWriter) writeFile(p []byte) error {
	if err := w.admit(int64(len(p))); err != nil {
		return err
	}
	if err := writeFull(w.f, p, w.size); err != nil {
		return pathError("write", w.files.path(w.name), err)
	}
	w.files.arriving.Add(int64(len(p)))
	w.crc = crc32.Update(w.crc, castagnoli, p)
	w.size += int64(len(p))
	return nil
}

// finish makes a large body durable, and returns where it is. Of a small one it
// returns what is known so far.
func (w *bodyWriter) finish() (location, error) {
	where := location{file: w.name, size: w.size, crc: w.crc}
	if w.f == nil {
		return where, nil
	}
	if err := w.f.Sync(); err != nil {
		return where, err
	}
	return where, w.files.fsys.SyncDir(w.files.dir)
}

// bytes returns a small body.
func (w *bodyWriter) bytes() []byte { return w.small.b[:w.size] }

// Discard implements BodyWriter.
func (w *bodyWriter) Discard() {
	if w.f != nil && !w.closed {
		_ = w.files.fsys.Remove(w.files.path(w.name))
	}
	w.release()
}

// keep ends the writing of a body that now belongs to a message.
func (w *bodyWriter) keep() {
	if w.f != nil && !w.closed {
		w.files.kept.Add(w.size)
	}
	w.release()
}

func (w *bodyWriter) release() {
	if w.closed {
		return
	}
	w.closed = true
	if w.f != nil {
		w.files.arriving.Add(-w.size)
		_ = w.f.Close() // was synced, or is removed
	}
	if w.small != nil {
		w.small.free()
		w.small = nil
	}
}

var (
	_ spool.Body       = (*fileBody)(nil)
	_ spool.BodyWriter = (*bodyWriter)(nil)
)

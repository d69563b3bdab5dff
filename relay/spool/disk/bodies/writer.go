// A body on its way in: a small one in memory until its group commit, a large one straight to a
// file of its own.

package bodies

import (
	"crypto/rand"
	"hash/crc32"
	"os"
)

// Writer takes in one body.
type Writer struct {
	files *Large

	// admit reports whether there may be so many bytes more on disk.
	admit func(more int64) error

	size   int64
	crc    uint32
	small  *buffer // nil once there is a file
	f      File
	name   [16]byte
	closed bool
}

func NewWriter(files *Large, sizeHint int64, admit func(int64) error) *Writer {
	hint := 0
	if sizeHint > 0 && sizeHint <= MaxSmall {
		hint = int(sizeHint)
	}
	return &Writer{files: files, admit: admit, small: getBuffer(hint)}
}

// Write implements io.Writer.
func (w *Writer) Write(p []byte) (int, error) {
	if w.f == nil && w.size+int64(len(p)) <= MaxSmall {
		w.remember(p)
		return len(p), nil
	}
	if w.f == nil {
		if err := w.spill(); err != nil {
			return 0, Refusal(err)
		}
	}
	if err := w.writeFile(p); err != nil {
		return 0, Refusal(err)
	}
	return len(p), nil
}

// remember keeps p in memory.
func (w *Writer) remember(p []byte) {
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
func (w *Writer) spill() error {
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

func (w *Writer) writeFile(p []byte) error {
	if err := w.admit(int64(len(p))); err != nil {
		return err
	}
	if err := WriteFull(w.f, p, w.size); err != nil {
		return PathError("write", w.files.path(w.name), err)
	}
	w.files.arriving.Add(int64(len(p)))
	w.crc = crc32.Update(w.crc, castagnoli, p)
	w.size += int64(len(p))
	return nil
}

// Finish makes a large body durable, and returns where it is. Of a small one it
// returns what is known so far.
func (w *Writer) Finish() (Location, error) {
	where := Location{File: w.name, Size: w.size, CRC: w.crc}
	if w.f == nil {
		return where, nil
	}
	if err := w.f.Sync(); err != nil {
		return where, err
	}
	return where, w.files.fsys.SyncDir(w.files.dir)
}

// IsLarge reports whether the body has a file of its own.
func (w *Writer) IsLarge() bool { return w.f != nil }

// Uncounted returns how many bytes of the body the set of body files has not counted, as they are
// in memory.
func (w *Writer) Uncounted() int64 {
	if w.IsLarge() {
		return 0
	}
	return w.size
}

// Bytes returns a small body.
func (w *Writer) Bytes() []byte { return w.small.b[:w.size] }

// Discard implements BodyWriter.
func (w *Writer) Discard() {
	if w.f != nil && !w.closed {
		_ = w.files.fsys.Remove(w.files.path(w.name))
	}
	w.release()
}

// Keep ends the writing of a body that now belongs to a message.
func (w *Writer) Keep() {
	if w.f != nil && !w.closed {
		w.files.kept.Add(w.size)
	}
	w.release()
}

func (w *Writer) release() {
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

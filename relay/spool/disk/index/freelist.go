// The list of free pages in an index.

package index

import (
	"encoding/binary"
	"io"
)

// freelist looks at the list of free pages, which no bucket may use. bbolt gives
// them out, so one that is in use would be overwritten.
func (t *tree) freelist(id uint64) error {
	var b [pageHeader]byte
	if err := t.fill(b[:], id); err != nil {
		return err
	}
	p := parsePage(b[:])
	if p.id != id || p.kind != freelistPage || uint64(p.more) >= t.pages-id {
		return damagedPage(id, "not the list of free pages")
	}
	for i := id; i <= id+uint64(p.more); i++ {
		if t.seen.has(i) {
			return damagedPage(i, "pointed to twice")
		}
		t.seen.add(i)
	}
	list := io.NewSectionReader(
		t.file,
		int64(id)*int64(t.pageSize)+pageHeader,
		(int64(p.more)+1)*int64(t.pageSize)-pageHeader,
	)
	r := newNumberReader(list)
	count := uint64(p.count)
	if count == 0xffff { // the true number is the first one
		count = r.next()
	}
	for range count {
		free := r.next()
		if r.err != nil || free < 2 || free >= t.pages || t.seen.has(free) {
			return damagedPage(id, "lists page %d as free", free)
		}
		t.seen.add(free)
	}
	if r.err != nil {
		return damagedPage(id, "cannot be read: %v", r.err)
	}
	return nil
}

// numberReader reads page ids.
type numberReader struct {
	r    io.Reader
	buf  [4096]byte
	rest []byte
	err  error
}

func newNumberReader(r io.Reader) *numberReader { return &numberReader{r: r} }

func (r *numberReader) next() uint64 {
	if len(r.rest) < 8 && r.err == nil {
		n, err := io.ReadFull(r.r, r.buf[:])
		if r.rest = r.buf[:n]; n < 8 {
			r.err = err
		}
	}
	if r.err != nil {
		return 0
	}
	n := binary.NativeEndian.Uint64(r.rest)
	r.rest = r.rest[8:]
	return n
}

// The pages of an index as bbolt lays them out, read without trusting a byte of them.

package disk

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// The format is that of bbolt's internal/common: numbers are in the byte order of the machine. A
// page begins with its id, its kind, the number of its elements, and how many pages more it goes on
// for. Elements say where their key and value are, counted from the element itself.
const (
	pageHeader  = 16
	pageElement = 16

	branchPage   = 0x01
	leafPage     = 0x02
	freelistPage = 0x10

	bucketElement = 0x01 // flag of a leaf element: its value is a bucket
	bucketHeader  = 16   // of such a value: the page of its root, and a sequence

	boltMagic   = 0xED0CDAED
	boltVersion = 2
	rootSize    = 64 // of what a root page has behind its header
	noFreelist  = ^uint64(0)

	minPageSize = 1 << 10 // the sizes that bbolt looks for
	maxPageSize = 1 << 24

	// No tree of ours is as deep by far. The buckets themselves are in a tree above bucketLevel.
	maxDepth    = 40
	bucketLevel = 4

	// A record is not larger, nor is a page that holds one.
	maxPageBytes = 64 << 20

	// More would be an index of 256 GiB, for which bbolt needs more memory than there is.
	maxPages = 1 << 26
)

// pageDamage says what is wrong with one page.
type pageDamage struct {
	page uint64
	text string
}

func (e *pageDamage) Error() string { return fmt.Sprintf("page %d: %s", e.page, e.text) }

func damagedPage(id uint64, format string, args ...any) error {
	return &pageDamage{page: id, text: fmt.Sprintf(format, args...)}
}

// page is a page with the pages that it goes on for. Its header is not beyond its bytes.
type page struct {
	id    uint64
	kind  uint16
	count int
	more  uint32
	b     []byte
	at    int64 // where it is in the file
}

func parsePage(b []byte) page {
	return page{
		id:    binary.NativeEndian.Uint64(b),
		kind:  binary.NativeEndian.Uint16(b[8:]),
		count: int(binary.NativeEndian.Uint16(b[10:])),
		more:  binary.NativeEndian.Uint32(b[12:]),
		b:     b,
	}
}

// part returns what an element has of the page, or false if that is not all within it, behind the elements.
func (p page) part(element int, offset, size uint64) ([]byte, bool) {
	begin := uint64(element) + offset
	if begin < uint64(pageHeader+p.count*pageElement) || begin+size > uint64(len(p.b)) {
		return nil, false
	}
	return p.b[begin : begin+size : begin+size], true
}

func (p page) hasElements() bool { return pageHeader+p.count*pageElement <= len(p.b) }

// leaf returns an element of a leaf page.
func (p page) leaf(i int) (flags uint32, key, value []byte, ok bool) {
	at := pageHeader + i*pageElement
	e := p.b[at:]
	offset, keySize := uint64(binary.NativeEndian.Uint32(e[4:])), uint64(binary.NativeEndian.Uint32(e[8:]))
	key, ok = p.part(at, offset, keySize)
	if !ok || keySize == 0 {
		return 0, nil, nil, false
	}
	value, ok = p.part(at, offset+keySize, uint64(binary.NativeEndian.Uint32(e[12:])))
	return binary.NativeEndian.Uint32(e), key, value, ok
}

// valueAt returns where in the file the value of an element of a leaf page is.
func (p page) valueAt(i int) int64 {
	at := pageHeader + i*pageElement
	e := p.b[at:]
	return p.at + int64(at) + int64(binary.NativeEndian.Uint32(e[4:])) + int64(binary.NativeEndian.Uint32(e[8:]))
}

// branch returns an element of a branch page.
func (p page) branch(i int) (child uint64, key []byte, ok bool) {
	at := pageHeader + i*pageElement
	e := p.b[at:]
	key, ok = p.part(at, uint64(binary.NativeEndian.Uint32(e)), uint64(binary.NativeEndian.Uint32(e[4:])))
	return binary.NativeEndian.Uint64(e[8:]), key, ok && len(key) > 0
}

// tree walks through the buckets of an index by reads of its own. It looks at all that bbolt relies on:
// bbolt reads the file as memory and panics, in goroutines of its own too, or runs
// beyond the end of it, where something is not as it should be.
type tree struct {
	file     io.ReaderAt
	pageSize int
	pages    uint64
	seen     pageSet
	levels   [maxDepth][]byte // a page for each level
	deepest  int              // the level that the walk may not reach

	// entry is called with all that is in buckets, and where the value is in the file. Key and value are
	// valid during the call.
	entry func(bucket string, key, value []byte, at int64) error

	// lost, if set, is called with what is damaged, and the walk goes on with what is not. Keys that are not in
	// order are no damage then: who looks for what is left does not look by them.
	lost func(bucket string, keys keyRange, cause error)
}

// keyRange is from a key on, and up to another that is not in it. A nil is no limit.
type keyRange struct{ from, to []byte }

func (r keyRange) contains(key []byte) bool {
	return (r.from == nil || bytes.Compare(key, r.from) >= 0) && (r.to == nil || bytes.Compare(key, r.to) < 0)
}

// pageSet is a set of page ids.
type pageSet []uint64

func newPageSet(pages uint64) pageSet { return make(pageSet, (pages+63)/64) }

func (s pageSet) has(id uint64) bool { return s[id/64]&(1<<(id%64)) != 0 }
func (s pageSet) add(id uint64)      { s[id/64] |= 1 << (id % 64) }

func (s pageSet) remove(id uint64, more uint32) {
	for i := id; i <= id+uint64(more); i++ {
		s[i/64] &^= 1 << (i % 64)
	}
}

func newTree(file io.ReaderAt, root rootPage) *tree {
	t := &tree{file: file, pageSize: root.pageSize, pages: root.pages, seen: newPageSet(root.pages), deepest: bucketLevel}
	t.seen.add(0)
	t.seen.add(1)
	return t
}

// read returns a page that nothing pointed to before, in the memory of a level. After an error
// there is no page.
func (t *tree) read(id uint64, level int) (page, error) {
	if id < 2 || id >= t.pages {
		return page{}, damagedPage(id, "out of bounds")
	}
	if t.seen.has(id) {
		return page{}, damagedPage(id, "pointed to twice")
	}
	if level >= t.deepest {
		return page{}, damagedPage(id, "too deep in the tree")
	}
	if t.levels[level] == nil {
		t.levels[level] = make([]byte, t.pageSize)
	}
	b := t.levels[level][:t.pageSize]
	if err := t.fill(b, id); err != nil {
		return page{}, err
	}
	p := parsePage(b)
	p.at = int64(id) * int64(t.pageSize)
	if p.id != id {
		return page{}, damagedPage(id, "says that it is page %d", p.id)
	}
	end := id + uint64(p.more)
	size := (uint64(p.more) + 1) * uint64(t.pageSize)
	if end >= t.pages || size > maxPageBytes {
		return page{}, damagedPage(id, "goes on for %d pages", p.more)
	}
	if p.more > 0 {
		if uint64(cap(t.levels[level])) < size {
			t.levels[level] = make([]byte, size)
		}
		p.b = t.levels[level][:size]
		if err := t.fill(p.b, id); err != nil {
			return page{}, err
		}
	}
	for i := id; i <= end; i++ {
		if t.seen.has(i) {
			return page{}, damagedPage(i, "pointed to twice")
		}
	}
	if !p.hasElements() {
		return page{}, damagedPage(id, "%d elements", p.count)
	}
	for i := id; i <= end; i++ {
		t.seen.add(i)
	}
	return p, nil
}

func (t *tree) fill(b []byte, id uint64) error {
	if n, err := t.file.ReadAt(b, int64(id)*int64(t.pageSize)); n < len(b) {
		return damagedPage(id, "cannot be read: %v", err)
	}
	return nil
}

// walk goes through everything below the root, whose entries are the buckets.
func (t *tree) walk(root uint64) error {
	_, err := t.subtree("", root, 0, keyRange{}, func(flags uint32, key, value []byte, at int64) error {
		if flags != bucketElement {
			return errors.New("something that is not a bucket")
		}
		name := string(key)
		if err := t.bucket(name, value, at); err != nil {
			if t.lost == nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			t.lost(name, keyRange{}, err)
		}
		return nil
	})
	return err
}

// bucket goes through a bucket. A small one is inside of its element.
func (t *tree) bucket(name string, value []byte, at int64) error {
	entry := func(flags uint32, key, value []byte, at int64) error {
		if flags != 0 {
			return errors.New("an entry that is none")
		}
		return t.entry(name, key, value, at)
	}
	if len(value) < bucketHeader {
		return errors.New("a bucket without its header")
	}
	if root := binary.NativeEndian.Uint64(value); root != 0 {
		t.deepest = maxDepth
		defer func() { t.deepest = bucketLevel }()
		_, err := t.subtree(name, root, bucketLevel, keyRange{}, entry)
		return err
	}
	if len(value) < bucketHeader+pageHeader {
		return errors.New("a bucket without its page")
	}
	p := parsePage(value[bucketHeader:])
	p.at = at + bucketHeader
	if p.kind != leafPage || p.more != 0 || !p.hasElements() {
		return errors.New("a bucket with a page that is none")
	}
	_, err := t.leaf(p, keyRange{}, entry)
	return err
}

// entryFunc gets one element of a leaf page.
type entryFunc func(flags uint32, key, value []byte, at int64) error

// subtree goes through a page whose keys are within a range. It returns the last of its keys, which is
// valid until the next page of its level is read.
func (t *tree) subtree(bucket string, id uint64, level int, keys keyRange, entry entryFunc) ([]byte, error) {
	p, err := t.read(id, level)
	if err == nil {
		switch p.kind {
		case branchPage:
			return t.branch(bucket, p, level, keys, entry)
		case leafPage:
			var last []byte
			if last, err = t.leaf(p, keys, entry); err == nil {
				return last, nil
			}
		default:
			err = damagedPage(id, "of the kind %#x", p.kind)
		}
	}
	if p.b != nil {
		t.seen.remove(p.id, p.more) // nothing was made of it
	}
	return nil, t.damaged(bucket, keys, err)
}

// damaged ends the walk, or notes what is lost and has it go on.
func (t *tree) damaged(bucket string, keys keyRange, err error) error {
	if t.lost == nil {
		return err
	}
	t.lost(bucket, keyRange{bytes.Clone(keys.from), bytes.Clone(keys.to)}, err)
	return nil
}

func (t *tree) branch(bucket string, p page, level int, keys keyRange, entry entryFunc) ([]byte, error) {
	if err := t.checkBranch(p, keys); err != nil {
		return nil, t.damaged(bucket, keys, err)
	}
	var last []byte
	for i := range p.count {
		child, key, _ := p.branch(i)
		if t.lost == nil && i > 0 && bytes.Compare(last, key) >= 0 {
			return nil, damagedPage(p.id, "keys that are not in order with those below")
		}
		below := keyRange{from: key, to: keys.to}
		if i+1 < p.count {
			_, below.to, _ = p.branch(i + 1)
		}
		var err error
		if last, err = t.subtree(bucket, child, level+1, below, entry); err != nil {
			return nil, err
		}
	}
	return last, nil
}

// checkBranch looks at all elements of a branch page before any of them is followed.
func (t *tree) checkBranch(p page, keys keyRange) error {
	if p.count == 0 {
		return damagedPage(p.id, "a branch of nothing")
	}
	var before []byte
	for i := range p.count {
		_, key, ok := p.branch(i)
		if !ok {
			return damagedPage(p.id, "element %d is out of bounds", i)
		}
		if !t.inOrder(i, before, key, keys) {
			return damagedPage(p.id, "keys that are not in order")
		}
		before = key
	}
	return nil
}

// inOrder reports whether a key is where it has to be on its page: within the range of the page, and
// behind the one before. The first is the one under which the branch above has the page: bbolt finds the
// place of a page by it, and would enter the page a second time.
func (t *tree) inOrder(i int, before, key []byte, keys keyRange) bool {
	switch {
	case t.lost != nil:
		return true
	case i == 0 && keys.from != nil && !bytes.Equal(key, keys.from):
		return false
	case i > 0 && bytes.Compare(before, key) >= 0:
		return false
	}
	return keys.contains(key)
}

// leaf goes through a leaf page, whose elements it looks at before it hands any of them out.
func (t *tree) leaf(p page, keys keyRange, entry entryFunc) (last []byte, err error) {
	if p.count == 0 && keys.from != nil {
		return nil, damagedPage(p.id, "a leaf of nothing")
	}
	for i := range p.count {
		_, key, _, ok := p.leaf(i)
		if !ok {
			return nil, damagedPage(p.id, "element %d is out of bounds", i)
		}
		if !t.inOrder(i, last, key, keys) {
			return nil, damagedPage(p.id, "keys that are not in order")
		}
		last = key
	}
	for i := range p.count {
		flags, key, value, _ := p.leaf(i)
		if err := entry(flags, key, value, p.valueAt(i)); err != nil {
			return nil, err
		}
	}
	return last, nil
}

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
	list := io.NewSectionReader(t.file, int64(id)*int64(t.pageSize)+pageHeader, (int64(p.more)+1)*int64(t.pageSize)-pageHeader)
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

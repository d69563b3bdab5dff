// The trees of pages that the buckets of an index are, walked without bbolt.

package index

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// tree walks through the buckets of an index by reads of its own. It looks at all that bbolt
// relies on: bbolt reads the file as memory and panics, in goroutines of its own too, or runs
// beyond the end of it, where something is not as it should be.
type tree struct {
	file     io.ReaderAt
	pageSize int
	pages    uint64
	seen     pageSet
	levels   [maxDepth][]byte // a page for each level
	deepest  int              // the level that the walk may not reach

	// entry is called with all that is in buckets, and where the value is in the file. Key and
	// value are valid during the call.
	entry func(bucket string, key, value []byte, at int64) error

	// lost, if set, is called with what is damaged, and the walk goes on with what is not. Keys
	// that are not in order are no damage then: who looks for what is left does not look by them.
	lost func(bucket string, keys keyRange, cause error)
}

// keyRange is from a key on, and up to another that is not in it. A nil is no limit.
type keyRange struct{ from, to []byte }

func (r keyRange) contains(key []byte) bool {
	return (r.from == nil || bytes.Compare(key, r.from) >= 0) &&
		(r.to == nil || bytes.Compare(key, r.to) < 0)
}

// pageSet is a set of page ids.
type pageSet []uint64

func newPageSet(pages uint64) pageSet { return make(pageSet, (pages+63)/64) }

func (s pageSet) has(id uint64) bool { return s[id/64]&(1<<(id%64)) != 0 }

func (s pageSet) add(id uint64) { s[id/64] |= 1 << (id % 64) }

func (s pageSet) remove(id uint64, more uint32) {
	for i := id; i <= id+uint64(more); i++ {
		s[i/64] &^= 1 << (i % 64)
	}
}

func newTree(file io.ReaderAt, root rootPage) *tree {
	t := &tree{
		file:     file,
		pageSize: root.pageSize,
		pages:    root.pages,
		seen:     newPageSet(root.pages),
		deepest:  bucketLevel,
	}
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
	_, err := t.subtree(
		"",
		root,
		0,
		keyRange{},
		func(flags uint32, key, value []byte, at int64) error {
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
		},
	)
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

// subtree goes through a page whose keys are within a range. It returns the last of its keys,
// which is valid until the next page of its level is read.
func (t *tree) subtree(
	bucket string,
	id uint64,
	level int,
	keys keyRange,
	entry entryFunc,
) ([]byte, error) {
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

func (t *tree) branch(
	bucket string,
	p page,
	level int,
	keys keyRange,
	entry entryFunc,
) ([]byte, error) {
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

// inOrder reports whether a key is where it has to be on its page: within the range of the page,
// and behind the one before. The first is the one under which the branch above has the page:
// bbolt finds the place of a page by it, and would enter the page a second time.
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

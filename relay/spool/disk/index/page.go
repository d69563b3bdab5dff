// The pages of an index as bbolt lays them out, read without trusting a byte of them.

package index

import (
	"encoding/binary"
	"fmt"
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

// part returns what an element has of the page, or false if that is not all within it, behind the
// elements.
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
	offset, keySize := uint64(
		binary.NativeEndian.Uint32(e[4:]),
	), uint64(
		binary.NativeEndian.Uint32(e[8:]),
	)
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
	return p.at + int64(
		at,
	) + int64(
		binary.NativeEndian.Uint32(e[4:]),
	) + int64(
		binary.NativeEndian.Uint32(e[8:]),
	)
}

// branch returns an element of a branch page.
func (p page) branch(i int) (child uint64, key []byte, ok bool) {
	at := pageHeader + i*pageElement
	e := p.b[at:]
	key, ok = p.part(
		at,
		uint64(binary.NativeEndian.Uint32(e)),
		uint64(binary.NativeEndian.Uint32(e[4:])),
	)
	return binary.NativeEndian.Uint64(e[8:]), key, ok && len(key) > 0
}

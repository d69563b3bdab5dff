// The two pages of an index from which everything else in it is found.

package index

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
)

// rootPage is one of the two pages from which everything else is found. A transaction writes the
// one whose turn it is.
type rootPage struct {
	pageSize    int
	root        uint64 // page of the bucket of all buckets
	freelist    uint64
	pages       uint64 // so many are in use or free
	transaction uint64
}

var (
	errNoRoot      = errors.New("not a root")
	errRootVersion = errors.New("of a version of bbolt that is not known")
	errRootSum     = errors.New("wrong checksum")
)

// parseRoot reads a root page, of which it needs the first bytes.
func parseRoot(b []byte) (rootPage, error) {
	if len(b) < pageHeader+rootSize {
		return rootPage{}, fmt.Errorf("%w: %d bytes are too few", errNoRoot, len(b))
	}
	b = b[pageHeader:]
	if binary.NativeEndian.Uint32(b) != boltMagic {
		return rootPage{}, errNoRoot
	}
	if binary.NativeEndian.Uint32(b[4:]) != boltVersion {
		return rootPage{}, errRootVersion
	}
	sum := fnv.New64a()
	_, _ = sum.Write(b[:rootSize-8])
	if sum.Sum64() != binary.NativeEndian.Uint64(b[rootSize-8:]) {
		return rootPage{}, errRootSum
	}
	r := rootPage{
		pageSize:    int(binary.NativeEndian.Uint32(b[8:])),
		root:        binary.NativeEndian.Uint64(b[16:]),
		freelist:    binary.NativeEndian.Uint64(b[32:]),
		pages:       binary.NativeEndian.Uint64(b[40:]),
		transaction: binary.NativeEndian.Uint64(b[48:]),
	}
	if !isPageSize(r.pageSize) {
		return rootPage{}, fmt.Errorf("a page size of %d", r.pageSize)
	}
	if r.pages < 4 || r.pages > maxPages || r.root < 2 || r.root >= r.pages ||
		r.freelist != noFreelist && (r.freelist < 2 || r.freelist >= r.pages) {
		return rootPage{}, errors.New("numbers that cannot be")
	}
	return r, nil
}

func isPageSize(n int) bool { return n >= minPageSize && n <= maxPageSize && n&(n-1) == 0 }

// readRoots reads the two root pages. Each is whole, or there is an error for it. Of a file in
// which neither is to be found, the size of the pages is 0.
func readRoots(f io.ReaderAt) (roots [2]rootPage, errs [2]error, pageSize int) {
	var b [pageHeader + rootSize]byte
	read := func(offset int64) (rootPage, error) {
		n, err := f.ReadAt(b[:], offset)
		if err != nil && !errors.Is(err, io.EOF) {
			return rootPage{}, err
		}
		return parseRoot(b[:n])
	}
	roots[0], errs[0] = read(0)
	if errs[0] == nil {
		pageSize = roots[0].pageSize
		roots[1], errs[1] = read(int64(pageSize))
		if errs[1] == nil && roots[1].pageSize != pageSize {
			errs[1] = fmt.Errorf(
				"a page size of %d, which is %d in the other root",
				roots[1].pageSize,
				pageSize,
			)
		}
		return roots, errs, pageSize
	}
	errs[1] = errNoRoot
	for size := minPageSize; size <= maxPageSize; size *= 2 {
		root, err := read(int64(size))
		if err == nil && root.pageSize == size {
			roots[1], errs[1] = root, nil
			return roots, errs, size
		}
	}
	return roots, errs, 0
}

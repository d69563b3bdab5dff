// Before an index is opened with bbolt, all of it is looked at here.

package disk

import (
	"bytes"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"path/filepath"

	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
)

// tally is what an index holds, counted rather than believed.
type tally struct {
	routes   map[uint32]routeTotals // by number
	segments map[uint32]segmentStats
	prints   uint64 // the last sequence; 0 if there is none

	// unreadable is how many records cannot be read. Where their bodies are is then not known.
	unreadable int
}

// damagedIndex says that an index is damaged, where, and what to do.
func damagedIndex(path string, cause any) error {
	return fmt.Errorf("%s: %w: %v; %s", path, spool.ErrDamaged, cause, recoverAdvice(filepath.Dir(path)))
}

func recoverAdvice(dir string) string {
	return fmt.Sprintf("to save all that is whole, run: caddy deepgram-callback spool recover %s", dir)
}

// checkIndex looks without changing anything whether this is a whole index of ours.
func checkIndex(f io.ReaderAt, size int64, path string) (*tally, error) {
	if size == 0 { // which bbolt takes for a new one; ours are never empty
		return nil, fmt.Errorf("%s: %w: it is empty", path, spool.ErrForeign)
	}
	root, err := soundRoot(f)
	switch {
	case errors.Is(err, errNoRoot), errors.Is(err, errRootVersion):
		return nil, fmt.Errorf("%s: %w: %w", path, spool.ErrForeign, err)
	case err != nil:
		return nil, damagedIndex(path, err)
	}
	if needs := int64(root.pages) * int64(root.pageSize); size < needs {
		return nil, damagedIndex(path, fmt.Sprintf("%d bytes long instead of %d", size, needs))
	}

	c := newIndexCheck()
	t := newTree(f, root)
	t.entry = c.entry
	if err := t.walk(root.root); err != nil {
		return nil, damagedIndex(path, err)
	}
	if root.freelist != noFreelist {
		if err := t.freelist(root.freelist); err != nil {
			return nil, damagedIndex(path, err)
		}
	}
	if c.format != indexFormat {
		return nil, fmt.Errorf("%s: %w: its format is %q", path, spool.ErrForeign, c.format)
	}
	if err := c.links(); err != nil {
		return nil, damagedIndex(path, err)
	}
	return &c.tally, nil
}

// soundRoot returns the root page of the last transaction. Both must be whole: of one that is not,
// nobody knows whether it was the last, and the other is of a transaction before,
// without what was acknowledged since. A root is within one sector, so a power failure does not tear it.
func soundRoot(f io.ReaderAt) (rootPage, error) {
	roots, errs, _ := readRoots(f)
	for i, err := range errs {
		if err != nil {
			if errs[1-i] == nil && errors.Is(err, errNoRoot) {
				err = errors.New("not a root") // but this is an index
			}
			return rootPage{}, fmt.Errorf("root page %d: %w", i, err)
		}
	}
	if roots[1].transaction > roots[0].transaction {
		return roots[1], nil
	}
	return roots[0], nil
}

// indexCheck looks at the content of the buckets.
type indexCheck struct {
	tally
	format   string
	stored   map[uint32]*routeInfo // what the index says of routes, by their numbers
	known    map[uint32]bool       // segments
	oldOrder []byte                // route and order key of the entry before

	seed maphash.Seed

	// Of what is in two buckets, the sum of hashes in one and in the other.
	order, due, files link
}

// link compares two sets without keeping them.
type link struct{ has, wants uint64 }

func newIndexCheck() *indexCheck {
	return &indexCheck{
		tally:  tally{routes: make(map[uint32]routeTotals), segments: make(map[uint32]segmentStats)},
		stored: make(map[uint32]*routeInfo),
		known:  make(map[uint32]bool),
		seed:   maphash.MakeSeed(),
	}
}

func (c *indexCheck) hash(b []byte) uint64 { return maphash.Bytes(c.seed, b) }

// entryForms are the sizes of keys and values; a value of -1 may have any.
var entryForms = map[string][2]int{
	string(bucketRoutes): {-1, 4 + 5*8}, string(bucketFresh): {idKeySize, -1}, string(bucketParked): {idKeySize, -1},
	string(bucketOrder): {timeKeySize, 0}, string(bucketDue): {timeKeySize, -1}, string(bucketDead): {idKeySize, -1},
	string(bucketDied): {timeKeySize, 0}, string(bucketDamaged): {idKeySize, -1}, string(bucketPrints): {8, printSize},
	string(bucketSegments): {4, 24}, string(bucketFiles): {16, len(spool.ID{})},
}

// entry looks at one entry of a bucket.
func (c *indexCheck) entry(bucket string, key, value []byte, _ int64) error {
	if form, ok := entryForms[bucket]; ok {
		if form[0] >= 0 && len(key) != form[0] || form[1] >= 0 && len(value) != form[1] {
			return fmt.Errorf("an entry of %d and %d bytes", len(key), len(value))
		}
	}
	switch bucket {
	case string(bucketState):
		if bytes.Equal(key, stateFormat) {
			c.format = string(value)
		}
	case string(bucketRoutes):
		info := parseRouteInfo(string(key), value)
		if info.number == 0 || c.stored[info.number] != nil {
			return fmt.Errorf("the number %d for the route %q", info.number, key)
		}
		c.stored[info.number] = info
	case string(bucketFresh), string(bucketParked), string(bucketDead):
		c.message(bucket, key, value)
	case string(bucketDamaged):
		c.unreadable++
	case string(bucketOrder):
		c.order.has += c.hash(key)
		if prefix := key[:routeKeySize+8]; !bytes.Equal(prefix, c.oldOrder) { // the first of its order key
			c.oldOrder = append(c.oldOrder[:0], prefix...)
			c.due.wants += c.hash(key)
		}
	case string(bucketDue):
		if len(value) != 8 && len(value) != 16 { // without the destination, by an earlier version
			return fmt.Errorf("a value of %d bytes", len(value))
		}
		c.due.has += c.hash(orderKey(parseUint32(key), parseUint64(value), keyID(key)))
	case string(bucketPrints):
		c.prints = parseUint64(key)
	case string(bucketSegments):
		c.known[parseUint32(key)] = true
	case string(bucketFiles):
		c.files.has += c.hash(append(append(make([]byte, 0, 32), key...), value...))
	}
	return nil
}

// message counts a message, and what has to be in other buckets because of it.
func (c *indexCheck) message(bucket string, key, record []byte) {
	number, id := parseUint32(key), keyID(key)
	totals := c.tally.routes[number]
	defer func() { c.tally.routes[number] = totals }()
	intact := recordIntact(record)
	where := recordLocation(record)
	if !intact {
		c.unreadable++
		where.size = 0
	}
	switch bucket {
	case string(bucketDead):
		totals.dead++
		totals.deadBytes += where.size
	case string(bucketParked):
		totals.parked++
		c.order.wants += c.hash(orderKey(number, recordOrderKey(record), id))
		fallthrough
	default:
		totals.pending++
		totals.pendingBytes += where.size
	}
	switch {
	case !intact:
	case where.segment == 0:
		c.files.wants += c.hash(append(append(make([]byte, 0, 32), where.file[:]...), id[:]...))
	default:
		stats := c.tally.segments[where.segment]
		stats.live++
		stats.liveBytes += where.size + segmentHeader
		c.tally.segments[where.segment] = stats
	}
}

// links reports where buckets contradict each other, such that messages would be forgotten or their bodies
// swept away. A record that cannot be read does not tell what has to be elsewhere.
func (c *indexCheck) links() error {
	for number := range c.tally.routes {
		if c.stored[number] == nil {
			return fmt.Errorf("routes: none has the number %d, but messages do", number)
		}
	}
	for number := range c.tally.segments {
		if !c.known[number] {
			return fmt.Errorf("segments: %s is missing, but messages need it", segmentName(number))
		}
	}
	if c.unreadable > 0 {
		return nil
	}
	for number, info := range c.stored {
		if is, was := c.tally.routes[number], info.counts; is.pending != was.pending || is.parked != was.parked || is.dead != was.dead {
			return fmt.Errorf("routes: %q has %d pending (%d parked) and %d dead messages, but should have %d (%d) and %d",
				info.name, is.pending, is.parked, is.dead, was.pending, was.parked, was.dead)
		}
	}
	for bucket, l := range map[string]link{"order": c.order, "due": c.due, "files": c.files} {
		if l.has != l.wants {
			return fmt.Errorf("%s: not what the messages say", bucket)
		}
	}
	return nil
}

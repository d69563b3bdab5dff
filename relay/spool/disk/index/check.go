package index

import (
	"bytes"
	"errors"
	"fmt"
	"hash/maphash"
	"io"
	"path/filepath"

	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/disk/bodies"
)

// DamagedError says that an index is damaged, where, and what to do.
func DamagedError(path string, cause any) error {
	return fmt.Errorf(
		"%s: %w: %v; %s",
		path,
		spool.ErrDamaged,
		cause,
		recoverAdvice(filepath.Dir(path)),
	)
}

func recoverAdvice(dir string) string {
	return fmt.Sprintf("to save all that is whole, run: caddy deepgram-callback spool recover %s", dir)
}

// checkIndex looks without changing anything whether this is a whole index of ours.
func checkIndex(f io.ReaderAt, size int64, path string) (*Tally, error) {
	if size == 0 { // which bbolt takes for a new one; ours are never empty
		return nil, fmt.Errorf("%s: %w: it is empty", path, spool.ErrForeign)
	}
	root, err := soundRoot(f)
	switch {
	case errors.Is(err, errNoRoot), errors.Is(err, errRootVersion):
		return nil, fmt.Errorf("%s: %w: %w", path, spool.ErrForeign, err)
	case err != nil:
		return nil, DamagedError(path, err)
	}
	if needs := int64(root.pages) * int64(root.pageSize); size < needs {
		return nil, DamagedError(path, fmt.Sprintf("%d bytes long instead of %d", size, needs))
	}

	c := newIndexCheck()
	t := newTree(f, root)
	t.entry = c.entry
	if err := t.walk(root.root); err != nil {
		return nil, DamagedError(path, err)
	}
	if root.freelist != noFreelist {
		if err := t.freelist(root.freelist); err != nil {
			return nil, DamagedError(path, err)
		}
	}
	if c.format != indexFormat {
		return nil, fmt.Errorf("%s: %w: its format is %q", path, spool.ErrForeign, c.format)
	}
	if err := c.links(); err != nil {
		return nil, DamagedError(path, err)
	}
	return &c.Tally, nil
}

// soundRoot returns the root page of the last transaction. Both must be whole: of one that is
// not, nobody knows whether it was the last, and the other is of a transaction before, without
// what was acknowledged since. A root is within one sector, so a power failure does not tear it.
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
	Tally
	format   string
	stored   map[uint32]*RouteInfo // what the index says of routes, by their numbers
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
		Tally:  Tally{Routes: make(map[uint32]routeTotals), Segments: make(map[uint32]bodies.Stats)},
		stored: make(map[uint32]*RouteInfo),
		known:  make(map[uint32]bool),
		seed:   maphash.MakeSeed(),
	}
}

func (c *indexCheck) hash(b []byte) uint64 { return maphash.Bytes(c.seed, b) }

// entryForms are the sizes of keys and values; -1 is any size. Whoever changes what a bucket
// holds has to change its form here.
var entryForms = [Count]struct{ key, value int }{
	State:    {-1, -1},
	Routes:   {-1, -1}, // see below
	Fresh:    {idKeySize, -1},
	Parked:   {idKeySize, -1},
	Order:    {timeKeySize, 0},
	Due:      {timeKeySize, -1},
	Dead:     {idKeySize, -1},
	Died:     {timeKeySize, 0},
	Damaged:  {idKeySize, -1},
	Prints:   {8, printSize},
	Segments: {4, 24},
	Files:    {16, len(spool.ID{})},
	Kept:     {idKeySize, -1},
	Again:    {timeKeySize, 8},
	Paused:   {-1, 0},
	Streams:  {-1, -1},
	Imported: {len(spool.ID{}), 8},
}

// checkForm looks at the sizes of an entry of a bucket.
func (b Bucket) checkForm(key, value []byte) error {
	form := entryForms[b]
	if form.key >= 0 && len(key) != form.key || form.value >= 0 && len(value) != form.value {
		return fmt.Errorf("an entry of %d and %d bytes", len(key), len(value))
	}
	if b == Routes && len(value) != routeInfoSize && len(value) != routeInfoSize1 {
		return fmt.Errorf("an entry of %d and %d bytes", len(key), len(value))
	}
	return nil
}

// entry looks at one entry of a bucket. What is no bucket of ours is left alone.
func (c *indexCheck) entry(name string, key, value []byte, _ int64) error {
	b, known := bucketNamed(name)
	if !known {
		return nil
	}
	if err := b.checkForm(key, value); err != nil {
		return err
	}
	switch b {
	case State:
		if bytes.Equal(key, stateFormat) {
			c.format = string(value)
		}
	case Routes:
		info := ParseRouteInfo(string(key), value)
		if info.Number == 0 || c.stored[info.Number] != nil {
			return fmt.Errorf("the number %d for the route %q", info.Number, key)
		}
		c.stored[info.Number] = info
	case Fresh, Parked, Dead, Kept:
		c.message(b, key, value)
	case Damaged:
		c.Unreadable++
	case Order:
		c.order.has += c.hash(key)
		if prefix := key[:routeKeySize+8]; !bytes.Equal(
			prefix,
			c.oldOrder,
		) { // the first of its order key
			c.oldOrder = append(c.oldOrder[:0], prefix...)
			c.due.wants += c.hash(key)
		}
	case Due, Again:
		if len(value) != 8 && len(value) != 16 { // without the destination, by an earlier version
			return fmt.Errorf("a value of %d bytes", len(value))
		}
		c.due.has += c.hash(orderKey(Uint32(key), Uint64(value), KeyID(key)))
	case Prints:
		c.Prints = Uint64(key)
	case Segments:
		c.known[Uint32(key)] = true
	case Files:
		c.files.has += c.hash(append(append(make([]byte, 0, 32), key...), value...))
	}
	return nil
}

// message counts a message, and what has to be in other buckets because of it.
func (c *indexCheck) message(b Bucket, key, record []byte) {
	number, id := Uint32(key), KeyID(key)
	totals := c.Tally.Routes[number]
	defer func() { c.Tally.Routes[number] = totals }()
	intact := Record(record).Intact()
	where := Record(record).Location()
	if !intact {
		c.Unreadable++
		where.Size = 0
	}
	if request := Record(record).RequestID(); intact && request != "" {
		c.Requests = append(c.Requests, Request{id, HashRequest(request)})
	}
	switch b {
	case Kept:
		totals.Delivered++
		totals.DeliveredBytes += where.Size
	case Dead:
		totals.Dead++
		totals.DeadBytes += where.Size
	case Parked:
		totals.Parked++
		c.order.wants += c.hash(orderKey(number, Record(record).OrderKey(), id))
		fallthrough
	default:
		totals.Pending++
		totals.PendingBytes += where.Size
	}
	switch {
	case !intact:
	case where.Segment == 0:
		c.files.wants += c.hash(append(append(make([]byte, 0, 32), where.File[:]...), id[:]...))
	default:
		c.Tally.Segments[where.Segment] = c.Tally.Segments[where.Segment].With(where)
	}
}

// links reports where buckets contradict each other, such that messages would be forgotten or
// their bodies swept away. A record that cannot be read does not tell what has to be elsewhere.
func (c *indexCheck) links() error {
	for number := range c.Tally.Routes {
		if c.stored[number] == nil {
			return fmt.Errorf("routes: none has the number %d, but messages do", number)
		}
	}
	for number := range c.Tally.Segments {
		if !c.known[number] {
			return fmt.Errorf("segments: %s is missing, but messages need it", bodies.SegmentName(number))
		}
	}
	if c.Unreadable > 0 {
		return nil
	}
	for number, info := range c.stored {
		if is, was := c.Tally.Routes[number], info.Counts; is.Pending != was.Pending || is.Parked != was.Parked ||
			is.Dead != was.Dead ||
			is.Delivered != was.Delivered {
			return fmt.Errorf("routes: %q has %d pending (%d parked), %d dead and %d delivered messages, "+
				"but should have %d (%d), %d and %d", info.Name, is.Pending, is.Parked, is.Dead, is.Delivered,
				was.Pending, was.Parked, was.Dead, was.Delivered)
		}
	}
	for b, l := range map[Bucket]link{Order: c.order, Due: c.due, Files: c.files} {
		if l.has != l.wants {
			return fmt.Errorf("%s: not what the messages say", b)
		}
	}
	return nil
}

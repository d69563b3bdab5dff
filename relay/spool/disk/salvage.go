// What is left in a damaged index.

package disk

import (
	"cmp"
	"fmt"
	"io"
	"slices"

	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
)

// salvage looks for messages in the file of an index: first along the tree, as far as it goes; then, for the
// parts of it that are damaged, in all pages that the tree does not lead to. There, old copies of
// pages lie around too, with messages that were delivered long ago; so nothing
// is taken from them but what was in the damaged parts by its key.
type salvage struct {
	file     io.ReaderAt
	size     int64
	pageSize int64
	seen     pageSet // pages that the tree leads to
	note     func(format string, args ...any)

	messages []foundMessage   // by rising id
	known    map[spool.ID]int // where in messages
	prints   []printEntry
	names    map[uint32]string
	totals   map[uint32]routeTotals
	lastID   spool.ID

	lost       map[string][]keyRange // what is damaged of each bucket
	everything bool                  // is damaged: there is no tree
	since      bool                  // what was accepted after lastID may be lost too

	parkedKeys map[parkedKey]bool
}

type parkedKey struct {
	route uint32
	order uint64
}

// foundMessage is a record in the file.
type foundMessage struct {
	id     spool.ID
	route  uint32
	size   uint32
	at     int64
	dead   bool
	parked bool
	orphan bool // not found along the tree
}

// printEntry is a fingerprint.
type printEntry struct {
	fingerprint spool.Fingerprint
	id          spool.ID
}

func newSalvage(file io.ReaderAt, size int64, note func(string, ...any)) *salvage {
	return &salvage{
		file: file, size: size, note: note,
		known:      make(map[spool.ID]int),
		names:      make(map[uint32]string),
		totals:     make(map[uint32]routeTotals),
		lost:       make(map[string][]keyRange),
		parkedKeys: make(map[parkedKey]bool),
	}
}

// search does all the looking.
func (s *salvage) search() {
	root, ok := s.bestRoot()
	if ok {
		t := newTree(s.file, root)
		t.entry = s.entry
		t.lost = func(bucket string, keys keyRange, cause error) {
			s.note("%s: %s: %v", indexName, cmp.Or(bucket, "root"), cause)
			s.lost[bucket] = append(s.lost[bucket], keys)
		}
		if err := t.walk(root.root); err != nil {
			s.everything = true
		}
		s.everything = s.everything || len(s.lost[""]) > 0
		s.seen = t.seen
	}
	if s.lostAnything() {
		s.carve()
	}
	for _, m := range s.messages {
		if s.names[m.route] == "" {
			s.searchNames()
			break
		}
	}
	slices.SortFunc(s.messages, func(a, b foundMessage) int { return a.id.Compare(b.id) })
	s.noteParked()
}

// bestRoot returns the root page to begin with.
func (s *salvage) bestRoot() (root rootPage, ok bool) {
	roots, errs, pageSize := readRoots(s.file)
	s.pageSize = int64(cmp.Or(pageSize, 4096))
	for i, err := range errs {
		if err != nil {
			s.note("%s: root page %d: %v", indexName, i, err)
			s.since = true
		}
	}
	switch {
	case errs[0] != nil && errs[1] != nil:
		s.everything = true
		return root, false
	case errs[0] != nil || errs[1] == nil && roots[1].transaction > roots[0].transaction:
		root = roots[1]
	default:
		root = roots[0]
	}
	return root, true
}

// entry takes one entry of the tree.
func (s *salvage) entry(bucket string, key, value []byte, at int64) error {
	if form, ok := entryForms[bucket]; ok {
		if form[0] >= 0 && len(key) != form[0] || form[1] >= 0 && len(value) != form[1] {
			return fmt.Errorf("an entry of %d and %d bytes", len(key), len(value))
		}
	}
	switch bucket {
	case string(bucketFresh), string(bucketParked), string(bucketDead), string(bucketDamaged):
		s.add(foundMessage{
			id: keyID(key), route: parseUint32(key), at: at, size: uint32(len(value)),
			dead: bucket == string(bucketDead), parked: bucket == string(bucketParked),
		})
	case string(bucketRoutes):
		info := parseRouteInfo(string(key), value)
		s.names[info.number], s.totals[info.number] = info.name, info.counts
	case string(bucketPrints):
		s.prints = append(s.prints, printEntry{spool.Fingerprint(value[:len(spool.Fingerprint{})]), spool.ID(value[len(spool.Fingerprint{}):])})
	case string(bucketState):
		if string(key) == string(stateLastID) && len(value) == len(spool.ID{}) {
			s.lastID = spool.ID(value)
		}
	}
	return nil
}

// add keeps a message, of several with an id the one that came last.
func (s *salvage) add(m foundMessage) {
	i, known := s.known[m.id]
	if !known {
		s.known[m.id] = len(s.messages)
		s.messages = append(s.messages, m)
		return
	}
	if old := s.messages[i]; !old.orphan && s.isWhole(&old) || !s.isWhole(&m) || s.isWhole(&old) && s.age(&old) >= s.age(&m) {
		return
	}
	s.messages[i] = m
}

// has reports whether a record of a message was found.
func (s *salvage) has(id spool.ID) bool {
	_, known := s.known[id]
	return known
}

func (s *salvage) isWhole(m *foundMessage) bool {
	_, err := s.message(m)
	return err == nil
}

// age tells two records of one message apart: every change makes it greater.
func (s *salvage) age(m *foundMessage) int64 {
	msg, err := s.message(m)
	if err != nil {
		return 0
	}
	return unixNano(msg.ScheduledFrom) + int64(msg.Attempts)
}

// message reads a message.
func (s *salvage) message(found *foundMessage) (*entry, error) {
	if found.size > maxPageBytes {
		return nil, fmt.Errorf("its record: %w", spool.ErrDamaged)
	}
	record := make([]byte, found.size)
	if n, _ := s.file.ReadAt(record, found.at); n < len(record) {
		return nil, fmt.Errorf("its record: %w: it cannot be read", spool.ErrDamaged)
	}
	m, err := parseRecord(record)
	if err != nil {
		return nil, fmt.Errorf("its record: %w: %w", spool.ErrDamaged, err)
	}
	m.ID, m.Route, m.State = found.id, s.routeName(found.route), spool.Pending
	if found.dead {
		m.State = spool.Dead
	}
	return m, nil
}

func (s *salvage) routeName(number uint32) string {
	return cmp.Or(s.names[number], fmt.Sprintf("recovered-%d", number))
}

// lostAnything reports whether there may be messages that the tree does not lead to.
func (s *salvage) lostAnything() bool {
	return s.everything || s.since || len(s.lost[string(bucketFresh)])+len(s.lost[string(bucketParked)])+len(s.lost[string(bucketDead)]) > 0
}

// mayBeLostOf reports whether a message may have been in a part that is lost.
func (s *salvage) mayBeLostOf(route uint32, id spool.ID) bool {
	if s.everything || s.since && id.Compare(s.lastID) > 0 {
		return true
	}
	key := idKey(route, id)
	for _, bucket := range [...][]byte{bucketFresh, bucketParked, bucketDead} {
		for _, keys := range s.lost[string(bucket)] {
			if keys.contains(key) {
				return true
			}
		}
	}
	return false
}

// mayBeLost is that for a message whose route is not known.
func (s *salvage) mayBeLost(id spool.ID) bool {
	if s.mayBeLostOf(0, id) {
		return true
	}
	for route := range s.names {
		if s.mayBeLostOf(route, id) {
			return true
		}
	}
	return false
}

const (
	maxRecord    = 1 << 20 // a record that is longer is not looked for outside of the tree
	maxRouteName = 1 << 10
)

// carve looks for records in what the tree does not lead to, at every byte: a record is known by its checksum, and
// its key stands before it.
func (s *salvage) carve() {
	for from, to := range s.unseen() {
		_ = eachWindow(s.file, from, to, idKeySize+maxRecord, func(b []byte, base int64, enough int) (int, error) {
			at := 0
			for at < enough {
				n := recordBehindKey(b[at:])
				if n == 0 {
					at++
					continue
				}
				s.orphan(b[at:at+idKeySize], b[at+idKeySize:at+idKeySize+n], base+int64(at)+idKeySize)
				at += idKeySize + n
			}
			return at, nil
		})
	}
}

// unseen yields the parts of the file that the tree does not lead to.
func (s *salvage) unseen() func(yield func(from, to int64) bool) {
	return func(yield func(int64, int64) bool) {
		pages := (s.size + s.pageSize - 1) / s.pageSize
		begin := int64(-1)
		for page := range pages + 1 {
			taken := page == pages || uint64(page) < uint64(len(s.seen))*64 && s.seen.has(uint64(page))
			switch {
			case !taken && begin < 0:
				begin = page
			case taken && begin >= 0:
				if !yield(begin*s.pageSize, min(page*s.pageSize, s.size)) {
					return
				}
				begin = -1
			}
		}
	}
}

// orphan takes a record that the tree does not lead to, if it may be one that was lost.
func (s *salvage) orphan(key, record []byte, at int64) {
	m := foundMessage{
		id: keyID(key), route: parseUint32(key), at: at, size: uint32(len(record)),
		dead: recordDiedAt(record) != 0, parked: recordNextAttempt(record) != 0, orphan: true,
	}
	if s.mayBeLostOf(m.route, m.id) {
		s.add(m)
	}
}

// recordBehindKey returns the length of the record at the beginning of b, behind the key of a message. It is 0
// if there is none.
func recordBehindKey(b []byte) int {
	if len(b) < idKeySize+recordFixed1 || b[idKeySize] != recordVersion && b[idKeySize] != recordVersion1 ||
		b[routeKeySize+6]>>4 != 7 || b[routeKeySize+8]>>6 != 2 { // an id is a UUID of version 7
		return 0
	}
	b = b[idKeySize:]
	texts := recordTexts(b)
	if texts == 0 {
		return 0
	}
	for _, window := range [...]int{4 << 10, 64 << 10, maxRecord} {
		r := textReader{rest: string(b[texts:min(window, len(b))])}
		whole := len(r.rest)
		if r.message(new(entry), b[0]); r.bad {
			if window >= len(b) {
				break
			}
			continue
		}
		if n := texts + whole - len(r.rest); recordIntact(b[:n]) {
			return n
		}
		break
	}
	return 0
}

// searchNames looks for the names of routes in every page, old ones too, as a
// route has one number for good.
func (s *salvage) searchNames() {
	take := func(p page) {
		for i := range p.count {
			flags, key, value, ok := p.leaf(i)
			number := parseUint32(value)
			if ok && flags == 0 && len(value) == entryForms[string(bucketRoutes)][1] && number != 0 && len(key) <= maxRouteName && s.names[number] == "" {
				s.names[number] = string(key)
			}
		}
	}
	b := make([]byte, s.pageSize)
	for at := int64(0); at < s.size; at += s.pageSize {
		if n, _ := s.file.ReadAt(b, at); n < len(b) {
			continue
		}
		p := parsePage(b)
		if p.kind != leafPage || !p.hasElements() {
			continue
		}
		take(p)
		for i := range p.count { // a small bucket is within the element of its name
			flags, key, value, ok := p.leaf(i)
			if ok && flags == bucketElement && string(key) == string(bucketRoutes) && len(value) >= bucketHeader+pageHeader {
				if p := parsePage(value[bucketHeader:]); p.hasElements() {
					take(p)
				}
			}
		}
	}
}

// noteParked notes of which order keys there is something parked, so that nothing of them comes before it.
func (s *salvage) noteParked() {
	for i := range s.messages {
		found := &s.messages[i]
		if !found.parked || found.dead {
			continue
		}
		if m, err := s.message(found); err == nil {
			s.parkedKeys[parkedKey{found.route, m.OrderKey}] = true
		}
	}
}

// bucket returns where a message belongs: everything of an order key is parked where one of it is.
func (s *salvage) bucket(m *entry, found *foundMessage) []byte {
	switch {
	case found.dead:
		return bucketDead
	case s.parkedKeys[parkedKey{found.route, m.OrderKey}]:
		return bucketParked
	}
	return bucketFresh
}

// What is left in a damaged index.

package index

import (
	"bytes"
	"cmp"
	"fmt"
	"io"
	"slices"

	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
)

// Salvage looks for messages in the file of an index: first along the tree, as far as it goes;
// then, for the parts of it that are damaged, in all pages that the tree does not lead to. There,
// old copies of pages lie around too, with messages that were delivered long ago; so nothing is
// taken from them but what was in the damaged parts by its key.
type Salvage struct {
	file     io.ReaderAt
	size     int64
	pageSize int64
	seen     pageSet // pages that the tree leads to
	note     func(format string, args ...any)

	Messages []Found          // by rising id
	known    map[spool.ID]int // where in messages
	Prints   []spool.Print
	Paused   []string // names of routes
	Streams  []spool.OpenStream
	names    map[uint32]string
	Totals   map[uint32]routeTotals
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

// Found is a record in the file.
type Found struct {
	ID     spool.ID
	Route  uint32
	size   uint32
	at     int64
	state  spool.State
	parked bool
	Orphan bool // not found along the tree
}

func NewSalvage(file io.ReaderAt, size int64, note func(string, ...any)) *Salvage {
	return &Salvage{
		file: file, size: size, note: note,
		known:      make(map[spool.ID]int),
		names:      make(map[uint32]string),
		Totals:     make(map[uint32]routeTotals),
		lost:       make(map[string][]keyRange),
		parkedKeys: make(map[parkedKey]bool),
	}
}

// Search does all the looking.
func (s *Salvage) Search() {
	root, ok := s.bestRoot()
	if ok {
		t := newTree(s.file, root)
		t.entry = s.entry
		t.lost = func(bucket string, keys keyRange, cause error) {
			s.note("%s: %s: %v", FileName, cmp.Or(bucket, "root"), cause)
			s.lost[bucket] = append(s.lost[bucket], keys)
		}
		if err := t.walk(root.root); err != nil {
			s.everything = true
		}
		s.everything = s.everything || len(s.lost[""]) > 0
		s.seen = t.seen
	}
	if s.LostAnything() {
		s.carve()
	}
	for _, m := range s.Messages {
		if s.names[m.Route] == "" {
			s.searchNames()
			break
		}
	}
	slices.SortFunc(s.Messages, func(a, b Found) int { return a.ID.Compare(b.ID) })
	s.noteParked()
}

// bestRoot returns the root page to begin with.
func (s *Salvage) bestRoot() (root rootPage, ok bool) {
	roots, errs, pageSize := readRoots(s.file)
	s.pageSize = int64(cmp.Or(pageSize, 4096))
	for i, err := range errs {
		if err != nil {
			s.note("%s: root page %d: %v", FileName, i, err)
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
func (s *Salvage) entry(name string, key, value []byte, at int64) error {
	b, known := bucketNamed(name)
	if !known {
		return nil
	}
	if err := b.checkForm(key, value); err != nil {
		return err
	}
	switch b {
	case Fresh, Parked, Dead, Damaged, Kept:
		s.add(Found{
			ID: KeyID(key), Route: Uint32(key), at: at, size: uint32(len(value)),
			state: b.MessageState(), parked: b == Parked,
		})
	case Paused:
		s.Paused = append(s.Paused, string(key))
	case Streams:
		s.Streams = append(s.Streams, ParseStream(key, bytes.Clone(value)))
	case Routes:
		info := ParseRouteInfo(string(key), value)
		s.names[info.Number], s.Totals[info.Number] = info.Name, info.Counts
	case Prints:
		if p, ok := ParsePrint(value); ok {
			s.Prints = append(s.Prints, p)
		}
	case State:
		if string(key) == string(LastID) && len(value) == len(spool.ID{}) {
			s.lastID = spool.ID(value)
		}
	}
	return nil
}

// add keeps a message, of several with an id the one that came last.
func (s *Salvage) add(m Found) {
	i, known := s.known[m.ID]
	if !known {
		s.known[m.ID] = len(s.Messages)
		s.Messages = append(s.Messages, m)
		return
	}
	if old := s.Messages[i]; !old.Orphan && s.isWhole(&old) || !s.isWhole(&m) ||
		s.isWhole(&old) && s.age(&old) >= s.age(&m) {
		return
	}
	s.Messages[i] = m
}

// Has reports whether a record of a message was found.
func (s *Salvage) Has(id spool.ID) bool {
	_, known := s.known[id]
	return known
}

func (s *Salvage) isWhole(m *Found) bool {
	_, err := s.Message(m)
	return err == nil
}

// age tells two records of one message apart: every change makes it greater.
func (s *Salvage) age(m *Found) int64 {
	msg, err := s.Message(m)
	if err != nil {
		return 0
	}
	return UnixNano(msg.ScheduledFrom) + int64(msg.Tries)
}

// Message reads a message.
func (s *Salvage) Message(found *Found) (*Entry, error) {
	if found.size > maxPageBytes {
		return nil, fmt.Errorf("its record: %w", spool.ErrDamaged)
	}
	record := make([]byte, found.size)
	if n, _ := s.file.ReadAt(record, found.at); n < len(record) {
		return nil, fmt.Errorf("its record: %w: it cannot be read", spool.ErrDamaged)
	}
	m, err := ParseRecord(record)
	if err != nil {
		return nil, fmt.Errorf("its record: %w: %w", spool.ErrDamaged, err)
	}
	m.ID, m.Route, m.State = found.ID, s.RouteName(found.Route), found.state
	return m, nil
}

func (s *Salvage) RouteName(number uint32) string {
	return cmp.Or(s.names[number], fmt.Sprintf("recovered-%d", number))
}

// LostAnything reports whether there may be messages that the tree does not lead to.
func (s *Salvage) LostAnything() bool {
	return s.everything || s.since ||
		len(s.lost[Fresh.String()])+len(s.lost[Parked.String()])+
			len(s.lost[Dead.String()])+len(s.lost[Kept.String()]) > 0
}

// MayBeLostOf reports whether a message may have been in a part that is lost.
func (s *Salvage) MayBeLostOf(route uint32, id spool.ID) bool {
	if s.everything || s.since && id.Compare(s.lastID) > 0 {
		return true
	}
	key := IDKey(route, id)
	for _, b := range [...]Bucket{Fresh, Parked, Dead, Kept} {
		for _, keys := range s.lost[b.String()] {
			if keys.contains(key) {
				return true
			}
		}
	}
	return false
}

// MayBeLost is that for a message whose route is not known.
func (s *Salvage) MayBeLost(id spool.ID) bool {
	if s.MayBeLostOf(0, id) {
		return true
	}
	for route := range s.names {
		if s.MayBeLostOf(route, id) {
			return true
		}
	}
	return false
}

// noteParked notes of which order keys there is something parked, so that nothing of them comes
// before it.
func (s *Salvage) noteParked() {
	for i := range s.Messages {
		found := &s.Messages[i]
		if !found.parked || found.state != spool.Pending {
			continue
		}
		if m, err := s.Message(found); err == nil {
			s.parkedKeys[parkedKey{found.Route, m.OrderKey}] = true
		}
	}
}

// Bucket returns where a message belongs: everything of an order key is parked where one of it is.
func (s *Salvage) Bucket(m *Entry, found *Found) Bucket {
	switch {
	case found.state == spool.Dead:
		return Dead
	case found.state == spool.Delivered:
		return Kept
	case s.parkedKeys[parkedKey{found.Route, m.OrderKey}]:
		return Parked
	}
	return Fresh
}

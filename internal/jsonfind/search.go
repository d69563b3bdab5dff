// Package jsonfind finds strings at known places of a JSON object that streams
// by, in memory that does not grow with the object. It keeps no more of the
// object than the one name or string that it is reading, and that only up to a
// limit, so it can look through what a stranger sends.
//
//	search.go  what is searched: read this first
//	finder.go  the search through one document
//
// A [Search] is made once. Each document gets a [Finder], which is given the
// document in pieces of any size and says what it found:
//
//	finder := search.Finder()
//	for {
//		n, event := finder.Scan(piece)
//		piece = piece[n:]
//		switch event { … }
//	}
//
// Around the places the grammar of RFC 8259 is enforced. Of everything else only
// the nesting is counted and strings are recognised, since all that matters
// there is where it ends. A parser that validates the whole document, such as
// encoding/json/v2's, has to hold each string of it in memory, and takes several
// times as long.
package jsonfind

// A Place is where a string may stand.
type Place struct {
	// The names of the members that lead there from the top-level object. One
	// place must not lie on the way to another.
	Path []string

	// The most bytes that the string may have, as it is spelt in the document.
	Limit int
}

// Repeated says what becomes of members whose name stood in the same object
// before.
type Repeated bool

const (
	// FirstCounts ignores them: once the first member of a name has ended, what
	// is at the places below it is known.
	FirstCounts Repeated = false

	// AllCount looks into them too.
	AllCount Repeated = true
)

// A Search is a set of places. It can be used by several goroutines at once.
type Search struct {
	root     node
	repeated Repeated
	longest  int // of the names on the paths
	nodes    int // below the root
}

// node is a name on a path, or the top-level object.
type node struct {
	name     string
	bit      uint64 // this node's own
	children []*node
	place    int    // of a leaf: which place it is
	limit    int    // of a leaf
	leaves   uint64 // a bit for each place at or below this node
}

// New makes the search for places. All their paths together have at most 64
// different names, and each of them at most 4.
func New(repeated Repeated, places ...Place) *Search {
	s := &Search{repeated: repeated}
	for i, place := range places {
		s.add(i, place)
	}
	return s
}

func (s *Search) add(index int, place Place) {
	bit := uint64(1) << index
	at := &s.root
	at.leaves |= bit
	for _, name := range place.Path {
		next := at.child(name)
		if next == nil {
			s.nodes++
			next = &node{name: name, bit: 1 << (s.nodes - 1)}
			at.children = append(at.children, next)
		}
		next.leaves |= bit
		s.longest = max(s.longest, len(name))
		at = next
	}
	at.place, at.limit = index, place.Limit
}

func (n *node) child(name string) *node {
	for _, child := range n.children {
		if child.name == name {
			return child
		}
	}
	return nil
}

// leaf reports whether the node is a place and not only on the way to one.
func (n *node) leaf() bool { return len(n.children) == 0 }

// Finder begins a search through one document.
func (s *Search) Finder() Finder { return Finder{search: s} }

// Package jsonfind finds strings at known places of a JSON object that comes in
// pieces. It keeps no more of the object than the name or string that it is
// reading, and of that no more than a limit: so it can look through what a stranger
// sends.
//
//	search.go  what is searched: read this first
//	finder.go  the search through one document
//
// A [Search] is made once. For each document there is a [Finder], which gets the
// document in pieces of any size and tells what it finds:
//
//	finder := search.Finder()
//	for {
//		n, event := finder.Scan(piece)
//		piece = piece[n:]
//		switch event { … }
//	}
//
// In the objects on the way to the places, the grammar of RFC 8259 is enforced. In
// everything else, only strings and brackets are recognised, to find its end. A
// parser that validates the whole document, such as encoding/json/v2's, holds each
// string in memory, and takes several times as long.
package jsonfind

// A Place is where a string may stand.
type Place struct {
	// The names of the members that lead to it from the top-level object. One
	// place must not be on the way to another.
	Path []string

	// How many bytes the string may have, as it stands in the document.
	Limit int
}

// Repeated says what happens to a member whose name another one of the same object
// has, which came before.
type Repeated bool

const (
	// FirstCounts ignores it.
	FirstCounts Repeated = false

	// AllCount looks into it too.
	AllCount Repeated = true
)

// A Search is a set of places. It can be used by several goroutines at once.
type Search struct {
	root     node
	repeated Repeated
	longest  int // the length of the longest name on a path
	nodes    int // how many nodes there are below the root
}

// node is a name on a path, or the top-level object.
type node struct {
	name     string
	bit      uint64 // a bit of its own, for Finder.seen
	children []*node
	place    int    // the number of the place, for a leaf
	limit    int    // the limit of the place, for a leaf
	leaves   uint64 // a bit for each place at or below this node
}

// New makes a search for places. Each path may have 4 names, and all paths together
// may have 64 different nodes.
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

// leaf reports whether the node is a place, and not only on the way to one.
func (n *node) leaf() bool { return len(n.children) == 0 }

// Finder begins a search through one document.
func (s *Search) Finder() Finder { return Finder{search: s} }

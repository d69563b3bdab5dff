// The buckets of the index, and what is in them.

package index

import (
	"slices"

	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
)

// Bucket is one of the buckets of the index. Numbers in keys are big endian, so that the order of
// keys is the order of numbers.
type Bucket uint8

// The buckets, and what is in them.
const (
	State    Bucket = iota // "format", "last_id", "print_sequence"
	Routes                 // name → number and counts
	Fresh                  // route, id → record: never tried, in order of acceptance
	Parked                 // route, id → record: waits for another attempt, or behind one that does
	Order                  // route, order key, id → nothing: the parked by their order key
	Due                    // route, time, id → order key: for each order key its first parked one
	Dead                   // route, id → record
	Died                   // route, time, id → nothing
	Damaged                // route, id → record that an earlier version could not read
	Prints                 // sequence → fingerprint, id
	Segments               // number → size and counts
	Files                  // name of a body file → id
	Kept                   // route, id → record: delivered, and kept for a time
	Again                  // as Due, of those whose first parked one was replayed
	Paused                 // name of a route → nothing
	Streams                // id of a live stream → name of its route, and data
	Imported               // id → when it came from another store, in nanoseconds

	Count // how many there are
)

// bucketNames are the names of the buckets in the file.
var bucketNames = [Count]string{
	State: "state", Routes: "routes", Fresh: "fresh", Parked: "parked",
	Order: "order", Due: "due", Dead: "dead", Died: "died",
	Damaged: "damaged", Prints: "prints", Segments: "segments",
	Files: "files", Kept: "kept", Again: "again", Paused: "paused", Streams: "streams",
	Imported: "imported",
}

// String returns the name of the bucket in the file.
func (b Bucket) String() string { return bucketNames[b] }

// MessageState is that of the messages in the bucket.
func (b Bucket) MessageState() spool.State {
	switch b {
	case Dead:
		return spool.Dead
	case Kept:
		return spool.Delivered
	}
	return spool.Pending
}

// Buckets are those in which messages of a state are: all of them for no state.
func Buckets(state spool.State) []Bucket {
	switch state {
	case spool.Pending:
		return []Bucket{Fresh, Parked}
	case spool.Dead:
		return []Bucket{Dead}
	case spool.Delivered:
		return []Bucket{Kept}
	}
	return []Bucket{Fresh, Parked, Dead, Kept}
}

// bucketNamed returns the bucket that has a name in the file. It is not ok for what is no
// bucket of ours.
func bucketNamed(name string) (b Bucket, ok bool) {
	i := slices.Index(bucketNames[:], name)
	return Bucket(max(i, 0)), i >= 0
}

// The keys in the bucket of the state.
var (
	stateFormat   = []byte("format")
	LastID        = []byte("last_id")
	PrintSequence = []byte("print_sequence")
)

// Package requests knows which messages have a request id: in memory, to find them however many
// there are. It has a lock of its own, under which it calls nobody: every method may be called from
// any goroutine, and under any lock. What it finds are candidates, which the index has to confirm.
package requests

import (
	"encoding/binary"
	"slices"
	"sync"

	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/disk/index"
)

// Table has 12 bytes for each message with a request id: the upper half of its id, which is that
// of another one only where one of them is from another store, and a hash of the request id. To look
// through a million takes about a millisecond, and nothing is written for it: it is read from the
// index when that is opened.
type Table struct {
	mu     sync.RWMutex
	ids    []uint64 // rising
	hashes []uint32 // 0: the message is gone
	gone   int
}

func upper(id spool.ID) uint64 { return binary.BigEndian.Uint64(id[:8]) }

// Load takes what was found in an index.
func (r *Table) Load(found []index.Request) {
	slices.SortFunc(found, func(a, b index.Request) int { return a.ID.Compare(b.ID) })
	r.mu.Lock()
	defer r.mu.Unlock()
	r.gone = 0
	r.ids, r.hashes = make([]uint64, len(found)), make([]uint32, len(found))
	for i, f := range found {
		r.ids[i], r.hashes[i] = upper(f.ID), f.Hash
	}
}

// Add notes a message.
func (r *Table) Add(id spool.ID, request string) {
	if request == "" {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	at := len(r.ids)
	if at > 0 && r.ids[at-1] >= upper(id) { // of another store
		at, _ = slices.BinarySearch(r.ids, upper(id))
	}
	hash := index.HashRequest(request)
	r.ids, r.hashes = slices.Insert(r.ids, at, upper(id)), slices.Insert(r.hashes, at, hash)
}

// Remove forgets a message, if it is known. Of several with the same upper half nobody can tell which
// one it is: what is too much here is not found in the index.
func (r *Table) Remove(id spool.ID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	at, known := slices.BinarySearch(r.ids, upper(id))
	if !known || r.hashes[at] == 0 || at+1 < len(r.ids) && r.ids[at+1] == upper(id) {
		return
	}
	r.hashes[at] = 0
	if r.gone++; r.gone > 1024 && r.gone > len(r.ids)/2 {
		r.compact()
	}
}

func (r *Table) compact() {
	n := 0
	for i, hash := range r.hashes {
		if hash != 0 {
			r.ids[n], r.hashes[n] = r.ids[i], hash
			n++
		}
	}
	r.ids, r.hashes, r.gone = slices.Clone(r.ids[:n]), slices.Clone(r.hashes[:n]), 0
}

// Find returns the upper halves of the ids of messages that may have a request id, in rising order,
// or falling.
func (r *Table) Find(request string, falling bool) []uint64 {
	hash := index.HashRequest(request)
	r.mu.RLock()
	defer r.mu.RUnlock()
	var found []uint64
	for i, h := range r.hashes {
		if h == hash && (len(found) == 0 || found[len(found)-1] != r.ids[i]) {
			found = append(found, r.ids[i])
		}
	}
	if falling {
		slices.Reverse(found)
	}
	return found
}

// Package fingerprints keeps the fingerprints of the dedupe window: all of each in the index, and a
// part of it in memory, by which it is found (table.go).
//
// The writer of the engine is the only one to call anything here, without a lock, but for
// [Set.Size]. What a transaction does to the fingerprints is a [Change]; memory hears of it when it
// is on disk, by [Set.Publish].
package fingerprints

import (
	"encoding/binary"
	"slices"
	"sync/atomic"
	"time"

	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/disk/index"
)

// Set is the fingerprints of one index.
type Set struct {
	table table
	last  uint64 // the last sequence given out
	size  atomic.Int64
}

// Load reads the fingerprints from the index, of which the last one tells where the sequence is.
func (s *Set) Load(t *index.Tx, last uint64) {
	if last == 0 {
		last = index.Uint64(t.Get(index.State, index.PrintSequence))
	}
	s.table, s.last = table{}, last
	t.Scan(index.Prints, nil, nil, func(key, value []byte) bool {
		if p, ok := parse(key, value); ok {
			s.table.add(&p.Fingerprint, index.Uint32(key[4:]))
		}
		return true
	})
	s.size.Store(int64(s.table.count))
}

// parse reads an entry of the index. It is not ok for what is none.
func parse(key, value []byte) (p spool.Print, ok bool) {
	p, ok = index.ParsePrint(value)
	return p, ok && len(key) == 8
}

// Size is how many there are. Anybody may ask.
func (s *Set) Size() int64 { return s.size.Load() }

// Latest returns the latest message with a fingerprint, or the zero id. view reads the index, which
// is not done for a fingerprint that is new.
func (s *Set) Latest(
	view func(func(*index.Tx) error) error,
	fingerprint spool.Fingerprint,
) (id spool.ID) {
	s.table.find(&fingerprint, func(sequence uint32) bool {
		_ = view(func(t *index.Tx) error {
			p, ok := index.ParsePrint(t.Get(index.Prints, s.key(sequence)))
			if ok && p.Same(fingerprint) && p.ID.Compare(id) > 0 {
				id = p.ID
			}
			return nil
		})
		return false // there may be a later one
	})
	return id
}

// key returns the key in the index of a fingerprint that the table knows by half of its sequence.
func (s *Set) key(sequence uint32) []byte {
	return binary.BigEndian.AppendUint64(nil, s.last-uint64(uint32(s.last)-sequence))
}

// Begin begins a change in a transaction.
func (s *Set) Begin(t *index.Tx) *Change { return &Change{set: s, t: t, sequence: s.last} }

// Publish brings memory up to a change that is on disk.
func (s *Set) Publish(c *Change) {
	for _, e := range c.removed {
		s.table.remove(&e.fingerprint, e.sequence)
	}
	for _, e := range c.added {
		s.table.add(&e.fingerprint, e.sequence)
	}
	s.last = c.sequence
	s.size.Store(int64(s.table.count))
}

// Change is what one transaction does to the fingerprints.
type Change struct {
	set            *Set
	t              *index.Tx
	sequence       uint64
	added, removed []entry
}

// entry is a fingerprint as the table has it.
type entry struct {
	fingerprint spool.Fingerprint
	sequence    uint32
}

// Add keeps the fingerprint of a message.
func (c *Change) Add(fingerprint spool.Fingerprint, id spool.ID) error {
	c.sequence++
	if uint32(c.sequence) == 0 { // means none to the table
		c.sequence++
	}
	value := append(append(make([]byte, 0, len(fingerprint)+len(id)), fingerprint[:]...), id[:]...)
	c.added = append(c.added, entry{fingerprint, uint32(c.sequence)})
	return c.t.Put(index.Prints, binary.BigEndian.AppendUint64(nil, c.sequence), value)
}

// Has reports whether a fingerprint was there before the change, of the same message or a later
// one.
func (c *Change) Has(p spool.Print) bool {
	return c.set.table.find(&p.Fingerprint, func(sequence uint32) bool {
		kept, ok := index.ParsePrint(c.t.Get(index.Prints, c.set.key(sequence)))
		return ok && (kept.Same(p.Fingerprint) || p.Same(kept.Fingerprint)) &&
			kept.ID.Compare(p.ID) >= 0
	})
}

// Trim forgets fingerprints that are older than a time, or more than so many, faster than new ones
// come.
func (c *Change) Trim(oldest time.Time, most int) error {
	excess := c.set.table.count + len(c.added) - most
	limit := 2*len(c.added) + 16

	var keys [][]byte
	c.t.Scan(index.Prints, nil, nil, func(key, value []byte) bool {
		p, ok := parse(key, value)
		if ok && excess <= len(keys) && !p.At.Before(oldest) {
			return false
		}
		keys = append(keys, slices.Clone(key))
		if ok {
			c.removed = append(c.removed, entry{p.Fingerprint, index.Uint32(key[4:])})
		}
		return len(keys) < limit
	})
	for _, key := range keys {
		if err := c.t.Delete(index.Prints, key); err != nil {
			return err
		}
	}
	return nil
}

// WriteSequence writes the last sequence given out, from which the next process goes on.
func (c *Change) WriteSequence() error {
	return c.t.Put(index.State, index.PrintSequence, binary.BigEndian.AppendUint64(nil, c.sequence))
}

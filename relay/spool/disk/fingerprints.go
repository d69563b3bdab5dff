// The fingerprints of the dedupe window: in the index all of each, in memory a part (prints.go).

package disk

import (
	"encoding/binary"
	"slices"
	"sync/atomic"
	"time"

	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/disk/index"
)

// fingerprints are the fingerprints, the writer's alone except for size.
type fingerprints struct {
	table printTable
	last  uint64 // the last sequence given out
	size  atomic.Int64
}

type printChange struct {
	fingerprint spool.Fingerprint
	sequence    uint32
}

// addPrint keeps a fingerprint.
func (c *change) addPrint(fingerprint spool.Fingerprint, id spool.ID) error {
	c.printSequence++
	if uint32(c.printSequence) == 0 { // means none to the table
		c.printSequence++
	}
	value := append(append(make([]byte, 0, len(fingerprint)+len(id)), fingerprint[:]...), id[:]...)
	c.addedPrints = append(c.addedPrints, printChange{fingerprint, uint32(c.printSequence)})
	return c.Put(index.Prints, binary.BigEndian.AppendUint64(nil, c.printSequence), value)
}

// trimPrints forgets fingerprints that are too old, or too many, faster than new ones come.
func (c *change) trimPrints(now time.Time) error {
	c.d.mu.Lock()
	oldest := now.Add(-c.d.window)
	c.d.mu.Unlock()
	p := &c.d.writer.prints
	excess := p.table.count + len(c.addedPrints) - c.d.options.MaxFingerprints
	limit := 2*len(c.addedPrints) + 16

	var keys [][]byte
	c.Scan(index.Prints, nil, nil, func(key, value []byte) bool {
		if len(key) != 8 || len(value) != len(spool.Fingerprint{})+len(spool.ID{}) {
			keys = append(keys, slices.Clone(key))
			return len(keys) < limit
		}
		if excess <= len(keys) && !spool.ID(value[len(spool.Fingerprint{}):]).Time().Before(oldest) {
			return false
		}
		keys = append(keys, slices.Clone(key))
		c.removedPrints = append(
			c.removedPrints,
			printChange{spool.Fingerprint(value[:len(spool.Fingerprint{})]), index.Uint32(key[4:])},
		)
		return len(keys) < limit
	})
	for _, key := range keys {
		if err := c.Delete(index.Prints, key); err != nil {
			return err
		}
	}
	return nil
}

// key returns the key in the index of a fingerprint that the table knows by half of its sequence.
func (p *fingerprints) key(sequence uint32) []byte {
	return binary.BigEndian.AppendUint64(nil, p.last-uint64(uint32(p.last)-sequence))
}

// load reads the fingerprints from the index, of which the last one tells where the sequence is.
func (p *fingerprints) load(t *index.Tx, last uint64) {
	if last == 0 {
		last = index.Uint64(t.Get(index.State, index.PrintSequence))
	}
	p.table, p.last = printTable{}, last
	t.Scan(index.Prints, nil, nil, func(key, value []byte) bool {
		if len(key) == 8 && len(value) == len(spool.Fingerprint{})+len(spool.ID{}) {
			fingerprint := spool.Fingerprint(value[:len(spool.Fingerprint{})])
			p.table.add(&fingerprint, index.Uint32(key[4:]))
		}
		return true
	})
	p.size.Store(int64(p.table.count))
}

// The table in memory, in which a fingerprint is found before it is proven on disk.

package fingerprints

import (
	"encoding/binary"

	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
)

// table finds fingerprints. It holds 8 bytes for each: a part of the fingerprint, and the
// number under which the index has all of it. A hit here is therefore only a candidate, which the
// caller compares with the index.
//
// A map from as little of a fingerprint takes 36 bytes for each where this takes 11 to 21, 16 with
// a million (BenchmarkMemory): 150 MB instead of 67 MB with the four million that are kept by
// default.
//
// The table is in parts so that growing is never a long pause.
type table struct {
	parts [256]part
	count int
}

// part is a hash table with linear probing.
type part struct {
	slots []slot
	count int
}

// slot is empty where sequence is 0.
type slot struct{ hash, sequence uint32 }

func hashOf(f *spool.Fingerprint) uint32 { return binary.BigEndian.Uint32(f[1:]) }

func (t *table) partOf(f *spool.Fingerprint) *part { return &t.parts[f[0]] }

// find calls same for every candidate until that returns true, and reports whether it did.
func (t *table) find(f *spool.Fingerprint, same func(sequence uint32) bool) bool {
	p, hash := t.partOf(f), hashOf(f)
	if len(p.slots) == 0 {
		return false
	}
	mask := len(p.slots) - 1
	for i := int(hash) & mask; p.slots[i].sequence != 0; i = (i + 1) & mask {
		if p.slots[i].hash == hash && same(p.slots[i].sequence) {
			return true
		}
	}
	return false
}

// add enters a fingerprint; sequence is not 0.
func (t *table) add(f *spool.Fingerprint, sequence uint32) {
	p := t.partOf(f)
	if 4*(p.count+1) > 3*len(p.slots) {
		p.grow()
	}
	p.insert(slot{hash: hashOf(f), sequence: sequence})
	p.count++
	t.count++
}

func (p *part) grow() {
	old := p.slots
	p.slots = make([]slot, max(2*len(old), 16))
	for _, s := range old {
		if s.sequence != 0 {
			p.insert(s)
		}
	}
}

func (p *part) insert(s slot) {
	mask := len(p.slots) - 1
	i := int(s.hash) & mask
	for p.slots[i].sequence != 0 {
		i = (i + 1) & mask
	}
	p.slots[i] = s
}

// remove takes a fingerprint out, if it is there.
func (t *table) remove(f *spool.Fingerprint, sequence uint32) {
	p := t.partOf(f)
	if len(p.slots) == 0 {
		return
	}
	mask := len(p.slots) - 1
	hole := int(hashOf(f)) & mask
	for p.slots[hole].sequence != sequence {
		if p.slots[hole].sequence == 0 {
			return
		}
		hole = (hole + 1) & mask
	}
	p.count--
	t.count--

	// Close the gap: an entry moves back unless that would put it before where its search begins.
	for i := (hole + 1) & mask; p.slots[i].sequence != 0; i = (i + 1) & mask {
		home := int(p.slots[i].hash) & mask
		if (i-home)&mask >= (i-hole)&mask {
			p.slots[hole] = p.slots[i]
			hole = i
		}
	}
	p.slots[hole] = slot{}
}

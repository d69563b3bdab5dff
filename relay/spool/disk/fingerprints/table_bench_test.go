package fingerprints

import (
	"encoding/binary"
	"math/rand/v2"
	"runtime"
	"testing"

	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
)

// BenchmarkMemory tells what a fingerprint takes up in the table, and what it would take up in
// a map from the same eight bytes of it.
func BenchmarkMemory(b *testing.B) {
	const n = 1 << 20
	prints := func(add func(f *spool.Fingerprint, sequence uint32)) {
		rng := rand.New(rand.NewPCG(1, 2))
		var f spool.Fingerprint
		for i := range uint32(n) {
			binary.BigEndian.PutUint64(f[:], rng.Uint64())
			add(&f, i+1)
		}
	}
	measure := func(b *testing.B, fill func() any) {
		var before, after runtime.MemStats
		for b.Loop() {
			runtime.GC()
			runtime.ReadMemStats(&before)
			kept := fill()
			runtime.GC()
			runtime.ReadMemStats(&after)
			b.ReportMetric(float64(after.HeapAlloc-before.HeapAlloc)/n, "B/print")
			runtime.KeepAlive(kept)
		}
	}
	b.Run("table", func(b *testing.B) {
		measure(b, func() any {
			table := new(table)
			prints(table.add)
			return table
		})
	})
	b.Run("map", func(b *testing.B) {
		measure(b, func() any {
			table := make(map[uint64]uint32)
			prints(func(f *spool.Fingerprint, sequence uint32) {
				table[binary.BigEndian.Uint64(f[:])] = sequence
			})
			return table
		})
	})
}

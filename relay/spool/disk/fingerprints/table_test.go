package fingerprints

import (
	"encoding/binary"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
)

// The table is compared with a map, with fingerprints that collide a lot.
func TestTableAgainstAMap(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	var table table
	model := make(map[uint32]spool.Fingerprint)
	print := func() (f spool.Fingerprint) {
		f[0] = byte(rng.IntN(2))
		binary.BigEndian.PutUint32(f[1:], uint32(rng.IntN(50))<<rng.IntN(3)*16)
		return f
	}
	for sequence := uint32(1); sequence < 20_000; sequence++ {
		f := print()
		if rng.IntN(2) == 0 {
			table.add(&f, sequence)
			model[sequence] = f
		} else {
			for old, f := range model {
				table.remove(&f, old)
				delete(model, old)
				break
			}
		}
		table.remove(&f, 1<<31) // is not there
		require.Equal(t, len(model), table.count)
		if sequence%100 > 0 {
			continue
		}
		for sequence, f := range model {
			require.True(t, table.find(&f, func(s uint32) bool { return s == sequence }))
		}
		require.False(t, table.find(&f, func(s uint32) bool { return s == 1<<31 }))
	}
}

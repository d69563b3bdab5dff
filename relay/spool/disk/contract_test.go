package disk

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/disk/internal/disktest"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/disk/queue"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/storetest"
)

func TestTheContract(t *testing.T) {
	for name, limits := range map[string]queue.Limits{
		"much in memory":   {},
		"little in memory": {Ready: 2, Followers: 1, Chunk: 2, Transit: 3},
	} {
		t.Run(name, func(t *testing.T) {
			storetest.Run(t, storetest.Factory{
				New: func(t testing.TB) func() spool.Store {
					dir := disktest.TempDir(t)
					return func() spool.Store {
						d, err := Open(dir, Options{segmentSize: 8 << 10, limits: limits})
						require.NoError(t, err)
						return d
					}
				},
				Abandon: func(store spool.Store) { store.(*Store).abandon() },
			})
		})
	}
}

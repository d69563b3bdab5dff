package disk

import (
	"os"
	"testing"

	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/disk/internal/disktest"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/disk/queue"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/storetest"
)

// modelPlace is a directory, of which little or much is kept in memory.
type modelPlace struct {
	dir    string
	limits queue.Limits
}

func (p modelPlace) Open() (spool.Store, error) {
	return Open(p.dir, Options{segmentSize: 8 << 10, limits: p.limits})
}

func (p modelPlace) Remove() error { return os.RemoveAll(p.dir) }

func TestTheStoreDoesWhatTheModelDoes(t *testing.T) {
	parent := disktest.TempDir(t)
	storetest.Model(t, func(variant int) (storetest.Place, error) {
		place := modelPlace{}
		if variant == 1 {
			place.limits = queue.Limits{Ready: 2, Followers: 1, Chunk: 2, Transit: 3}
		}
		var err error
		place.dir, err = os.MkdirTemp(parent, "model")
		return place, err
	})
}

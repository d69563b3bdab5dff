package disk

import (
	"fmt"
	"runtime"
	"slices"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/disk/internal/disktest"
)

// refusals collects what the hook is told.
type refusals struct {
	mu    sync.Mutex
	heard []string
}

func (r *refusals) refusing(reason spool.Reason, on bool, _ error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.heard = append(r.heard, fmt.Sprint(reason, " ", on))
}

func (r *refusals) all() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]string(nil), r.heard...)
}

// Senders and the writer find out side by side that there is no room, and that there is.
func TestThatThereIsNoRoomAndRoomAgainIsToldInTurn(t *testing.T) {
	var heard refusals
	d := openTestDisk(t, disktest.TempDir(t), Options{Events: spool.StoreEvents{
		Refusing: func(reason spool.Reason, on bool, cause error) {
			for range 10 {
				runtime.Gosched()
			}
			heard.refusing(reason, on, cause)
		},
	}})
	var senders sync.WaitGroup
	for range 8 {
		senders.Go(func() {
			for i := range 500 {
				d.SetLimits(spool.Limits{MaxBytes: 1 + int64(i%2)<<30})
				_ = d.mayAccept(1)
			}
		})
	}
	senders.Wait()
	d.SetLimits(spool.Limits{MaxBytes: 1 << 30})
	require.NoError(t, d.mayAccept(1))

	full, room := fmt.Sprint(spool.ReasonFull, " true"), fmt.Sprint(spool.ReasonFull, " false")
	told := heard.all()
	require.NotEmpty(t, told)
	require.Equal(t, slices.Repeat([]string{full, room}, len(told)/2), told)
}

package counts

import (
	"runtime"
	"slices"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// Senders find out side by side that there is no room, and that there is.
func TestThatThereIsNoRoomAndRoomAgainIsToldInTurn(t *testing.T) {
	var mu sync.Mutex
	var told []bool
	r := NewRoom(RoomOptions{Refusing: func(refusing bool) {
		for range 10 {
			runtime.Gosched()
		}
		mu.Lock()
		defer mu.Unlock()
		told = append(told, refusing)
	}})
	var senders sync.WaitGroup
	for range 8 {
		senders.Go(func() {
			for i := range 500 {
				r.refuse(int64(1 - i%2))
			}
		})
	}
	senders.Wait()
	r.refuse(0)
	require.NotEmpty(t, told)
	require.Equal(t, slices.Repeat([]bool{true, false}, len(told)/2), told)
}

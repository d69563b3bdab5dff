// How many passwords are hashed at a time.

package auth

import (
	"context"
	"runtime"
	"sync/atomic"
	"time"
)

const (
	// hashQueueLength is how many unknown passwords may wait for their turn.
	hashQueueLength = 64

	// hashQueueWait bounds the waiting. Deepgram's self-hosted servers give up on
	// an answer after 10 seconds by default; this and the hashing stay below that.
	hashQueueWait = 5 * time.Second
)

// hashQueue lets a bounded number of passwords be hashed at a time, and a bounded
// number wait for a bounded time, so that a flood of guesses leaves processors
// to those who are recognised.
type hashQueue struct {
	slots   chan struct{}
	waiting atomic.Int64
	length  int64
	wait    time.Duration
}

// processHashes is shared by all policies, since all share the processors: half
// of them may be hashing.
var processHashes = newHashQueue(max(1, runtime.GOMAXPROCS(0)/2), hashQueueLength, hashQueueWait)

func newHashQueue(concurrency, length int, wait time.Duration) *hashQueue {
	return &hashQueue{slots: make(chan struct{}, concurrency), length: int64(length), wait: wait}
}

// acquire says whether there is a turn; release must follow it then.
func (q *hashQueue) acquire(ctx context.Context) bool {
	if ctx.Err() != nil {
		return false
	}
	select {
	case q.slots <- struct{}{}:
		return true
	default:
	}
	defer q.waiting.Add(-1)
	if q.waiting.Add(1) > q.length {
		return false
	}
	timer := time.NewTimer(q.wait)
	defer timer.Stop()
	select {
	case q.slots <- struct{}{}:
		return true
	case <-timer.C:
		return false
	case <-ctx.Done():
		return false
	}
}

func (q *hashQueue) release() { <-q.slots }

package simulator

// What outlives a request, and a configuration too: pending callbacks and live streams.

import (
	"context"
	"errors"
	"sync"

	"github.com/caddyserver/caddy/v2"
)

// maxPendingBytes is how many bytes of memory the callbacks may take that wait for their
// delivery. Beyond that, requests with a callback are answered 429.
const maxPendingBytes = 256 << 20

// pendingOverhead is how many bytes a pending callback costs besides its body.
const pendingOverhead = 4 << 10

// outboxes holds the one outbox of all simulators in the process, so that a reload, which
// replaces every simulator, loses nothing.
var outboxes = caddy.NewUsagePool()

const outboxKey = "deepgram_simulator"

// errShutdown is why the work of an outbox is cancelled.
var errShutdown = errors.New("the simulator shuts down")

// outbox runs work in the background until it is destructed.
type outbox struct {
	ctx    context.Context
	cancel context.CancelCauseFunc

	mu      sync.Mutex
	closed  bool
	pending int64 // how many bytes are taken
	work    sync.WaitGroup

	// advice is for the warning about logs, which comes once and not with each reload.
	advice sync.Once
}

func newOutbox() *outbox {
	ctx, cancel := context.WithCancelCause(context.Background())
	return &outbox{ctx: ctx, cancel: cancel}
}

// later runs deliver in the background. It returns false if too much is pending already,
// or the outbox is closed.
func (o *outbox) later(size int, deliver func(ctx context.Context)) bool {
	cost := int64(size) + pendingOverhead
	if !o.enter(cost) {
		return false
	}
	go func() {
		defer o.leave(cost)
		deliver(o.ctx)
	}()
	return true
}

// enter takes bytes for some work, for which leave must be called with as many when it is
// done. It returns false under the same conditions as later.
func (o *outbox) enter(cost int64) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed || o.pending+cost > maxPendingBytes {
		return false
	}
	o.pending += cost
	o.work.Add(1)
	return true
}

func (o *outbox) leave(cost int64) {
	o.mu.Lock()
	o.pending -= cost
	o.mu.Unlock()
	o.work.Done()
}

// Destruct cancels what is under way, and blocks until it has ended.
func (o *outbox) Destruct() error {
	o.mu.Lock()
	o.closed = true
	o.mu.Unlock()
	o.cancel(errShutdown)
	o.work.Wait()
	return nil
}

// Interface guard
var _ caddy.Destructor = (*outbox)(nil)

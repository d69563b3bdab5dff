package simulator

// What outlives a request, and also a configuration: pending callbacks and
// live streams.

import (
	"context"
	"errors"
	"sync"

	"github.com/caddyserver/caddy/v2"
)

// maxPendingBytes bounds the memory of the callbacks that wait for their
// delivery. Beyond it, requests with a callback are answered 429.
const maxPendingBytes = 256 << 20

// pendingOverhead is what a pending callback costs besides its body.
const pendingOverhead = 4 << 10

// All simulators of a process share one outbox, so that a reload of the
// configuration, which replaces every simulator, loses nothing.
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
	pending int64 // bytes
	work    sync.WaitGroup

	// advice is given once, not with each reload.
	advice sync.Once
}

func newOutbox() *outbox {
	ctx, cancel := context.WithCancelCause(context.Background())
	return &outbox{ctx: ctx, cancel: cancel}
}

// later runs deliver in the background. It returns false where too much is
// pending already, or the outbox is closed.
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

// enter accounts for work in the foreground or background; leave undoes it.
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

// Destruct cancels what is under way and waits for its end.
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

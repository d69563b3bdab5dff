//go:build unix

package shared_test

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync"
	"time"
)

// A callback of the load is the n-th of a sender. One of a stream says so in its body; only such
// ones have an order, and can be duplicates.
type callback struct {
	From   string `json:"from"`
	N      int    `json:"n"`
	Stream bool   `json:"-"`
}

func (c callback) String() string { return fmt.Sprintf("%s %d", c.From, c.N) }

func (c callback) body() string {
	if c.Stream {
		const form = `{"metadata":{"request_id":%q},"from":%[1]q,"n":%d}`
		return fmt.Sprintf(form, c.From, c.N)
	}
	return fmt.Sprintf(`{"from":%q,"n":%d}`, c.From, c.N)
}

// A ledger knows which callbacks were acknowledged and which were delivered, and notes what must
// not be.
type ledger struct {
	mu           sync.Mutex
	acknowledged int
	webhooks     map[callback]string // of those of streams
	undelivered  map[string]callback // what was acknowledged, by webhook id
	delivered    map[string]bool
	last         map[string]int // what was delivered of a stream
	wrong        []string

	held  string // the gateway whose deliveries are not answered until letGo is closed
	letGo chan struct{}
}

func newLedger() *ledger {
	return &ledger{
		webhooks:    make(map[callback]string),
		undelivered: make(map[string]callback),
		delivered:   make(map[string]bool),
		last:        make(map[string]int),
	}
}

func (l *ledger) complain(format string, args ...any) {
	l.wrong = append(l.wrong, fmt.Sprintf(format, args...))
}

// acknowledge notes that a callback was accepted.
func (l *ledger) acknowledge(c callback, webhook string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.acknowledged++
	l.identify(c, webhook)
	if !l.delivered[webhook] {
		l.undelivered[webhook] = c
	}
}

// identify requires that a callback of a stream has one id, however often it comes.
func (l *ledger) identify(c callback, webhook string) {
	if !c.Stream {
		return
	}
	if before, ok := l.webhooks[c]; ok && before != webhook {
		l.complain("%v was accepted twice: %s and %s", c, before, webhook)
	}
	l.webhooks[c] = webhook
}

// answer is that of the service: it refuses some for a time and takes the others.
func (l *ledger) answer(ctx context.Context, d delivery) int {
	l.mu.Lock()
	letGo := l.letGo
	isHeld := l.held != "" && d.gateway == l.held
	l.mu.Unlock()
	if isHeld {
		select {
		case <-letGo:
		case <-ctx.Done():
		}
		return http.StatusGone
	}
	<-time.After(rand.N(10 * time.Millisecond))
	if rand.N(50) == 0 {
		return http.StatusServiceUnavailable
	}
	l.deliver(d)
	return http.StatusOK
}

// deliver notes what the service took. The sender of a stream waits for each callback to be
// accepted before it sends the next one, so this is the order in which they must come first.
func (l *ledger) deliver(d delivery) {
	l.mu.Lock()
	defer l.mu.Unlock()
	var c callback
	if err := json.Unmarshal([]byte(d.body), &c); err != nil {
		l.complain("%s came as %q", d.webhook, d.body)
		return
	}
	c.Stream = d.stream != ""
	l.identify(c, d.webhook)
	delete(l.undelivered, d.webhook)
	if l.delivered[d.webhook] {
		return
	}
	l.delivered[d.webhook] = true
	if !c.Stream {
		return
	}
	if c.N != l.last[c.From]+1 {
		l.complain("%v came after %d", c, l.last[c.From])
	}
	l.last[c.From] = c.N
}

// hold has nothing answered that a gateway delivers until release, which answers that it is gone.
func (l *ledger) hold(name string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.held, l.letGo = name, make(chan struct{})
}

func (l *ledger) release() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.held = ""
	close(l.letGo)
}

// waiting are the ids of what was acknowledged and not delivered so far.
func (l *ledger) waiting() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Collect(maps.Keys(l.undelivered))
}

// waitingOf counts those of one sender.
func (l *ledger) waitingOf(from string) (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, c := range l.undelivered {
		if c.From == from {
			n++
		}
	}
	return n
}

// missing are the callbacks among these ids that still are not delivered.
func (l *ledger) missing(ids []string) (missing []callback) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, id := range ids {
		if c, ok := l.undelivered[id]; ok {
			missing = append(missing, c)
		}
	}
	return missing
}

func (l *ledger) acknowledgements() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.acknowledged
}

func (l *ledger) deliveries() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.delivered)
}

func (l *ledger) complaints() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.wrong)
}

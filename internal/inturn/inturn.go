// Package inturn tells of a state in the order in which it changed, where several find out about its
// changes side by side. Who compares before and after by himself, and tells it after he let go of
// what he compared, may say "up" before another one has said "down".
package inturn

import "sync"

// Teller keeps what was told last: at first the zero State.
type Teller[State any] struct {
	mu   sync.Mutex
	told State
}

// Tell calls tell with what was told last and with what state returns, while nobody else does. It is
// called after everything that may have changed the state, without the lock that guards that: state
// takes it.
func (t *Teller[State]) Tell(state func() State, tell func(was, is State)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	was, is := t.told, state()
	t.told = is
	tell(was, is)
}

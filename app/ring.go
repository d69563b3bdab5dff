package app

import "slices"

// remembered is how many of a kind are remembered: streams that ended, refused
// callbacks.
const remembered = 200

// A ring holds the last of what was added to it.
type ring[T any] struct {
	kept []T
	next int // where the oldest is, once the ring is full
}

func (r *ring[T]) add(item T) {
	if len(r.kept) < remembered {
		r.kept = append(r.kept, item)
		return
	}
	r.kept[r.next] = item
	r.next = (r.next + 1) % remembered
}

// newestFirst lists what is remembered.
func (r *ring[T]) newestFirst() []T {
	list := slices.Concat(r.kept[r.next:], r.kept[:r.next])
	slices.Reverse(list)
	return list
}

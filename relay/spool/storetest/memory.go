package storetest

import (
	"bytes"
	"cmp"
	"context"
	"slices"
	"sync"
	"time"

	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
)

// Memory is a store as simple as can be: the model that others are compared with, and what an inbox
// runs on where a test owns the time.
type Memory struct {
	mu       sync.Mutex
	ids      spool.IDSource
	messages map[spool.ID]*memoryMessage
	inOrder  []*memoryMessage // by rising id, with some that are gone
	prints   map[spool.Fingerprint]spool.ID
	watch    func(string)
	closed   bool

	leaseErr error // to be returned by Lease
}

type memoryMessage struct {
	spool.Message
	body    []byte
	leased  bool
	dropped bool
	tried   bool // or to be tried again: not fresh any more
}

// NewMemory returns an empty store.
func NewMemory() *Memory {
	return &Memory{messages: make(map[spool.ID]*memoryMessage), prints: make(map[spool.Fingerprint]spool.ID), watch: func(string) {}}
}

// FailLease has Lease return err from now on; nil has it work again.
func (s *Memory) FailLease(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.leaseErr = err
}

type memoryBody struct{ bytes.Buffer }

func (*memoryBody) Discard() {}

type memoryReader struct{ *bytes.Reader }

func (memoryReader) Close() error { return nil }

// NewBody implements [spool.Store].
func (s *Memory) NewBody(context.Context, int64) (spool.BodyWriter, error) { return &memoryBody{}, nil }

// Accept implements [spool.Store].
func (s *Memory) Accept(_ context.Context, msg *spool.Message, fingerprint spool.Fingerprint, window time.Duration, body spool.BodyWriter) (spool.Receipt, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return spool.Receipt{}, spool.ErrClosed
	}
	b := body.(*memoryBody).Bytes()
	now := time.Now()
	if id, ok := s.prints[fingerprint]; ok && fingerprint != (spool.Fingerprint{}) && window > 0 && now.Sub(id.Time()) <= window {
		return spool.Receipt{ID: id, Duplicate: true, Size: int64(len(b))}, nil
	}
	m := &memoryMessage{Message: *msg, body: b}
	m.ID, m.Size, m.State = s.ids.Next(now), int64(len(b)), spool.Pending
	s.messages[m.ID] = m
	s.inOrder = append(s.inOrder, m)
	if fingerprint != (spool.Fingerprint{}) {
		s.prints[fingerprint] = m.ID
	}
	s.watch(m.Route)
	return spool.Receipt{ID: m.ID, Size: m.Size}, nil
}

// sorted returns messages by rising id.
func (s *Memory) sorted(keep func(*memoryMessage) bool) []*memoryMessage {
	if len(s.inOrder) > 2*len(s.messages) {
		s.inOrder = slices.DeleteFunc(s.inOrder, func(m *memoryMessage) bool {
			return s.messages[m.ID] != m
		})
	}
	var all []*memoryMessage
	for _, m := range s.inOrder {
		if s.messages[m.ID] == m && keep(m) {
			all = append(all, m)
		}
	}
	return all
}

// heads returns the messages of a route that nothing of their key stands before.
func (s *Memory) heads(route string) []*memoryMessage {
	seen := make(map[uint64]bool)
	for _, m := range s.messages {
		if m.leased && m.Route == route {
			seen[m.OrderKey] = true
		}
	}
	return slices.DeleteFunc(s.sorted(func(m *memoryMessage) bool { return m.Route == route && m.State == spool.Pending }), func(m *memoryMessage) bool {
		behind := seen[m.OrderKey]
		seen[m.OrderKey] = true
		return behind
	})
}

// Lease implements [spool.Store].
func (s *Memory) Lease(_ context.Context, request spool.LeaseRequest) (leased []*spool.Lease, next time.Time, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.leaseErr != nil {
		return nil, time.Time{}, s.leaseErr
	}
	heads := slices.DeleteFunc(s.heads(request.Route), func(m *memoryMessage) bool {
		return m.NextAttemptAt.IsZero() == request.Tried || request.Avoid.Has(m.Destination)
	})
	if request.Tried {
		slices.SortStableFunc(heads, func(a, b *memoryMessage) int {
			return a.NextAttemptAt.Compare(b.NextAttemptAt)
		})
	} else if request.Newest {
		slices.Reverse(heads)
	}
	for _, m := range heads {
		if m.NextAttemptAt.After(request.Now) {
			if next.IsZero() || m.NextAttemptAt.Before(next) {
				next = m.NextAttemptAt
			}
			continue
		}
		if len(leased) == request.Max {
			break
		}
		m.leased = true
		copied := m.Message
		leased = append(leased, &spool.Lease{Message: &copied})
	}
	return leased, next, nil
}

// Settle implements [spool.Store].
func (s *Memory) Settle(lease *spool.Lease, settlement spool.Settlement) {
	id := lease.Message.ID
	s.mu.Lock()
	defer s.mu.Unlock()
	m := s.messages[id]
	if m == nil || !m.leased {
		return
	}
	m.leased = false
	defer s.watch(m.Route)
	if m.dropped {
		settlement.Verdict = spool.Done
	}
	switch settlement.Verdict {
	case spool.Done:
		delete(s.messages, id)
	case spool.Retry:
		m.tried = true
		m.Attempts++
		m.NextAttemptAt, m.LastError = settlement.At, settlement.LastError
	case spool.Bury:
		m.Attempts++
		m.State, m.DiedAt, m.LastError, m.NextAttemptAt = spool.Dead, settlement.At, settlement.LastError, time.Time{}
	}
}

// Body implements [spool.Store].
func (s *Memory) Body(_ context.Context, id spool.ID) (spool.Body, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := s.messages[id]
	if m == nil {
		return nil, spool.ErrNotFound
	}
	return memoryReader{bytes.NewReader(m.body)}, nil
}

// Get implements [spool.Store].
func (s *Memory) Get(_ context.Context, id spool.ID) (*spool.Message, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := s.messages[id]
	if m == nil {
		return nil, spool.ErrNotFound
	}
	copied := m.Message
	return &copied, nil
}

// List implements [spool.Store].
func (s *Memory) List(_ context.Context, filter spool.Filter) ([]*spool.Message, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	limit := cmp.Or(filter.Limit, spool.DefaultListLimit)
	list := []*spool.Message{}
	for _, m := range s.sorted(func(m *memoryMessage) bool {
		return (filter.State == "" || m.State == filter.State) && (filter.Route == "" || m.Route == filter.Route) &&
			(filter.User == "" || m.User == filter.User) &&
			m.ID.Compare(filter.After) > 0
	}) {
		if len(list) < limit {
			copied := m.Message
			list = append(list, &copied)
		}
	}
	return list, nil
}

func (s *Memory) replay(m *memoryMessage) {
	if m.State == spool.Pending && !m.tried {
		return
	}
	m.State, m.tried, m.Attempts, m.ScheduledFrom = spool.Pending, true, 0, time.Now()
	m.NextAttemptAt, m.DiedAt = time.Time{}, time.Time{}
	s.watch(m.Route)
}

// Replay implements [spool.Store].
func (s *Memory) Replay(_ context.Context, id spool.ID) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := s.messages[id]
	switch {
	case m == nil:
		return spool.ErrNotFound
	case m.leased:
		return spool.ErrInFlight
	}
	s.replay(m)
	return nil
}

// ReplayDead implements [spool.Store].
func (s *Memory) ReplayDead(_ context.Context, route string, diedBefore time.Time, limit int) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	dead := s.sorted(func(m *memoryMessage) bool {
		return m.State == spool.Dead && (route == "" || m.Route == route) && m.DiedAt.Before(diedBefore)
	})
	dead = dead[:min(len(dead), limit)]
	for _, m := range dead {
		s.replay(m)
	}
	return len(dead), nil
}

// Drop implements [spool.Store].
func (s *Memory) Drop(_ context.Context, id spool.ID) (*spool.Message, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := s.messages[id]
	if m == nil {
		return nil, spool.ErrNotFound
	}
	copied := m.Message
	if m.leased {
		m.dropped = true
		return &copied, spool.ErrInFlight
	}
	delete(s.messages, id)
	s.watch(m.Route)
	return &copied, nil
}

// Expire implements [spool.Store].
func (s *Memory) Expire(_ context.Context, route string, scheduledBefore time.Time, lastError string, limit int) ([]*spool.Message, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	var expired []*spool.Message
	for _, m := range s.heads(route) {
		if len(expired) == limit {
			break
		}
		if m.leased || !m.ScheduledFrom.Before(scheduledBefore) || m.NextAttemptAt.After(now) {
			continue
		}
		m.State, m.DiedAt, m.NextAttemptAt = spool.Dead, now, time.Time{}
		m.LastError = cmp.Or(m.LastError, lastError)
		copied := m.Message
		expired = append(expired, &copied)
	}
	return expired, nil
}

// DropDead implements [spool.Store].
func (s *Memory) DropDead(_ context.Context, route string, diedBefore time.Time, limit int) ([]*spool.Message, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var dropped []*spool.Message
	for _, m := range s.sorted(func(m *memoryMessage) bool {
		return m.Route == route && m.State == spool.Dead && m.DiedAt.Before(diedBefore)
	}) {
		if len(dropped) == limit {
			break
		}
		delete(s.messages, m.ID)
		dropped = append(dropped, &m.Message)
	}
	return dropped, nil
}

// SetLimits implements [spool.Store].
func (s *Memory) SetLimits(spool.Limits) {}

// Watch implements [spool.Store].
func (s *Memory) Watch(f func(string)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.watch = f
}

// Counts implements [spool.Store].
func (s *Memory) Counts(context.Context) (spool.Counts, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	counts := spool.Counts{Routes: make(map[string]spool.RouteCounts), Fingerprints: len(s.prints)}
	for _, m := range s.messages {
		c := counts.Routes[m.Route]
		if m.State == spool.Dead {
			c.Dead++
			c.DeadBytes += m.Size
		} else {
			c.Pending++
			c.PendingBytes += m.Size
			if c.OldestPending.IsZero() || m.ReceivedAt.Before(c.OldestPending) {
				c.OldestPending = m.ReceivedAt
			}
		}
		if m.leased {
			c.InFlight++
		}
		counts.Routes[m.Route] = c
	}
	return counts, nil
}

// Flush implements [spool.Store].
func (s *Memory) Flush(context.Context) error { return nil }

// Close implements [spool.Store]. Leases end, and the messages stay for Reopen.
func (s *Memory) Close(context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	for _, m := range s.messages {
		m.leased = false
	}
	return nil
}

// Reopen opens a closed store again.
func (s *Memory) Reopen() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed, s.watch = false, func(string) {}
}

var _ spool.Store = (*Memory)(nil)

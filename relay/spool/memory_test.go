package spool

import (
	"bytes"
	"cmp"
	"context"
	"slices"
	"sync"
	"time"
)

// memoryStore is a Store as simple as can be: the model that the engine on disk is
// compared with, and what the inbox runs on where a test owns the time.
type memoryStore struct {
	mu       sync.Mutex
	ids      idSource
	messages map[ID]*memoryMessage
	inOrder  []*memoryMessage // by rising id, with some that are gone
	prints   map[Fingerprint]ID
	watch    func(string)
	closed   bool

	leaseErr error // to be returned by Lease
}

type memoryMessage struct {
	Message
	body    []byte
	leased  bool
	dropped bool
	tried   bool // or to be tried again: not fresh any more
}

func newMemoryStore() *memoryStore {
	return &memoryStore{messages: make(map[ID]*memoryMessage), prints: make(map[Fingerprint]ID), watch: func(string) {}}
}

type memoryBody struct{ bytes.Buffer }

func (*memoryBody) Discard() {}

type memoryReader struct{ *bytes.Reader }

func (memoryReader) Close() error { return nil }

func (s *memoryStore) NewBody(int64) (BodyWriter, error) { return &memoryBody{}, nil }

func (s *memoryStore) Accept(_ context.Context, msg *Message, fingerprint Fingerprint, window time.Duration, body BodyWriter) (Receipt, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return Receipt{}, ErrClosed
	}
	b := body.(*memoryBody).Bytes()
	now := time.Now()
	if id, ok := s.prints[fingerprint]; ok && fingerprint != (Fingerprint{}) && window > 0 && now.Sub(id.Time()) <= window {
		return Receipt{ID: id, Duplicate: true, Size: int64(len(b))}, nil
	}
	m := &memoryMessage{Message: *msg, body: b}
	m.ID, m.Size, m.State = s.ids.next(now), int64(len(b)), Pending
	s.messages[m.ID] = m
	s.inOrder = append(s.inOrder, m)
	s.prints[fingerprint] = m.ID
	s.watch(m.Route)
	return Receipt{ID: m.ID, Size: m.Size}, nil
}

// sorted returns messages by rising id.
func (s *memoryStore) sorted(keep func(*memoryMessage) bool) []*memoryMessage {
	if len(s.inOrder) > 2*len(s.messages) {
		s.inOrder = slices.DeleteFunc(s.inOrder, func(m *memoryMessage) bool { return s.messages[m.ID] != m })
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
func (s *memoryStore) heads(route string) []*memoryMessage {
	seen := make(map[uint64]bool)
	for _, m := range s.messages {
		if m.leased && m.Route == route {
			seen[m.OrderKey] = true
		}
	}
	return slices.DeleteFunc(s.sorted(func(m *memoryMessage) bool { return m.Route == route && m.State == Pending }), func(m *memoryMessage) bool {
		behind := seen[m.OrderKey]
		seen[m.OrderKey] = true
		return behind
	})
}

func (s *memoryStore) Lease(request LeaseRequest) (leased []*Message, next time.Time, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.leaseErr != nil {
		return nil, time.Time{}, s.leaseErr
	}
	heads := slices.DeleteFunc(s.heads(request.Route), func(m *memoryMessage) bool {
		return m.NextAttemptAt.IsZero() == request.Tried || request.Avoid.Has(m.Destination)
	})
	if request.Tried {
		slices.SortStableFunc(heads, func(a, b *memoryMessage) int { return a.NextAttemptAt.Compare(b.NextAttemptAt) })
	} else if request.Newest {
		slices.Reverse(heads)
	}
	for _, m := range heads {
		if m.NextAttemptAt.After(request.Now) {
			next = earlier(next, m.NextAttemptAt)
			continue
		}
		if len(leased) == request.Max {
			break
		}
		m.leased = true
		copied := m.Message
		leased = append(leased, &copied)
	}
	return leased, next, nil
}

func (s *memoryStore) Settle(id ID, settlement Settlement) {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := s.messages[id]
	if m == nil || !m.leased {
		return
	}
	m.leased = false
	defer s.watch(m.Route)
	if m.dropped {
		settlement.Verdict = Done
	}
	switch settlement.Verdict {
	case Done:
		delete(s.messages, id)
	case Retry:
		m.tried = true
		m.Attempts++
		m.NextAttemptAt, m.LastError = settlement.At, settlement.LastError
	case Bury:
		m.Attempts++
		m.State, m.DiedAt, m.LastError, m.NextAttemptAt = Dead, settlement.At, settlement.LastError, time.Time{}
	}
}

func (s *memoryStore) Body(msg *Message) (Body, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := s.messages[msg.ID]
	if m == nil {
		return nil, ErrNotFound
	}
	return memoryReader{bytes.NewReader(m.body)}, nil
}

func (s *memoryStore) Get(id ID) (*Message, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := s.messages[id]
	if m == nil {
		return nil, ErrNotFound
	}
	copied := m.Message
	return &copied, nil
}

func (s *memoryStore) List(filter Filter) ([]*Message, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	limit := cmp.Or(filter.Limit, defaultListLimit)
	list := []*Message{}
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

func (s *memoryStore) replay(m *memoryMessage) {
	if m.State == Pending && !m.tried {
		return
	}
	m.State, m.tried, m.Attempts, m.ScheduledFrom = Pending, true, 0, time.Now()
	m.NextAttemptAt, m.DiedAt = time.Time{}, time.Time{}
	s.watch(m.Route)
}

func (s *memoryStore) Replay(_ context.Context, id ID) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := s.messages[id]
	switch {
	case m == nil:
		return ErrNotFound
	case m.leased:
		return ErrInFlight
	}
	s.replay(m)
	return nil
}

func (s *memoryStore) ReplayDead(_ context.Context, route string, diedBefore time.Time, limit int) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	dead := s.sorted(func(m *memoryMessage) bool {
		return m.State == Dead && (route == "" || m.Route == route) && m.DiedAt.Before(diedBefore)
	})
	dead = dead[:min(len(dead), limit)]
	for _, m := range dead {
		s.replay(m)
	}
	return len(dead), nil
}

func (s *memoryStore) Drop(_ context.Context, id ID) (*Message, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := s.messages[id]
	if m == nil {
		return nil, ErrNotFound
	}
	copied := m.Message
	if m.leased {
		m.dropped = true
		return &copied, ErrInFlight
	}
	delete(s.messages, id)
	s.watch(m.Route)
	return &copied, nil
}

func (s *memoryStore) Expire(_ context.Context, route string, scheduledBefore time.Time, lastError string, limit int) ([]*Message, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	var expired []*Message
	for _, m := range s.heads(route) {
		if len(expired) == limit {
			break
		}
		if m.leased || !m.ScheduledFrom.Before(scheduledBefore) || m.NextAttemptAt.After(now) {
			continue
		}
		m.State, m.DiedAt, m.NextAttemptAt = Dead, now, time.Time{}
		m.LastError = cmp.Or(m.LastError, lastError)
		copied := m.Message
		expired = append(expired, &copied)
	}
	return expired, nil
}

func (s *memoryStore) DropDead(_ context.Context, route string, diedBefore time.Time, limit int) ([]*Message, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var dropped []*Message
	for _, m := range s.sorted(func(m *memoryMessage) bool {
		return m.Route == route && m.State == Dead && m.DiedAt.Before(diedBefore)
	}) {
		if len(dropped) == limit {
			break
		}
		delete(s.messages, m.ID)
		dropped = append(dropped, &m.Message)
	}
	return dropped, nil
}

func (s *memoryStore) KeepFingerprints(time.Duration) {}

func (s *memoryStore) Watch(f func(string)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.watch = f
}

func (s *memoryStore) Counts() Counts {
	s.mu.Lock()
	defer s.mu.Unlock()
	counts := Counts{Routes: make(map[string]RouteCounts), Fingerprints: len(s.prints)}
	for _, m := range s.messages {
		c := counts.Routes[m.Route]
		if m.State == Dead {
			c.Dead++
			c.DeadBytes += m.Size
		} else {
			c.Pending++
			c.PendingBytes += m.Size
			c.OldestPending = earlier(c.OldestPending, m.ReceivedAt)
		}
		if m.leased {
			c.InFlight++
		}
		counts.Routes[m.Route] = c
	}
	return counts
}

func (s *memoryStore) Flush(context.Context) error { return nil }

func (s *memoryStore) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	return nil
}

var _ Store = (*memoryStore)(nil)

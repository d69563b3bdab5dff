// Package memory is a store that forgets everything with its process: as simple as can be, so
// that it can be believed. It is what other stores are compared with, and what the inbox
// runs on where a test owns the time.
package memory

import (
	"bytes"
	"context"
	"slices"
	"sync"
	"time"

	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
)

// Place is where the messages are. It outlives a Store that is closed.
type Place struct {
	mu       sync.Mutex
	ids      spool.IDSource
	messages map[spool.ID]*message
	inOrder  []*message         // by rising id, with some that are gone
	prints   map[[16]byte]print // by their first half
	imported map[spool.ID]bool
	paused   map[string]bool
	streams  map[string]noted
	limits   spool.Limits
	full     time.Time // since when there is no room
	leaseErr error     // to be returned by Lease
}

type message struct {
	spool.Message
	body   []byte
	lease  *spool.Lease // nil if it is not leased
	doomed bool         // to be forgotten when its lease ends
}

type print struct {
	id spool.ID
	at time.Time
}

// noted is a stream, and who takes its messages.
type noted struct {
	spool.OpenStream
	by *Store
}

// NewPlace returns an empty one.
func NewPlace() *Place {
	return &Place{
		messages: make(map[spool.ID]*message),
		prints:   make(map[[16]byte]print),
		imported: make(map[spool.ID]bool),
		paused:   make(map[string]bool),
		streams:  make(map[string]noted),
	}
}

// Store is a store in memory.
type Store struct {
	p      *Place
	watch  func(string)
	closed bool
}

// Open opens the place, of which no other store may be open.
func (p *Place) Open() *Store { return &Store{p: p, watch: func(string) {}} }

// enter begins a method. Every one that returns an error begins with it.
func (s *Store) enter(ctx context.Context) (leave func(), err error) {
	s.p.mu.Lock()
	if s.closed {
		s.p.mu.Unlock()
		return nil, spool.ErrClosed
	}
	if err := ctx.Err(); err != nil {
		s.p.mu.Unlock()
		return nil, err
	}
	return s.p.mu.Unlock, nil
}

type bodyWriter struct{ bytes.Buffer }

func (*bodyWriter) Discard() {}

type body struct{ *bytes.Reader }

func (body) Close() error { return nil }

// NewBody implements spool.Store.
func (s *Store) NewBody(ctx context.Context, _ int64) (spool.BodyWriter, error) {
	leave, err := s.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	return &bodyWriter{}, nil
}

// Accept implements spool.Store.
func (s *Store) Accept(
	ctx context.Context, msg *spool.Message, fingerprint spool.Fingerprint, window time.Duration,
	w spool.BodyWriter,
) (spool.Receipt, error) {
	leave, err := s.enter(ctx)
	if err != nil {
		return spool.Receipt{}, err
	}
	defer leave()
	now := time.Now()
	known, ok := s.p.prints[half(fingerprint)]
	if ok && now.Sub(known.at) < window {
		return spool.Receipt{ID: known.id, Duplicate: true, Size: int64(w.(*bodyWriter).Len())}, nil
	}
	m := &message{Message: *msg, body: w.(*bodyWriter).Bytes()}
	m.Size = int64(len(m.body))
	if !s.p.makeRoom(m.Size) {
		if s.p.full.IsZero() {
			s.p.full = now
		}
		return spool.Receipt{}, &spool.RefusedError{
			Reason:     spool.ReasonFull,
			RetryAfter: 15 * time.Second,
		}
	}
	s.p.full = time.Time{}
	m.ID, m.State, m.ReceivedAt, m.ScheduledFrom = s.p.ids.Next(now), spool.Pending, now, now
	msg.ID, msg.ReceivedAt, msg.ScheduledFrom, msg.State, msg.Size = m.ID, now, now, m.State, m.Size
	s.p.messages[m.ID] = m
	s.p.inOrder = append(s.p.inOrder, m)
	if fingerprint != (spool.Fingerprint{}) {
		s.p.prints[half(fingerprint)] = print{id: m.ID, at: now}
	}
	s.watch(m.Route)
	return spool.Receipt{ID: m.ID, Size: m.Size}, nil
}

// makeRoom forgets kept messages until there is room for so many bytes.
func (p *Place) makeRoom(size int64) bool {
	if p.limits.MaxBytes == 0 {
		return true
	}
	used := int64(0)
	for _, m := range p.messages {
		used += m.Size
	}
	for _, m := range p.sorted(func(m *message) bool { return m.State == spool.Delivered }) {
		if used+size <= p.limits.MaxBytes {
			break
		}
		used -= m.Size
		delete(p.messages, m.ID)
	}
	return used+size <= p.limits.MaxBytes
}

// sorted returns messages by rising id.
func (p *Place) sorted(keep func(*message) bool) []*message {
	if len(p.inOrder) > 2*len(p.messages) {
		p.inOrder = slices.DeleteFunc(p.inOrder, func(m *message) bool { return p.messages[m.ID] != m })
	}
	var all []*message
	for _, m := range p.inOrder {
		if p.messages[m.ID] == m && keep(m) {
			all = append(all, m)
		}
	}
	return all
}

// heads returns the messages of a route that nothing of their key stands before.
func (p *Place) heads(route string) []*message {
	seen := make(map[key]bool)
	for _, m := range p.messages {
		if m.lease != nil && m.Route == route {
			seen[m.key()] = true
		}
	}
	waiting := p.sorted(
		func(m *message) bool { return m.Route == route && m.State == spool.Pending && m.lease == nil },
	)
	return slices.DeleteFunc(waiting, func(m *message) bool {
		behind := seen[m.key()]
		seen[m.key()] = true
		return behind
	})
}

// key is what messages share that wait for each other.
type key struct {
	order uint64
	id    spool.ID // of one that waits for nobody
}

func (m *message) key() key {
	if m.OrderKey == 0 {
		return key{id: m.ID}
	}
	return key{order: m.OrderKey}
}

// retrying is how many have failed and are, or will be, the next of their order key.
func (p *Place) retrying(route string) (n int) {
	seen := make(map[key]bool)
	for _, m := range p.sorted(
		func(m *message) bool { return m.Route == route && m.State == spool.Pending },
	) {
		if !seen[m.key()] && !m.NextAttemptAt.IsZero() {
			n++
		}
		seen[m.key()] = true
	}
	return n
}

// Lease implements spool.Store.
func (s *Store) Lease(ctx context.Context, request spool.LeaseRequest) (spool.Leased, error) {
	leave, err := s.enter(ctx)
	if err != nil {
		return spool.Leased{}, err
	}
	defer leave()
	leased := spool.Leased{Next: -1}
	if s.p.leaseErr != nil || s.p.paused[request.Route] {
		return leased, s.p.leaseErr
	}
	now := time.Now()
	for _, m := range s.p.inTurn(request) {
		if wait := m.NextAttemptAt.Sub(now); wait > 0 {
			if leased.Next < 0 || wait < leased.Next {
				leased.Next = wait
			}
		} else if len(leased.Leases) < request.Max {
			leased.Leases = append(leased.Leases, m.take(now))
		}
	}
	return leased, nil
}

// inTurn returns the messages that a request is about, in the order of their turns.
func (p *Place) inTurn(request spool.LeaseRequest) []*message {
	heads := slices.DeleteFunc(p.heads(request.Route), func(m *message) bool {
		return m.NextAttemptAt.IsZero() == request.Tried || request.Avoid.Has(m.Destination)
	})
	if request.Newest && !request.Tried {
		slices.Reverse(heads)
	}
	slices.SortStableFunc(heads, func(a, b *message) int {
		switch {
		case a.Replayed != b.Replayed && b.Replayed:
			return -1
		case a.Replayed != b.Replayed:
			return 1
		}
		return a.NextAttemptAt.Compare(b.NextAttemptAt)
	})
	return heads
}

// FailLease has Lease return err from now on; nil has it work again.
func (s *Store) FailLease(err error) {
	s.p.mu.Lock()
	defer s.p.mu.Unlock()
	s.p.leaseErr = err
}

func (m *message) take(now time.Time) *spool.Lease {
	m.lease = &spool.Lease{Message: m.copy(), At: now}
	return m.lease
}

func (m *message) copy() *spool.Message {
	copied := m.Message
	copied.Attempts = slices.Clone(m.Attempts)
	return &copied
}

// LeaseOnly leases the one message, if it may be leased: for a test that has the choice
// made by another store.
func (s *Store) LeaseOnly(id spool.ID) (*spool.Lease, bool) {
	s.p.mu.Lock()
	defer s.p.mu.Unlock()
	m := s.p.messages[id]
	if m == nil || m.NextAttemptAt.After(time.Now()) || !slices.Contains(s.p.heads(m.Route), m) {
		return nil, false
	}
	return m.take(time.Now()), true
}

// Settle implements spool.Store.
func (s *Store) Settle(lease *spool.Lease, settlement spool.Settlement) {
	s.p.mu.Lock()
	defer s.p.mu.Unlock()
	if m := s.p.messages[lease.Message.ID]; m != nil && m.lease == lease && !s.closed {
		s.settle(m, settlement)
	}
}

func (s *Store) settle(m *message, settlement spool.Settlement) {
	m.lease = nil
	defer s.watch(m.Route)
	if m.doomed {
		delete(s.p.messages, m.ID)
		return
	}
	if settlement.Verdict != spool.Return {
		m.AddAttempt(settlement.Attempt)
		m.NextAttemptAt = time.Time{}
	}
	now := time.Now()
	switch settlement.Verdict {
	case spool.Done:
		if !settlement.Keep {
			delete(s.p.messages, m.ID)
			return
		}
		m.State, m.DeliveredAt = spool.Delivered, now
	case spool.Retry:
		m.NextAttemptAt = now.Add(settlement.Delay)
	case spool.Bury:
		m.State, m.DiedAt = spool.Dead, now
	}
}

// Body implements spool.Store.
func (s *Store) Body(ctx context.Context, id spool.ID) (spool.Body, error) {
	leave, err := s.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	m := s.p.messages[id]
	if m == nil {
		return nil, spool.ErrNotFound
	}
	return body{bytes.NewReader(m.body)}, nil
}

// SetLimits implements spool.Store.
func (s *Store) SetLimits(limits spool.Limits) {
	s.p.mu.Lock()
	defer s.p.mu.Unlock()
	s.p.limits = limits
}

// Watch implements spool.Store.
func (s *Store) Watch(f func(string)) {
	s.p.mu.Lock()
	defer s.p.mu.Unlock()
	s.watch = f
}

// Counts implements spool.Store.
func (s *Store) Counts(ctx context.Context) (spool.Counts, error) {
	leave, err := s.enter(ctx)
	if err != nil {
		return spool.Counts{}, err
	}
	defer leave()
	counts := spool.Counts{
		Routes: make(
			map[string]spool.RouteCounts,
		), Fingerprints: int64(len(s.p.prints)), MaxBytes: s.p.limits.MaxBytes,
	}
	if !s.p.full.IsZero() {
		counts.Refusing, counts.RefusingSince = spool.ReasonFull, s.p.full
	}
	for _, m := range s.p.messages {
		c := counts.Routes[m.Route]
		switch m.State {
		case spool.Dead:
			c.Dead++
			c.DeadBytes += m.Size
		case spool.Delivered:
			c.Delivered++
			c.DeliveredBytes += m.Size
		default:
			c.Pending++
			c.PendingBytes += m.Size
			if c.OldestPending.IsZero() || m.ReceivedAt.Before(c.OldestPending) {
				c.OldestPending = m.ReceivedAt
			}
		}
		if m.lease != nil {
			c.InFlight++
		}
		counts.Bytes += m.Size
		counts.Routes[m.Route] = c
	}
	for route, c := range counts.Routes {
		c.Retrying = min(s.p.retrying(route), spool.MaxRetrying)
		counts.Routes[route] = c
	}
	for route := range s.p.paused {
		c := counts.Routes[route]
		c.Paused = true
		counts.Routes[route] = c
	}
	return counts, nil
}

// Flush implements spool.Store.
func (s *Store) Flush(ctx context.Context) error {
	leave, err := s.enter(ctx)
	if err != nil {
		return err
	}
	leave()
	return nil
}

// Close implements spool.Store.
func (s *Store) Close(context.Context) error {
	s.p.mu.Lock()
	defer s.p.mu.Unlock()
	if s.closed {
		return nil
	}
	for _, m := range s.p.messages {
		if m.lease != nil {
			s.settle(m, spool.Settlement{Verdict: spool.Return})
		}
	}
	s.closed = true
	return nil
}

var _ spool.Store = (*Store)(nil)

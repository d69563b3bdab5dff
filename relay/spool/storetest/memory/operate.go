// What an operator asks for.

package memory

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
)

// Get implements spool.Store.
func (s *Store) Get(ctx context.Context, id spool.ID) (*spool.Message, error) {
	leave, err := s.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	m := s.p.messages[id]
	if m == nil {
		return nil, spool.ErrNotFound
	}
	return m.copy(), nil
}

// matching returns what a filter selects, apart from its Limit.
func (p *Place) matching(f spool.Filter) []*message {
	now := time.Now()
	all := p.sorted(func(m *message) bool { return f.Matches(&m.Message, now) })
	if f.Newest {
		slices.Reverse(all)
	}
	if f.After.IsZero() {
		return all
	}
	return slices.DeleteFunc(all, func(m *message) bool {
		order := m.ID.Compare(f.After)
		return order == 0 || (order > 0) == f.Newest
	})
}

func limit(f spool.Filter) int { return cmp.Or(f.Limit, spool.DefaultListLimit) }

// List implements spool.Store.
func (s *Store) List(ctx context.Context, filter spool.Filter) ([]*spool.Message, error) {
	leave, err := s.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	list := []*spool.Message{}
	for _, m := range s.p.matching(filter) {
		if len(list) < limit(filter) {
			list = append(list, m.copy())
		}
	}
	return list, nil
}

// Count implements spool.Store.
func (s *Store) Count(ctx context.Context, filter spool.Filter) (int64, error) {
	leave, err := s.enter(ctx)
	if err != nil {
		return 0, err
	}
	defer leave()
	filter.After = spool.ID{}
	return int64(len(s.p.matching(filter))), nil
}

func (s *Store) replay(m *message) {
	now := time.Now()
	m.Replayed = m.Replayed || m.State != spool.Pending
	m.State, m.Tries, m.ScheduledFrom, m.NextAttemptAt = spool.Pending, 0, now, time.Time{}
	m.DiedAt, m.DeliveredAt = time.Time{}, time.Time{}
	s.watch(m.Route)
}

// Replay implements spool.Store.
func (s *Store) Replay(ctx context.Context, id spool.ID) error {
	leave, err := s.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	m := s.p.messages[id]
	switch {
	case m == nil:
		return spool.ErrNotFound
	case m.lease != nil:
		return spool.ErrInFlight
	}
	s.replay(m)
	return nil
}

// ReplayAll implements spool.Store.
func (s *Store) ReplayAll(
	ctx context.Context,
	filter spool.Filter,
) (replayed int, last spool.ID, done bool, err error) {
	leave, err := s.enter(ctx)
	if err != nil {
		return 0, spool.ID{}, false, err
	}
	defer leave()
	filter.Newest = false
	last = filter.After
	for _, m := range s.p.matching(filter) {
		if m.State == spool.Pending {
			continue
		}
		if replayed == limit(filter) {
			return replayed, last, false, nil
		}
		s.replay(m)
		replayed, last = replayed+1, m.ID
	}
	return replayed, last, true, nil
}

// Drop implements spool.Store.
func (s *Store) Drop(ctx context.Context, id spool.ID) (*spool.Message, error) {
	leave, err := s.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	m := s.p.messages[id]
	switch {
	case m == nil:
		return nil, spool.ErrNotFound
	case m.lease != nil:
		m.doomed = true
		return m.copy(), spool.ErrInFlight
	}
	delete(s.p.messages, id)
	s.watch(m.Route)
	return m.copy(), nil
}

// DropAll implements spool.Store.
func (s *Store) DropAll(ctx context.Context, filter spool.Filter) ([]*spool.Message, error) {
	leave, err := s.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	filter.Newest = false
	if filter.EndedFor > 0 {
		filter.After = spool.ID{}
	}
	selected := s.p.matching(filter)
	if filter.EndedFor > 0 {
		slices.SortStableFunc(
			selected,
			func(a, b *message) int { return a.EndedAt().Compare(b.EndedAt()) },
		)
	}
	var dropped []*spool.Message
	for _, m := range selected {
		if m.lease != nil || len(dropped) == limit(filter) {
			continue
		}
		delete(s.p.messages, m.ID)
		dropped = append(dropped, m.copy())
		s.watch(m.Route)
	}
	return dropped, nil
}

// Expire implements spool.Store.
func (s *Store) Expire(
	ctx context.Context,
	route string,
	age time.Duration,
	lastError string,
	limit int,
) ([]*spool.Message, error) {
	leave, err := s.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	now := time.Now()
	var expired []*spool.Message
	if s.p.paused[route] {
		return nil, nil
	}
	for _, m := range s.p.heads(route) {
		if len(expired) == limit {
			break
		}
		if now.Sub(m.ScheduledFrom) < age || m.NextAttemptAt.After(now) {
			continue
		}
		m.State, m.DiedAt, m.NextAttemptAt = spool.Dead, now, time.Time{}
		m.LastError = cmp.Or(m.LastError, spool.ClipError(lastError))
		expired = append(expired, m.copy())
		s.watch(route)
	}
	return expired, nil
}

// Pause implements spool.Store.
func (s *Store) Pause(ctx context.Context, route string, paused bool) error {
	leave, err := s.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	delete(s.p.paused, route)
	if paused {
		s.p.paused[route] = true
	}
	s.watch(route)
	return nil
}

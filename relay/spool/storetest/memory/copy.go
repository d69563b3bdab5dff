package memory

import (
	"context"
	"slices"

	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
)

func half(f spool.Fingerprint) [16]byte { return [16]byte(f[:16]) }

// Export implements spool.Portable.
func (s *Store) Export(ctx context.Context, after spool.ID, limit int) ([]spool.Exported, error) {
	leave, err := s.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	var page []spool.Exported
	for _, m := range s.p.sorted(func(m *message) bool { return m.ID.Compare(after) > 0 }) {
		if len(page) < limit {
			page = append(page, spool.Exported{Message: m.copy(), Doomed: m.doomed})
		}
	}
	return page, nil
}

// Missing implements spool.Portable.
func (s *Store) Missing(ctx context.Context, ids []spool.ID) ([]spool.ID, error) {
	leave, err := s.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	return slices.DeleteFunc(slices.Clone(ids), s.p.has), nil
}

func (p *Place) has(id spool.ID) bool { return p.messages[id] != nil || p.imported[id] }

// Import implements spool.Portable.
func (s *Store) Import(ctx context.Context, messages []spool.Imported) (kept []spool.ID, err error) {
	leave, err := s.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	for _, imported := range messages {
		if s.p.has(imported.ID) {
			continue
		}
		m := &message{Message: *imported.Message, body: imported.Body.(*bodyWriter).Bytes()}
		at, _ := slices.BinarySearchFunc(s.p.inOrder, m.ID, func(m *message, id spool.ID) int {
			return m.ID.Compare(id)
		})
		s.p.inOrder = slices.Insert(s.p.inOrder, at, m)
		s.p.messages[m.ID], s.p.imported[m.ID] = m, true
		s.p.ids.Resume(m.ID)
		s.watch(m.Route)
		kept = append(kept, m.ID)
	}
	return kept, nil
}

// ExportPrints implements spool.Portable.
func (s *Store) ExportPrints(ctx context.Context, take func([]spool.Print) error) error {
	leave, err := s.enter(ctx)
	if err != nil {
		return err
	}
	var prints []spool.Print
	for first, p := range s.p.prints {
		kept := spool.Print{ID: p.id, At: p.at}
		copy(kept.Fingerprint[:], first[:])
		prints = append(prints, kept)
	}
	leave()
	return take(prints)
}

// ImportPrints implements spool.Portable.
func (s *Store) ImportPrints(ctx context.Context, prints []spool.Print) error {
	leave, err := s.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	for _, p := range prints {
		if known, ok := s.p.prints[half(p.Fingerprint)]; !ok || known.at.Before(p.At) {
			s.p.prints[half(p.Fingerprint)] = print{id: p.ID, at: p.At}
		}
	}
	return nil
}

var _ spool.Portable = (*Store)(nil)

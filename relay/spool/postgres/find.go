// Finding messages: one, its body, or what a filter selects.

package postgres

import (
	"context"

	"github.com/jackc/pgx/v5"

	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/postgres/bodies"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/postgres/database"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/postgres/record"
)

const getSQL = `SELECT ` + record.Columns + ` FROM @schema@.messages m WHERE m.id = $1`

// Get implements spool.Store.
func (s *Store) Get(ctx context.Context, id spool.ID) (*spool.Message, error) {
	if err := s.enter(ctx); err != nil {
		return nil, err
	}
	var found []record.Row
	get := database.SQL(getSQL, [16]byte(id)).Each(record.Collect(&found))
	err := s.db.Query(ctx, database.Quick, get)
	if err != nil {
		return nil, err
	}
	if len(found) == 0 {
		return nil, spool.ErrNotFound
	}
	return s.message(ctx, &found[0])
}

// Body implements spool.Store.
func (s *Store) Body(ctx context.Context, id spool.ID) (spool.Body, error) {
	if err := s.enter(ctx); err != nil {
		return nil, err
	}
	if content, crc, ok := s.leases.body(id); ok {
		return bodies.Inline(content, crc), nil
	}
	return s.bodies.Open(ctx, id)
}

func (s *Store) message(ctx context.Context, r *record.Row) (*spool.Message, error) {
	route, err := s.routes.name(ctx, r.Route)
	if err != nil {
		return nil, err
	}
	return r.Show(route), nil
}

func (s *Store) messages(ctx context.Context, found []record.Row) ([]*spool.Message, error) {
	list := make([]*spool.Message, 0, len(found))
	for i := range found {
		m, err := s.message(ctx, &found[i])
		if err != nil {
			return nil, err
		}
		list = append(list, m)
	}
	return list, nil
}

// List implements spool.Store.
func (s *Store) List(ctx context.Context, filter spool.Filter) ([]*spool.Message, error) {
	if err := s.enter(ctx); err != nil {
		return nil, err
	}
	found, err := s.find(ctx, filter, false)
	if err != nil {
		return nil, err
	}
	return s.messages(ctx, found)
}

// filter puts the number of its route into a filter.
func (s *Store) filter(ctx context.Context, f spool.Filter, free bool) (record.Filter, error) {
	filter := record.Filter{Filter: f, Free: free}
	if f.Route == "" {
		return filter, nil
	}
	number, ok, err := s.routes.find(ctx, f.Route)
	if filter.Route = number; !ok {
		filter.Route = record.NoRoute
	}
	return filter, err
}

// find returns what a filter selects, with free only of what is not leased.
func (s *Store) find(ctx context.Context, f spool.Filter, free bool) ([]record.Row, error) {
	filter, err := s.filter(ctx, f, free)
	if err != nil {
		return nil, err
	}
	var found []record.Row
	sql, args := filter.Find()
	err = s.db.TransactAnew(ctx, database.Slow, func() { found = nil },
		database.SQL(sql, args...).Each(record.Collect(&found)))
	return found, err
}

// Count implements spool.Store.
func (s *Store) Count(ctx context.Context, f spool.Filter) (int64, error) {
	if err := s.enter(ctx); err != nil {
		return 0, err
	}
	filter, err := s.filter(ctx, f, false)
	if err != nil {
		return 0, err
	}
	var n int64
	sql, args := filter.Count()
	count := database.SQL(sql, args...)
	err = s.db.Transact(ctx, database.Slow, count.Each(func(rows pgx.Rows) error {
		return rows.Scan(&n)
	}))
	return n, err
}

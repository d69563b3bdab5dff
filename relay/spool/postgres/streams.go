// Live streams whose messages are accepted: of which the other gateways have to know.

package postgres

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/postgres/database"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/postgres/record"
)

const noteSQL = `INSERT INTO @schema@.streams (id, gateway, route, data) VALUES ($1, $2, $3, $4)
	ON CONFLICT (id) DO UPDATE SET gateway = excluded.gateway, route = excluded.route,
		data = excluded.data`

// NoteStream implements spool.Store.
func (s *Store) NoteStream(ctx context.Context, stream spool.OpenStream) error {
	if err := s.enter(ctx); err != nil {
		return err
	}
	id, route := record.Clean(stream.ID), record.Clean(stream.Route)
	err := s.db.Transact(ctx, database.Quick, database.SQL(noteSQL, id, s.id, route, stream.Data))
	if err != nil && ctx.Err() == nil {
		return database.Refuse(err)
	}
	return err
}

// ForgetStream implements spool.Store.
func (s *Store) ForgetStream(ctx context.Context, id string) error {
	if err := s.enter(ctx); err != nil {
		return err
	}
	return s.db.Transact(ctx, database.Quick,
		database.SQL(`DELETE FROM @schema@.streams WHERE id = $1`, record.Clean(id)))
}

// lostSQL finds the streams of gateways that were not seen for a time.
const lostSQL = `
SELECT s.id, s.route, s.data FROM @schema@.streams s
WHERE s.gateway <> $1 AND NOT EXISTS (SELECT FROM @schema@.gateways g WHERE g.id = s.gateway
	AND g.seen > now() - $2::interval)
ORDER BY s.id LIMIT 1000`

// LostStreams implements spool.Store. When the database comes back, or this gateway to it, the
// others get as long as a lease lasts to be seen again.
func (s *Store) LostStreams(ctx context.Context) ([]spool.OpenStream, error) {
	if err := s.enter(ctx); err != nil {
		return nil, err
	}
	if since, refusal := s.db.State(); refusal != nil {
		return nil, refusal
	} else if time.Since(since) < s.options.Lease {
		return nil, nil
	}
	return s.streams(ctx, database.SQL(lostSQL, s.id, s.options.Lease))
}

// ExportStreams implements spool.Portable.
func (s *Store) ExportStreams(ctx context.Context) ([]spool.OpenStream, error) {
	if err := s.enter(ctx); err != nil {
		return nil, err
	}
	all := database.SQL(`SELECT id, route, data FROM @schema@.streams ORDER BY id`)
	return s.streams(ctx, all)
}

func (s *Store) streams(
	ctx context.Context, which database.Statement,
) (streams []spool.OpenStream, err error) {
	err = s.db.Query(ctx, database.Slow, which.Each(func(rows pgx.Rows) error {
		var stream spool.OpenStream
		err := rows.Scan(&stream.ID, &stream.Route, &stream.Data)
		streams = append(streams, stream)
		return err
	}))
	return streams, err
}

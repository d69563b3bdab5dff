// Package record is how a message is written in rows of the database, and read from them; and how
// messages are found, as SQL. It asks no database.
//
// A row is in row.go, what is in its columns in ids.go, text.go, attempts.go and meta.go, what
// selects rows in filter.go.
package record

import (
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
)

// States as they are in the database.
const (
	Pending   int16 = 0
	Dead      int16 = 1
	Delivered int16 = 2
	Doomed    int16 = 3 // pending, to be forgotten when its lease ends
)

// StateOf returns a state as it is in the database.
func StateOf(state spool.State) int16 {
	switch state {
	case spool.Dead:
		return Dead
	case spool.Delivered:
		return Delivered
	}
	return Pending
}

// Columns are what a Row reads, of a table of messages as m. Where they are returned by a part of a
// statement, Names are what they are called there.
const (
	Columns = `m.id, m.route AS at_route, m.state, m.tries, m.replayed, m.next_at,
	m.ended_at, m.scheduled_from, m.order_key, m.destination,
	m.size, m.last_error, m.attempts::text AS attempts, m.meta`
	Names = `id, at_route, state, tries, replayed, next_at, ended_at, scheduled_from, order_key,
	destination, size, last_error, attempts, meta`
)

// Overhead is what a message takes up besides its body and what was said of it, roughly: rows and
// entries of indexes.
const Overhead = 600

// Row is a message as the database has it.
type Row struct {
	ID            [16]byte
	Route         int32
	state         int16
	tries         int32
	replayed      bool
	nextAt        *time.Time
	endedAt       *time.Time
	scheduledFrom time.Time
	orderKey      int64
	destination   int64
	size          int64
	lastError     string
	attempts      *string
	meta          []byte
}

// Targets are for Scan.
func (r *Row) Targets() []any {
	return []any{
		&r.ID, &r.Route, &r.state, &r.tries, &r.replayed, &r.nextAt, &r.endedAt,
		&r.scheduledFrom, &r.orderKey, &r.destination,
		&r.size, &r.lastError, &r.attempts, &r.meta,
	}
}

// Collect returns what appends the rows that are read to a list.
func Collect(list *[]Row) func(rows pgx.Rows) error {
	return func(rows pgx.Rows) error {
		var r Row
		err := rows.Scan(r.Targets()...)
		*list = append(*list, r)
		return err
	}
}

// Doomed reports whether the message is to be forgotten when its lease ends.
func (r *Row) Doomed() bool { return r.state == Doomed }

// Message makes a message of it. The error says that its record cannot be read; then the message
// has what else the row says.
func (r *Row) Message(route string) (*spool.Message, error) {
	m := &spool.Message{
		ID: r.ID, State: spool.Pending, Route: route, Tries: int(r.tries), Replayed: r.replayed,
		ReceivedAt: ReceivedAt(r.ID), ScheduledFrom: r.scheduledFrom, OrderKey: uint64(r.orderKey),
		Destination: spool.Destination(r.destination), Size: r.size, LastError: r.lastError,
	}
	if r.nextAt != nil {
		m.NextAttemptAt = *r.nextAt
	}
	switch {
	case r.endedAt == nil:
	case r.state == Dead:
		m.State, m.DiedAt = spool.Dead, *r.endedAt
	case r.state == Delivered:
		m.State, m.DeliveredAt = spool.Delivered, *r.endedAt
	}
	if r.attempts != nil {
		m.Attempts = decodeAttempts(*r.attempts, m.ReceivedAt)
	}
	if err := decodeMeta(r.meta, m); err != nil {
		m.Method, m.URI, m.RequestID, m.User, m.Header = "", "", "", "", nil
		return m, fmt.Errorf("message %s: %w: %w", m.ID, spool.ErrDamaged, err)
	}
	return m, nil
}

// Show is Message for those who only look: of a record that cannot be read, it says so.
func (r *Row) Show(route string) *spool.Message {
	m, err := r.Message(route)
	if err != nil {
		m.LastError = spool.ClipError(err.Error())
	}
	return m
}

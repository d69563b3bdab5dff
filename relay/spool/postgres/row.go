// Reading messages from rows.

package postgres

import (
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
)

// States as they are in the database.
const (
	statePending   = 0
	stateDead      = 1
	stateDelivered = 2
	stateDoomed    = 3 // pending, to be forgotten when its lease ends
)

// messageColumns are what a row reads.
const messageColumns = `m.id, m.route AS at_route, m.state, m.tries, m.replayed, m.next_at,
	m.ended_at, m.scheduled_from, m.order_key, m.destination,
	m.size, m.last_error, m.attempts::text AS attempts, m.meta`

// row is a message as the database has it.
type row struct {
	id            [16]byte
	route         int32
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

// targets are for Scan.
func (r *row) targets() []any {
	return []any{
		&r.id, &r.route, &r.state, &r.tries, &r.replayed, &r.nextAt, &r.endedAt,
		&r.scheduledFrom, &r.orderKey, &r.destination,
		&r.size, &r.lastError, &r.attempts, &r.meta,
	}
}

// collect returns what appends the rows that are read to a list.
func collect(list *[]row) func(rows pgx.Rows) error {
	return func(rows pgx.Rows) error {
		var r row
		err := rows.Scan(r.targets()...)
		*list = append(*list, r)
		return err
	}
}

// message makes a message of it. The error says that its record cannot be read; then the message
// has what else the row says.
func (r *row) message(route string) (*spool.Message, error) {
	m := &spool.Message{
		ID: r.id, State: spool.Pending, Route: route, Tries: int(r.tries), Replayed: r.replayed,
		ReceivedAt: receivedAt(r.id), ScheduledFrom: r.scheduledFrom, OrderKey: uint64(r.orderKey),
		Destination: spool.Destination(r.destination), Size: r.size, LastError: r.lastError,
	}
	if r.nextAt != nil {
		m.NextAttemptAt = *r.nextAt
	}
	switch {
	case r.endedAt == nil:
	case r.state == stateDead:
		m.State, m.DiedAt = spool.Dead, *r.endedAt
	case r.state == stateDelivered:
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

// show is message for those who only look: of a record that cannot be read, it says so.
func (r *row) show(route string) *spool.Message {
	m, err := r.message(route)
	if err != nil {
		m.LastError = spool.ClipError(err.Error())
	}
	return m
}

// Finding messages: one, or what a filter selects.

package postgres

import (
	"bytes"
	"cmp"
	"context"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/postgres/database"
)

const getSQL = `SELECT ` + messageColumns + ` FROM @schema@.messages m WHERE m.id = $1`

// Get implements spool.Store.
func (s *Store) Get(ctx context.Context, id spool.ID) (*spool.Message, error) {
	if err := s.enter(ctx); err != nil {
		return nil, err
	}
	var found []row
	get := database.SQL(getSQL, [16]byte(id)).Each(collect(&found))
	err := s.db.Query(ctx, database.Quick, get)
	if err != nil {
		return nil, err
	}
	if len(found) == 0 {
		return nil, spool.ErrNotFound
	}
	return s.message(ctx, &found[0])
}

func (s *Store) message(ctx context.Context, r *row) (*spool.Message, error) {
	route, err := s.routes.name(ctx, r.route)
	if err != nil {
		return nil, err
	}
	return r.show(route), nil
}

func (s *Store) messages(ctx context.Context, found []row) ([]*spool.Message, error) {
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

// selection is a filter as SQL.
type selection struct {
	from  string // what to select from, and where, with the table of messages as m
	order string // the columns in order
	args  []any
}

var lowestID, highestID = spool.ID{}, spool.ID(bytes.Repeat([]byte{0xff}, len(spool.ID{})))

// arg adds an argument and returns its place.
func (q *selection) arg(value any) string {
	q.args = append(q.args, value)
	return "$" + strconv.Itoa(len(q.args))
}

// selectBy turns a filter into SQL: by request id where there is one, or else a range of ids for
// each route and state, so that either way there is an index that has them in order.
func (s *Store) selectBy(
	ctx context.Context,
	f spool.Filter,
	free, byEnd bool,
) (*selection, error) {
	q := &selection{}
	low, high := lowestID, highestID
	if !f.Since.IsZero() {
		low = idFrom(f.Since)
	}
	if !f.Until.IsZero() {
		high = idFrom(f.Until)
	}
	switch {
	case f.After.IsZero():
	case f.Newest && f.After.Compare(high) < 0:
		high = f.After
	case !f.Newest && f.After.Compare(low) > 0:
		low = f.After
	}
	lowOperator := ">="
	if low == f.After {
		lowOperator = ">"
	}
	bound := func(id spool.ID) string { return q.arg([16]byte(id)) + "::uuid" }
	conditions := ""
	if f.RequestID != "" {
		conditions += " AND m.request_id = " + q.arg(clean(f.RequestID))
	}
	if f.User != "" {
		conditions += " AND m.account = " + q.arg(clean(f.User))
	}
	ended := "now()"
	if f.EndedFor > 0 {
		ended += " - " + q.arg(f.EndedFor) + "::interval"
		if !byEnd { // which has it in its range
			conditions += " AND m.ended_at <= " + ended
		}
	}
	if free {
		// As one of two cases it is looked up for each row, instead of being joined with all of
		// them.
		conditions += ` AND m.state <> 3 AND (m.state <> 0 OR NOT EXISTS (SELECT
			FROM @schema@.lanes l
			WHERE l.route = m.route AND l.key = m.lane AND l.head = m.id AND l.due > now()))`
	}
	states := statesOf(f)
	route := int32(0)
	if f.Route != "" {
		number, ok, err := s.routes.find(ctx, f.Route)
		if err != nil {
			return nil, err
		}
		if !ok {
			states = []int16{}
		}
		route = number
	}
	statesArg, routeArg := q.arg(states)+"::smallint[]", q.arg(route)+"::integer"
	if f.RequestID != "" {
		key := q.arg(requestKey(f.RequestID)) + "::bigint"
		q.order = "m.request_key, m.id"
		q.from = ` FROM @schema@.messages m WHERE m.request_key <> 0 AND m.request_key = ` + key + `
			AND m.id ` + lowOperator + ` ` + bound(
			low,
		) + `
			AND m.id < ` + bound(
			high,
		) + ` AND m.state = ANY(` + statesArg + `) AND (` + routeArg + ` = 0
			OR m.route = ` + routeArg + `)` + conditions
		return q, nil
	}
	var where string
	switch {
	case !byEnd:
		q.order = "m.state, m.id"
		where = `m.route = k.route AND m.state BETWEEN k.state AND k.state
			AND (m.state, m.id) ` + lowOperator + ` (k.state, ` + bound(low) + `)
			AND (m.state, m.id) < (k.state, ` + bound(high) + `)`
	default:
		q.order = "m.ended_at"
		where = `m.route = k.route AND m.state = k.state AND m.ended_at <= ` + ended
		if !f.Since.IsZero() || !f.Until.IsZero() {
			where += ` AND m.id >= ` + bound(low) + ` AND m.id < ` + bound(high)
		}
	}
	q.from = ` FROM (SELECT r.id AS route, s.state FROM @schema@.routes r CROSS
		JOIN unnest(` + statesArg + `) AS s (state)
			WHERE ` + routeArg + ` = 0 OR r.id = ` + routeArg + `) k
		CROSS JOIN LATERAL (SELECT m.* FROM @schema@.messages m
			WHERE ` + where + conditions + `@limit@) m`
	return q, nil
}

func statesOf(f spool.Filter) []int16 {
	switch {
	case f.State == spool.Dead:
		return []int16{stateDead}
	case f.State == spool.Delivered:
		return []int16{stateDelivered}
	case f.State == spool.Pending:
		return []int16{statePending, stateDoomed}
	case f.EndedFor > 0:
		return []int16{stateDead, stateDelivered}
	}
	return []int16{statePending, stateDead, stateDelivered, stateDoomed}
}

// find returns what a filter selects. With free it is not what is leased, and, where it is about
// what has ended for long, what has for longest.
func (s *Store) find(ctx context.Context, f spool.Filter, free bool) ([]row, error) {
	byEnd := free && f.EndedFor > 0 && f.RequestID == ""
	q, err := s.selectBy(ctx, f, free, byEnd)
	if err != nil {
		return nil, err
	}
	limit := q.arg(cmp.Or(f.Limit, spool.DefaultListLimit)) + "::bigint"
	direction := ""
	if f.Newest {
		direction = " DESC"
	}
	order := ""
	for i, column := range splitColumns(q.order) {
		if i > 0 {
			order += ", "
		}
		order += column + direction
	}
	outer := " ORDER BY m.id" + direction + " LIMIT " + limit
	if f.RequestID != "" {
		outer = " ORDER BY " + order + " LIMIT " + limit
	}
	if byEnd {
		outer = " ORDER BY m.ended_at LIMIT " + limit
	}
	sql := `SELECT ` + messageColumns + replaceLimit(
		q.from,
		" ORDER BY "+order+" LIMIT "+limit,
	) + outer
	var found []row
	err = s.db.TransactAnew(ctx, database.Slow, func() { found = nil },
		database.SQL(sql, q.args...).Each(collect(&found)))
	return found, err
}

// Count implements spool.Store.
func (s *Store) Count(ctx context.Context, f spool.Filter) (int64, error) {
	if err := s.enter(ctx); err != nil {
		return 0, err
	}
	f.After, f.Newest = spool.ID{}, false
	q, err := s.selectBy(ctx, f, false, false)
	if err != nil {
		return 0, err
	}
	var n int64
	sql := `SELECT count(*)` + replaceLimit(q.from, "")
	count := database.SQL(sql, q.args...)
	err = s.db.Transact(ctx, database.Slow, count.Each(func(rows pgx.Rows) error {
		return rows.Scan(&n)
	}))
	return n, err
}

// replaceLimit puts an order and a limit where a selection has room for one.
func replaceLimit(from, limit string) string { return strings.ReplaceAll(from, "@limit@", limit) }

func splitColumns(columns string) []string { return strings.Split(columns, ", ") }

// Which messages a filter selects, as SQL.

package record

import (
	"bytes"
	"cmp"
	"strconv"
	"strings"

	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
)

// NoRoute is the number of a route of which there are no messages.
const NoRoute = -1

// Filter selects messages.
type Filter struct {
	spool.Filter
	Route int32 // the number of that of the filter, 0 for none
	Free  bool  // only what is not leased
}

// Find returns the SQL that finds what is selected, as rows. What is free and has ended for long is
// found by when it ended.
func (f Filter) Find() (sql string, args []any) {
	q := f.selection()
	limit := " LIMIT " + q.arg(cmp.Or(f.Limit, spool.DefaultListLimit)) + "::bigint"
	direction := ""
	if f.Newest {
		direction = " DESC"
	}
	order := strings.ReplaceAll(q.order, ",", direction+",") + direction
	inner := " ORDER BY " + order + limit
	outer := " ORDER BY m.id" + direction + limit
	if f.RequestID != "" || f.byEnd() {
		outer = inner
	}
	return `SELECT ` + Columns + q.ordered(inner) + outer, q.args
}

// Count returns the SQL that counts what is selected.
func (f Filter) Count() (sql string, args []any) {
	f.After, f.Newest = spool.ID{}, false
	q := f.selection()
	return `SELECT count(*)` + q.ordered(""), q.args
}

// byEnd reports whether messages are found by when they ended.
func (f Filter) byEnd() bool { return f.Free && f.EndedFor > 0 && f.RequestID == "" }

// selection is a filter as SQL.
type selection struct {
	from  string // what to select from, and where, with the table of messages as m
	order string // the columns in order
	args  []any
}

// arg adds an argument and returns its place.
func (q *selection) arg(value any) string {
	q.args = append(q.args, value)
	return "$" + strconv.Itoa(len(q.args))
}

func (q *selection) id(id spool.ID) string { return q.arg([16]byte(id)) + "::uuid" }

// ordered puts an order and a limit where the selection has room for one.
func (q *selection) ordered(limit string) string {
	return strings.ReplaceAll(q.from, "@limit@", limit)
}

// selection turns a filter into SQL: by request id where there is one, or else a range of ids for
// each route and state, so that either way there is an index that has them in order.
func (f Filter) selection() *selection {
	q := &selection{}
	conditions := ""
	if f.RequestID != "" {
		conditions += " AND m.request_id = " + q.arg(Clean(f.RequestID))
	}
	if f.User != "" {
		conditions += " AND m.account = " + q.arg(Clean(f.User))
	}
	ended := "now()"
	if f.EndedFor > 0 {
		ended += " - " + q.arg(f.EndedFor) + "::interval"
		if !f.byEnd() { // which has it in its range
			conditions += " AND m.ended_at <= " + ended
		}
	}
	if f.Free {
		// As one of two cases it is looked up for each row, instead of being joined with all of
		// them.
		conditions += ` AND m.state <> 3 AND (m.state <> 0 OR NOT EXISTS (SELECT
			FROM @schema@.lanes l
			WHERE l.route = m.route AND l.key = m.lane AND l.head = m.id AND l.due > now()))`
	}
	states, route := q.arg(f.states())+"::smallint[]", q.arg(f.Route)+"::integer"
	if f.RequestID != "" {
		f.selectByRequest(q, states, route, conditions)
		return q
	}
	low, high, from := f.bounds()
	var where string
	if f.byEnd() {
		q.order = "m.ended_at"
		where = `m.route = k.route AND m.state = k.state AND m.ended_at <= ` + ended
		if !f.Since.IsZero() || !f.Until.IsZero() {
			where += ` AND m.id >= ` + q.id(low) + ` AND m.id < ` + q.id(high)
		}
	} else {
		q.order = "m.state, m.id"
		where = `m.route = k.route AND m.state BETWEEN k.state AND k.state
			AND (m.state, m.id) ` + from + ` (k.state, ` + q.id(low) + `)
			AND (m.state, m.id) < (k.state, ` + q.id(high) + `)`
	}
	q.from = ` FROM (SELECT r.id AS route, s.state FROM @schema@.routes r CROSS
		JOIN unnest(` + states + `) AS s (state)
			WHERE ` + route + ` = 0 OR r.id = ` + route + `) k
		CROSS JOIN LATERAL (SELECT m.* FROM @schema@.messages m
			WHERE ` + where + conditions + `@limit@) m`
	return q
}

func (f Filter) selectByRequest(q *selection, states, route, conditions string) {
	low, high, from := f.bounds()
	q.order = "m.request_key, m.id"
	q.from = ` FROM @schema@.messages m WHERE m.request_key <> 0
		AND m.request_key = ` + q.arg(RequestKey(f.RequestID)) + `::bigint
		AND m.id ` + from + ` ` + q.id(low) + ` AND m.id < ` + q.id(high) + `
		AND m.state = ANY(` + states + `)
		AND (` + route + ` = 0 OR m.route = ` + route + `)` + conditions
}

var lowestID, highestID = spool.ID{}, spool.ID(bytes.Repeat([]byte{0xff}, len(spool.ID{})))

// bounds returns the range of ids, and how its lower end is compared.
func (f Filter) bounds() (low, high spool.ID, from string) {
	low, high, from = lowestID, highestID, ">="
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
	if low == f.After {
		from = ">"
	}
	return low, high, from
}

func (f Filter) states() []int16 {
	switch {
	case f.State == spool.Dead:
		return []int16{Dead}
	case f.State == spool.Delivered:
		return []int16{Delivered}
	case f.State == spool.Pending:
		return []int16{Pending, Doomed}
	case f.EndedFor > 0:
		return []int16{Dead, Delivered}
	}
	return []int16{Pending, Dead, Delivered, Doomed}
}

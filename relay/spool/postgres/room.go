// How much room there is, and what gives way when there is none.

package postgres

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/postgres/database"
)

const (
	// recount is how often it is counted what there is while messages come, recountNearly how often
	// when there is nearly no room any more: others accept too.
	recount       = 5 * time.Second
	recountNearly = 250 * time.Millisecond
)

// room sees to it that there is no more in the store than there may be. Several gateways at once
// may go beyond that by what they accept between two counts.
type room struct {
	s         *Store
	max, used atomic.Int64
	kept      atomic.Int64 // of used, what would give way
	arriving  atomic.Int64 // of bodies that are on their way in
	counted   atomic.Int64 // when that was, in nanoseconds; 0: it is not known what there is

	mu      sync.Mutex
	since   time.Time // when it began to refuse; zero: it does not
	refused int64     // what the last one would have taken
}

var errFull = &spool.RefusedError{Reason: spool.ReasonFull, RetryAfter: database.RetryAfter}

// limit sets how much there may be; 0: no limit.
func (r *room) limit(bytes int64) {
	r.max.Store(bytes)
	r.counted.Store(0)
}

// stale reports whether it should be counted again what there is.
func (r *room) stale(limit int64) bool {
	age := time.Since(time.Unix(0, r.counted.Load()))
	return age > recount || age > recountNearly && r.used.Load() > limit-limit/10
}

// Expect refuses a body for which there will be no room.
func (r *room) Expect(size int64) error {
	limit := r.max.Load()
	fits := func() bool { return r.used.Load()-r.kept.Load()+r.arriving.Load()+max(size, 0) <= limit }
	if limit == 0 || r.counted.Load() != 0 && fits() {
		return nil
	}
	if err := r.count(r.s.ctx); err != nil {
		return database.Refuse(err)
	}
	if !fits() {
		r.refuse(size)
		return errFull
	}
	return nil
}

// Arrive takes note of bytes of bodies that are on their way in.
func (r *room) Arrive(size int64) { r.arriving.Add(size) }

// admit returns those of a group for which there is room, and refuses the others. Kept messages
// give way.
func (r *room) admit(ctx context.Context, group []*entry) []*entry {
	limit := r.max.Load()
	if limit == 0 {
		r.refuse(0)
		return group
	}
	need := int64(0)
	for _, e := range group {
		need += e.cost()
	}
	var err error
	if r.stale(limit) {
		err = r.count(ctx)
	}
	if err == nil && r.used.Load()+need <= limit {
		r.used.Add(need)
		r.refuse(0)
		return group
	}
	if err == nil {
		err = r.make(ctx, limit, need)
	}
	if err != nil {
		for _, e := range group {
			e.finish(spool.Receipt{}, database.Refuse(err))
		}
		return nil
	}
	admitted := make([]*entry, 0, len(group)) // the group is to be released as a whole
	for _, e := range group {
		if r.used.Load()+e.cost() > limit {
			r.refuse(e.cost())
			e.finish(spool.Receipt{}, errFull)
			continue
		}
		r.used.Add(e.cost())
		admitted = append(admitted, e)
	}
	return admitted
}

// refuse notes that there was no room for so many bytes; 0: there was.
func (r *room) refuse(size int64) {
	r.mu.Lock()
	was := !r.since.IsZero()
	r.refused = size
	switch {
	case size == 0:
		r.since = time.Time{}
	case !was:
		r.since = time.Now()
	}
	r.mu.Unlock()
	if is := size > 0; is != was && r.s.options.Events.Refusing != nil {
		r.s.options.Events.Refusing(spool.ReasonFull, is, nil)
	}
}

// refusing returns since when there is no room, zero if there is with so many bytes taken.
func (r *room) refusing(used int64) time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	if used+r.refused <= r.max.Load() {
		return time.Time{}
	}
	return r.since
}

// make counts what there is, and forgets kept messages until there is room for what is needed.
func (r *room) make(ctx context.Context, limit, need int64) error {
	for {
		if err := r.count(ctx); err != nil {
			return err
		}
		if r.used.Load()+need <= limit || r.kept.Load() == 0 {
			return nil
		}
		forgotten, err := r.s.forgetKept(ctx)
		if err != nil || forgotten == 0 {
			return err
		}
	}
}

const usedSQL = `SELECT coalesce(sum(cost), 0)::bigint, coalesce(sum(delivered_bytes
	+ delivered * 600), 0)::bigint FROM @schema@.counts`

// count counts what there is.
func (r *room) count(ctx context.Context) error {
	return r.s.db.Query(ctx, database.Quick, database.SQL(usedSQL).Each(func(rows pgx.Rows) error {
		var used, kept int64
		err := rows.Scan(&used, &kept)
		r.used.Store(used)
		r.kept.Store(kept)
		r.counted.Store(time.Now().UnixNano())
		return err
	}))
}

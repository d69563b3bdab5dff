// How much room there is, and what gives way when there is none.

package counts

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/caddy-deepgram/deepgram-callback/internal/inturn"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/postgres/database"
)

const (
	// recount is how often it is counted what there is while messages come, recountNearly how often
	// when there is nearly no room any more: others accept too.
	recount       = 5 * time.Second
	recountNearly = 250 * time.Millisecond
)

// RoomOptions say whose room it is, and what is done about it.
type RoomOptions struct {
	DB      *database.DB
	Context context.Context // ends when the store is closed

	// Forget forgets some of what was delivered and kept, and returns how many messages.
	Forget func(ctx context.Context) (int, error)

	// Refusing is called when there is no room any more, and when there is again.
	Refusing func(refusing bool)
}

// Room sees to it that there is no more in the store than there may be. Several gateways at once
// may go beyond that by what they accept between two counts.
type Room struct {
	options   RoomOptions
	max, used atomic.Int64
	kept      atomic.Int64 // of used, what would give way
	arriving  atomic.Int64 // of bodies that are on their way in
	counted   atomic.Int64 // when that was, in nanoseconds; 0: it is not known what there is

	mu      sync.Mutex
	since   time.Time // when it began to refuse; zero: it does not
	refused int64     // what the last one would have taken

	told inturn.Teller[bool] // whether it refuses; before mu
}

// ErrFull refuses what there is no room for.
var ErrFull = &spool.RefusedError{Reason: spool.ReasonFull, RetryAfter: database.RetryAfter}

// NewRoom returns the room of a store, without a limit.
func NewRoom(options RoomOptions) *Room { return &Room{options: options} }

// Max returns how much there may be; 0: no limit.
func (r *Room) Max() int64 { return r.max.Load() }

// Limit sets how much there may be; 0: no limit.
func (r *Room) Limit(bytes int64) {
	r.max.Store(bytes)
	r.counted.Store(0)
}

// stale reports whether it should be counted again what there is.
func (r *Room) stale(limit int64) bool {
	age := time.Since(time.Unix(0, r.counted.Load()))
	return age > recount || age > recountNearly && r.used.Load() > limit-limit/10
}

// Expect refuses a body for which there will be no room.
func (r *Room) Expect(size int64) error {
	limit := r.max.Load()
	fits := func() bool { return r.used.Load()-r.kept.Load()+r.arriving.Load()+max(size, 0) <= limit }
	if limit == 0 || r.counted.Load() != 0 && fits() {
		return nil
	}
	if err := r.count(r.options.Context); err != nil {
		return database.Refuse(err)
	}
	if !fits() {
		r.refuse(size)
		return ErrFull
	}
	return nil
}

// Arrive takes note of bytes of bodies that are on their way in.
func (r *Room) Arrive(size int64) { r.arriving.Add(size) }

// Admit takes room for messages that take up so much each. It returns the refusals of those for
// which there is none, each in the place of its message; nil if there is room for all. Kept
// messages give way.
func (r *Room) Admit(ctx context.Context, costs []int64) (refusals []error) {
	limit := r.max.Load()
	if limit == 0 {
		r.refuse(0)
		return nil
	}
	need := int64(0)
	for _, cost := range costs {
		need += cost
	}
	var err error
	if r.stale(limit) {
		err = r.count(ctx)
	}
	if err == nil && r.used.Load()+need <= limit {
		r.used.Add(need)
		r.refuse(0)
		return nil
	}
	if err == nil {
		err = r.make(ctx, limit, need)
	}
	refusals = make([]error, len(costs))
	for i, cost := range costs {
		switch {
		case err != nil:
			refusals[i] = database.Refuse(err)
		case r.used.Load()+cost > limit:
			r.refuse(cost)
			refusals[i] = ErrFull
		default:
			r.used.Add(cost)
		}
	}
	return refusals
}

// refuse notes that there was no room for so many bytes; 0: there was.
func (r *Room) refuse(size int64) {
	r.mu.Lock()
	r.refused = size
	switch {
	case size == 0:
		r.since = time.Time{}
	case r.since.IsZero():
		r.since = time.Now()
	}
	r.mu.Unlock()
	r.told.Tell(r.refuses, func(was, is bool) {
		if was != is {
			r.options.Refusing(is)
		}
	})
}

func (r *Room) refuses() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return !r.since.IsZero()
}

// Refusing returns since when there is no room, zero if there is with so many bytes taken.
func (r *Room) Refusing(used int64) time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	if used+r.refused <= r.max.Load() {
		return time.Time{}
	}
	return r.since
}

// make counts what there is, and forgets kept messages until there is room for what is needed.
func (r *Room) make(ctx context.Context, limit, need int64) error {
	for {
		if err := r.count(ctx); err != nil {
			return err
		}
		if r.used.Load()+need <= limit || r.kept.Load() == 0 {
			return nil
		}
		forgotten, err := r.options.Forget(ctx)
		if err != nil || forgotten == 0 {
			return err
		}
	}
}

const usedSQL = `SELECT coalesce(sum(cost), 0)::bigint, coalesce(sum(delivered_bytes
	+ delivered * 600), 0)::bigint FROM @schema@.counts`

// count counts what there is.
func (r *Room) count(ctx context.Context) error {
	all := database.SQL(usedSQL)
	return r.options.DB.Query(ctx, database.Quick, all.Each(func(rows pgx.Rows) error {
		var used, kept int64
		err := rows.Scan(&used, &kept)
		r.used.Store(used)
		r.kept.Store(kept)
		r.counted.Store(time.Now().UnixNano())
		return err
	}))
}

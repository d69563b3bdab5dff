// Leases that this gateway has: renewed while it lives, lost when that does not work out.

package postgres

import (
	"cmp"
	"context"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/postgres/database"
)

// maxCached bounds the bodies that are kept for messages which are leased.
const maxCached = 8 << 20

// held is a lease of ours.
type held struct {
	id      spool.ID
	route   int32
	key     int64
	claim   [16]byte
	lost    chan struct{}
	renewed time.Time // by our own clock, before the database was asked
	cached  bool
	body    []byte
	crc     uint32
	message *spool.Message
}

// leases knows all of them.
type leases struct {
	s *Store

	mu     sync.Mutex
	held   map[spool.ID]*held
	cached int
}

func newLeases(s *Store) *leases { return &leases{s: s, held: make(map[spool.ID]*held)} }

func (l *leases) add(h *held) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if h.body != nil && l.cached+len(h.body) <= maxCached {
		h.cached = true
		l.cached += len(h.body)
	} else {
		h.body = nil
	}
	l.held[h.id] = h
}

// end takes a lease out, and reports whether it was there and is not over. A process that was
// stopped may find out only here that it is.
func (l *leases) end(h *held) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case !l.remove(h):
		return false
	case time.Since(h.renewed) >= l.s.options.Lease:
		close(h.lost)
		return false
	}
	return true
}

func (l *leases) remove(h *held) bool {
	if l.held[h.id] != h {
		return false
	}
	delete(l.held, h.id)
	if h.cached {
		l.cached -= len(h.body)
	}
	return true
}

// body returns a small body that came along with its lease.
func (l *leases) body(id spool.ID) (content []byte, crc uint32, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	h := l.held[id]
	if h == nil || !h.cached {
		return nil, 0, false
	}
	return h.body, h.crc, true
}

func (l *leases) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.held)
}

func (l *leases) all() []*held {
	l.mu.Lock()
	defer l.mu.Unlock()
	all := make([]*held, 0, len(l.held))
	for _, h := range l.held {
		all = append(all, h)
	}
	return all
}

// giveBack ends all leases as if nothing had been tried.
func (l *leases) giveBack() {
	for _, h := range l.all() {
		if l.end(h) {
			l.s.courier.settle(h, spool.Settlement{Verdict: spool.Return})
		}
	}
}

// run renews the leases, and ends those that are lost.
func (l *leases) run(ctx context.Context) {
	renewal := time.NewTicker(l.s.options.Lease / 3)
	defer renewal.Stop()
	expiry := time.NewTicker(min(time.Second, l.s.options.Lease/10))
	defer expiry.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-expiry.C:
			l.expire()
		case <-renewal.C:
			l.expire()
			l.renew(ctx)
		}
	}
}

// expire ends the leases of which nobody can say any more that they are ours.
func (l *leases) expire() {
	for _, h := range l.all() {
		l.mu.Lock()
		late := time.Since(h.renewed) >= l.s.options.Lease
		if late && l.remove(h) {
			close(h.lost)
		}
		l.mu.Unlock()
	}
}

const renewSQL = `
UPDATE @schema@.lanes l SET due = now() + $4::interval
FROM (
	SELECT x.route, x.key FROM unnest($1::integer[], $2::bigint[], $3::uuid[])
		AS s (route, key, claim)
	JOIN @schema@.lanes x ON x.route = s.route AND x.key = s.key AND x.claim = s.claim
	ORDER BY x.route, x.key FOR UPDATE OF x
) s
WHERE l.route = s.route AND l.key = s.key
RETURNING l.route, l.key, l.claim`

// renew puts off the end of all leases. Those of which the database knows nothing are lost.
func (l *leases) renew(ctx context.Context) {
	asked := l.all()
	if len(asked) == 0 {
		return
	}
	var routes []int32
	var keys []int64
	var claims [][16]byte
	for _, h := range asked {
		routes, keys, claims = append(routes, h.route), append(keys, h.key), append(claims, h.claim)
	}
	began := time.Now()
	renewed := make(map[lane][16]byte, len(asked))
	renew := database.SQL(renewSQL, routes, keys, claims, l.s.options.Lease)
	limit := min(database.Quick, l.s.options.Lease/3)
	err := l.s.db.TransactAnew(ctx, limit, func() { clear(renewed) },
		renew.Each(func(rows pgx.Rows) error {
			var at lane
			var claim [16]byte
			if err := rows.Scan(&at.route, &at.key, &claim); err != nil {
				return err
			}
			renewed[at] = claim
			return nil
		}))
	if err != nil {
		return // they end by themselves, unless it works the next time
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, h := range asked {
		if claim, ok := renewed[lane{h.route, h.key}]; ok && claim == h.claim {
			h.renewed = began
		} else if l.remove(h) {
			close(h.lost)
		}
	}
}

// Lease implements spool.Store.
func (s *Store) Lease(ctx context.Context, request spool.LeaseRequest) (spool.Leased, error) {
	none := spool.Leased{Next: -1}
	if err := s.enter(ctx); err != nil {
		return none, err
	}
	route, ok, err := s.routes.find(ctx, request.Route)
	if err != nil {
		return none, err
	}
	if !ok {
		return none, nil
	}
	s.hints.Interest(route)
	asked := &leaseRequest{
		LeaseRequest: request, route: route, claim: uuid.New(), answer: make(chan leaseAnswer, 1),
	}
	s.courier.ask(asked)
	select {
	case answer := <-asked.answer:
		return answer.leased, answer.err
	case <-ctx.Done():
		go s.refuseLeases(asked)
		return none, ctx.Err()
	}
}

// refuseLeases gives back what comes for somebody who does not wait for it any more.
func (s *Store) refuseLeases(asked *leaseRequest) {
	for _, lease := range (<-asked.answer).leased.Leases {
		s.Settle(lease, spool.Settlement{Verdict: spool.Return})
	}
}

// lookSQL finds the routes that have something to lease.
const lookSQL = `
SELECT r.id FROM @schema@.routes r WHERE r.id = ANY($1::integer[]) AND NOT r.paused AND EXISTS (
	SELECT FROM unnest('{0,1,2,3}'::smallint[]) AS c (class) CROSS JOIN LATERAL (
		SELECT FROM @schema@.lanes x
		WHERE x.route = r.id AND x.class = c.class AND x.due <= now()
		ORDER BY x.due LIMIT 1
	) x
)`

// look looks whether there is something to lease of routes.
func (s *Store) look(ctx context.Context, routes []int32) {
	var found []int32
	look := database.SQL(lookSQL, routes)
	err := s.db.Query(ctx, database.Quick, look.Each(func(rows pgx.Rows) error {
		var route int32
		err := rows.Scan(&route)
		found = append(found, route)
		return err
	}))
	if err != nil {
		return
	}
	for _, route := range found {
		s.told(ctx, route)
	}
}

// told passes on that there may be something to lease of a route.
func (s *Store) told(ctx context.Context, route int32) {
	if name, err := s.routes.name(ctx, route); err == nil && name != "" {
		s.changed(name)
	}
}

// Settle implements spool.Store.
func (s *Store) Settle(lease *spool.Lease, settlement spool.Settlement) {
	if h, ok := lease.Token.(*held); ok && s.leases.end(h) {
		settlement.Attempt.Gateway = cmp.Or(settlement.Attempt.Gateway, s.options.Name)
		s.courier.settle(h, settlement)
	}
}

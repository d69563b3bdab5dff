// The store as a whole: opening, closing, and what its parts share.

package postgres

import (
	"cmp"
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"

	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/postgres/bodies"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/postgres/counts"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/postgres/database"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/postgres/hints"
)

const (
	defaultConnections = 8
	minConnections     = 4 // two for accepting, one for leases, one for all else
	defaultLease       = 30 * time.Second
	minLease           = time.Second
)

// Options configure a store. Zero values mean the defaults.
type Options struct {
	// Schema is where the tables are. Default deepgram_callback.
	Schema string

	// Connections is how many connections to the database there are at most, at least 4; one
	// more listens. Default 8.
	Connections int

	// Lease is how long a gateway that died holds what it was delivering. Default 30s, at least 1s.
	Lease time.Duration

	// Name and Version are shown to the other gateways.
	Name, Version string

	// Limits to begin with.
	Limits spool.Limits

	// Events are told what happens. That the database is away is a refusal for
	// [spool.ReasonUnavailable].
	Events spool.StoreEvents
}

func (o Options) withDefaults() (Options, error) {
	o.Schema = cmp.Or(o.Schema, database.DefaultSchema)
	if err := database.CheckSchema(o.Schema); err != nil {
		return o, err
	}
	o.Connections = cmp.Or(o.Connections, defaultConnections)
	if o.Connections < minConnections {
		return o, fmt.Errorf("%d connections are too few, there must be %d at least",
			o.Connections, minConnections)
	}
	o.Lease = cmp.Or(o.Lease, defaultLease)
	if o.Lease < minLease {
		return o, fmt.Errorf("a lease of %s is too short, it must be %s at least", o.Lease, minLease)
	}
	return o, nil
}

// Store is a store in a PostgreSQL database.
type Store struct {
	options Options
	id      [16]byte // of this user of the database
	since   time.Time
	db      *database.DB

	acceptor *acceptor
	courier  *courier
	leases   *leases
	routes   *routes
	room     *counts.Room
	hints    *hints.Hints
	bodies   *bodies.Bodies

	watch     atomic.Pointer[func(string)]
	printsFor atomic.Int64 // nanoseconds, see spool.Limits

	ctx     context.Context // ends when the store is closed
	cancel  context.CancelFunc
	work    sync.WaitGroup
	closing sync.Once
	closed  atomic.Bool
}

// Open opens a store in the database that dsn names. It fails only for what can never work. Where
// the database cannot be reached within a few seconds, the store refuses with
// spool.ReasonUnavailable until it can.
func Open(ctx context.Context, dsn string, options Options) (*Store, error) {
	options, err := options.withDefaults()
	if err != nil {
		return nil, err
	}
	s := &Store{options: options, id: uuid.New(), since: time.Now()}
	s.db, err = database.Open(dsn, database.Options{
		Schema: options.Schema, Connections: options.Connections,
		Reached: s.reached, Away: s.away, Back: s.back, Problem: s.problem,
	})
	if err != nil {
		return nil, err
	}
	s.printsFor.Store(int64(forEver))
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.routes, s.leases = newRoutes(s.db), newLeases(s)
	s.room = counts.NewRoom(counts.RoomOptions{
		DB: s.db, Context: s.ctx, Forget: s.forgetKept,
		Refusing: func(full bool) { s.refusing(spool.ReasonFull, full, nil) },
	})
	s.room.Limit(options.Limits.MaxBytes)
	s.bodies = &bodies.Bodies{
		DB: s.db, Gateway: s.id, Context: s.ctx, Room: s.room, Closed: s.closed.Load,
	}
	s.hints = hints.New(hints.Options{
		DB: s.db, Schema: options.Schema, Gateway: s.id, Told: s.told, Look: s.look,
	})
	s.acceptor, s.courier = newAcceptor(s), newCourier(s)

	s.db.Reach(ctx)
	for _, run := range []func(context.Context){
		s.db.Run, s.courier.run, s.leases.run, s.hints.Run, s.upkeep,
	} {
		s.work.Go(func() { run(s.ctx) })
	}
	for slot := range acceptors {
		s.work.Go(func() { s.acceptor.run(s.ctx, slot) })
	}
	return s, nil
}

// reached has this gateway be seen in the database that was found.
func (s *Store) reached(ctx context.Context, conn database.Conn) error {
	s.routes.forget() // it may be another database than before
	return conn.Run(ctx, s.beatStatement())
}

func (s *Store) away(cause error) { s.refusing(spool.ReasonUnavailable, true, cause) }

// back has everything go on.
func (s *Store) back() {
	s.refusing(spool.ReasonUnavailable, false, nil)
	s.courier.wake()
	s.acceptor.wake()
	s.changed("")
}

func (s *Store) refusing(reason spool.Reason, refusing bool, cause error) {
	if s.options.Events.Refusing != nil {
		s.options.Events.Refusing(reason, refusing, cause)
	}
}

// Reconfigure implements [spool.Reconfigurable]: what is new of the user, the password, TLS and
// which of the hosts is wanted is used for connections from now on. How many connections there are
// and how long leases last stays as it is for as long as the store is open.
func (s *Store) Reconfigure(module spool.StoreModule) error {
	m, ok := module.(*Module)
	if !ok {
		return fmt.Errorf("store postgres: %T is of another engine", module)
	}
	return s.db.Use(m.dsn)
}

func (s *Store) problem(err error) {
	if s.options.Events.Problem != nil {
		s.options.Events.Problem(fmt.Errorf("store postgres: %w", err))
	}
}

// Watch implements spool.Store.
func (s *Store) Watch(f func(route string)) { s.watch.Store(&f) }

// changed tells the watcher that messages of a route may have become leasable.
func (s *Store) changed(route string) {
	if f := s.watch.Load(); f != nil {
		(*f)(route)
	}
}

// SetLimits implements spool.Store.
func (s *Store) SetLimits(limits spool.Limits) {
	s.printsFor.Store(int64(limits.Fingerprints))
	s.room.Limit(limits.MaxBytes)
}

// enter begins a method that can fail.
func (s *Store) enter(ctx context.Context) error {
	if s.closed.Load() {
		return spool.ErrClosed
	}
	return ctx.Err()
}

// Flush implements spool.Store.
func (s *Store) Flush(ctx context.Context) error {
	if err := s.enter(ctx); err != nil {
		return err
	}
	return s.courier.flush(ctx)
}

// Close implements spool.Store. What cannot be recorded before ctx ends, or as the database is
// away, is not.
func (s *Store) Close(ctx context.Context) error {
	var err error
	s.closing.Do(func() {
		s.closed.Store(true)
		s.acceptor.close()
		s.leases.giveBack()
		err = s.courier.flush(ctx)
		s.leave(ctx)
		s.cancel()
		s.work.Wait()
		s.db.Close()
	})
	return err
}

var (
	_ spool.Store  = (*Store)(nil)
	_ spool.Shared = (*Store)(nil)

	_ spool.Reconfigurable = (*Store)(nil)
)

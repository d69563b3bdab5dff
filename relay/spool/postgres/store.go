// The store as a whole: opening, closing, and what its parts share.

package postgres

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
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
	if o.Schema == "" {
		o.Schema = DefaultSchema
	}
	if !plainName.MatchString(o.Schema) {
		_, err := Schema(o.Schema)
		return o, err
	}
	if o.Connections == 0 {
		o.Connections = defaultConnections
	}
	if o.Connections < minConnections {
		return o, fmt.Errorf(
			"%d connections are too few, there must be %d at least",
			o.Connections,
			minConnections,
		)
	}
	if o.Lease == 0 {
		o.Lease = defaultLease
	}
	if o.Lease < minLease {
		return o, fmt.Errorf(
			"a lease of %s is too short, it must be %s at least",
			o.Lease,
			minLease,
		)
	}
	return o, nil
}

// Store is a store in a PostgreSQL database.
type Store struct {
	options Options
	id      [16]byte // of this user of the database
	since   time.Time
	pool    *pgxpool.Pool
	login   atomic.Pointer[pgx.ConnConfig] // how to connect; may change

	health   *health
	acceptor *acceptor
	courier  *courier
	leases   *leases
	routes   *routes
	room     *room
	hints    *hints

	texts sync.Map // SQL with the name of the schema in it, by SQL without

	watch     atomic.Pointer[func(string)]
	printsFor atomic.Int64 // nanoseconds, see spool.Limits

	direct      atomic.Bool // there is no pooler between us and the database
	warnOnce    sync.Once
	complaintMu sync.Mutex
	complaint   string

	ctx     context.Context // ends when the store is closed
	cancel  context.CancelFunc
	work    sync.WaitGroup
	closing sync.Once
	closed  atomic.Bool
}

var errDSN = errors.New(
	"the data source name cannot be read: " +
		"a URL like postgres://user:password@host:5432/database is expected, " +
		"or pairs like host=… user=… (it is not shown here since it may have a password in it)",
)

// Open opens a store in the database that dsn names. It fails only for what can never work. Where
// the database cannot be reached within a few seconds, the store refuses with
// spool.ReasonUnavailable until it can.
func Open(ctx context.Context, dsn string, options Options) (*Store, error) {
	options, err := options.withDefaults()
	if err != nil {
		return nil, err
	}
	config, err := pgxpool.ParseConfig(dsn)
	if err != nil {
		return nil, errDSN // not wrapped, as it quotes from it
	}
	s := &Store{options: options, id: uuid.New(), since: time.Now(), health: newHealth()}
	s.printsFor.Store(int64(forEver))
	s.ctx, s.cancel = context.WithCancel(context.Background())
	if s.pool, err = s.newPool(config); err != nil {
		return nil, err
	}
	s.routes, s.leases, s.room = newRoutes(s), newLeases(s), &room{s: s}
	s.room.limit(options.Limits.MaxBytes)
	s.acceptor, s.courier, s.hints = newAcceptor(s), newCourier(s), newHints(s, config.ConnConfig)

	if !s.reach(ctx) {
		s.health.look()
	}
	for _, run := range []func(context.Context){
		s.probe, s.courier.run, s.leases.run, s.hints.run, s.upkeep,
	} {
		s.work.Go(func() { run(s.ctx) })
	}
	for slot := range acceptors {
		s.work.Go(func() { s.acceptor.run(s.ctx, slot) })
	}
	return s, nil
}

func (s *Store) newPool(config *pgxpool.Config) (*pgxpool.Pool, error) {
	config.MaxConns = int32(s.options.Connections)
	config.MinConns, config.MinIdleConns = 0, 0
	// A host that is gone without an answer leaves time for the others.
	each := probeTime / time.Duration(len(addresses(&config.ConnConfig.Config)))
	config.ConnConfig.ConnectTimeout = min(
		each,
		positive(config.ConnConfig.ConnectTimeout, each),
	)
	config.ConnConfig.OnNotice = noticeUnconfirmed
	// Statements have no name in the database, so a pooler may change the session under them;
	// unless it is known that there is none.
	config.ConnConfig.DefaultQueryExecMode = pgx.QueryExecModeCacheDescribe
	config.ConnConfig.StatementCacheCapacity, config.ConnConfig.DescriptionCacheCapacity = 128, 128
	s.login.Store(config.ConnConfig)
	config.BeforeConnect = func(_ context.Context, connection *pgx.ConnConfig) error {
		logIn(connection, s.login.Load())
		if s.direct.Load() {
			connection.DefaultQueryExecMode = pgx.QueryExecModeCacheStatement
		}
		return nil
	}
	config.ShouldPing = func(context.Context, pgxpool.ShouldPingParams) bool { return false }
	if _, ok := config.ConnConfig.RuntimeParams["application_name"]; !ok {
		config.ConnConfig.RuntimeParams["application_name"] = "deepgram-callback"
	}
	return pgxpool.NewWithConfig(s.ctx, config)
}

// logIn has a connection be made as somebody else.
func logIn(connection, as *pgx.ConnConfig) {
	connection.Host, connection.Port, connection.Fallbacks = as.Host, as.Port, as.Fallbacks
	connection.User, connection.Password, connection.TLSConfig = as.User, as.Password, as.TLSConfig
	connection.ValidateConnect = as.ValidateConnect
}

// Reconfigure implements [spool.Reconfigurable]: what is new of the user, the password, TLS and
// which of the hosts is wanted is used for connections from now on. How many connections there are
// and how long leases last stays as it is for as long as the store is open.
func (s *Store) Reconfigure(module spool.StoreModule) error {
	m, ok := module.(*Module)
	if !ok {
		return fmt.Errorf("store postgres: %T is of another engine", module)
	}
	config, err := pgxpool.ParseConfig(m.dsn)
	if err != nil {
		return errDSN
	}
	before := s.login.Swap(config.ConnConfig)
	if before.User != config.ConnConfig.User || before.Password != config.ConnConfig.Password {
		s.pool.Reset()
	}
	return nil
}

func positive(d, otherwise time.Duration) time.Duration {
	if d <= 0 {
		return otherwise
	}
	return d
}

// sql puts the name of the schema into a statement.
func (s *Store) sql(text string) string {
	if known, ok := s.texts.Load(text); ok {
		return known.(string)
	}
	full := strings.ReplaceAll(text, "@schema@", s.options.Schema)
	s.texts.Store(text, full)
	return full
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
	s.room.limit(limits.MaxBytes)
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
		s.pool.Close()
	})
	return err
}

// random returns the 62 random bits of an id with the variant before them (RFC 9562, section 4.1).
func random() int64 {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails, see its documentation
	b[0] = b[0]&0x3f | 0x80
	return int64(binary.BigEndian.Uint64(b[:]))
}

var (
	_ spool.Store  = (*Store)(nil)
	_ spool.Shared = (*Store)(nil)

	_ spool.Reconfigurable = (*Store)(nil)
)

// Package database is the PostgreSQL database behind a store: how it is connected to, how
// transactions run in it, whether it is there, and how its tables come to be. It knows of no
// messages: what the tables are for is the business of its users.
//
//	db, err := database.Open("postgres://gateway:secret@db.example/inbox", database.Options{…})
//	db.Reach(ctx)
//	go db.Run(ctx)
//	err = db.Transact(ctx, database.Quick,
//		database.SQL(`UPDATE @schema@.routes SET paused = true WHERE id = $1`, id))
//
// The pool and what names the database are in database.go and source.go, transactions in
// transact.go, that of accepting
// in insert.go, arrays of bytea in bytea.go, what errors mean in errors.go, presence and absence in
// health.go, the tables in schema.go and schema.sql.
package database

import (
	"context"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Options say how a database is used, and by whom. All of them are needed.
type Options struct {
	// Schema is where the tables are, a name that CheckSchema likes.
	Schema string

	// Connections is how many there are at most, besides those that listen.
	Connections int

	// Reached is called whenever the database was looked for and found, with its tables. What fails
	// of it is as if the database had not been found.
	Reached func(ctx context.Context, conn Conn) error

	// Away is called when the database cannot be reached any more, Back when it can again, and when
	// it can for the first time.
	Away func(cause error)
	Back func()

	// Problem is told what an operator should know.
	Problem func(err error)
}

// DB is a database.
type DB struct {
	options Options
	pool    *pgxpool.Pool
	login   atomic.Pointer[pgx.ConnConfig] // how to connect; may change
	health  *health

	texts        sync.Map // SQL with the name of the schema in it, by SQL without
	descriptions sync.Map // of statements that have no name in the database, by SQL

	direct      atomic.Bool // there is no pooler between us and the database
	warnOnce    sync.Once
	complaintMu sync.Mutex
	complaint   string
}

// Open returns the database that dsn names, without connecting to it.
func Open(dsn string, options Options) (*DB, error) {
	config, err := parse(dsn)
	if err != nil {
		return nil, err
	}
	d := &DB{options: options, health: newHealth()}
	if d.pool, err = d.newPool(config); err != nil {
		return nil, err
	}
	return d, nil
}

func (d *DB) newPool(config *pgxpool.Config) (*pgxpool.Pool, error) {
	config.MaxConns = int32(d.options.Connections)
	config.MinConns, config.MinIdleConns = 0, 0
	// A host that is gone without an answer leaves time for the others.
	each := probeTime / time.Duration(len(addresses(&config.ConnConfig.Config)))
	config.ConnConfig.ConnectTimeout = min(each, positive(config.ConnConfig.ConnectTimeout, each))
	config.ConnConfig.OnNotice = noticeUnconfirmed
	// Statements have no name in the database, so a pooler may change the session under them;
	// unless it is known that there is none.
	config.ConnConfig.DefaultQueryExecMode = pgx.QueryExecModeCacheDescribe
	config.ConnConfig.StatementCacheCapacity, config.ConnConfig.DescriptionCacheCapacity = 128, 128
	d.login.Store(config.ConnConfig)
	config.BeforeConnect = func(_ context.Context, connection *pgx.ConnConfig) error {
		logIn(connection, d.login.Load())
		if d.direct.Load() {
			connection.DefaultQueryExecMode = pgx.QueryExecModeCacheStatement
		}
		return nil
	}
	config.AfterConnect = registerArrays
	config.ShouldPing = func(context.Context, pgxpool.ShouldPingParams) bool { return false }
	if _, ok := config.ConnConfig.RuntimeParams["application_name"]; !ok {
		config.ConnConfig.RuntimeParams["application_name"] = "deepgram-callback"
	}
	return pgxpool.NewWithConfig(context.Background(), config)
}

func positive(d, otherwise time.Duration) time.Duration {
	if d <= 0 {
		return otherwise
	}
	return d
}

// logIn has a connection be made as somebody else.
func logIn(connection, as *pgx.ConnConfig) {
	connection.Host, connection.Port, connection.Fallbacks = as.Host, as.Port, as.Fallbacks
	connection.User, connection.Password, connection.TLSConfig = as.User, as.Password, as.TLSConfig
	connection.ValidateConnect = as.ValidateConnect
}

// Use has connections be made from now on as dsn says, what is in it of the user, the password,
// TLS, and which of the hosts is wanted.
func (d *DB) Use(dsn string) error {
	config, err := parse(dsn)
	if err != nil {
		return err
	}
	before := d.login.Swap(config.ConnConfig)
	if before.User != config.ConnConfig.User || before.Password != config.ConnConfig.Password {
		d.pool.Reset()
	}
	return nil
}

// Listen returns a connection of its own that listens on a channel.
func (d *DB) Listen(ctx context.Context, channel string) (*pgx.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, probeTime)
	defer cancel()
	login := d.pool.Config().ConnConfig
	logIn(login, d.login.Load())
	conn, err := pgx.ConnectConfig(ctx, login)
	if err != nil {
		return nil, err
	}
	if _, err = conn.Exec(ctx, `LISTEN `+channel, pgx.QueryExecModeSimpleProtocol); err != nil {
		_ = conn.Close(ctx)
		return nil, err
	}
	return conn, nil
}

// Close ends all connections but those that listen.
func (d *DB) Close() { d.pool.Close() }

// sql puts the name of the schema into a statement.
func (d *DB) sql(text string) string {
	if known, ok := d.texts.Load(text); ok {
		return known.(string)
	}
	full := inSchema(d.options.Schema, text)
	d.texts.Store(text, full)
	return full
}

func inSchema(name, text string) string { return strings.ReplaceAll(text, "@schema@", name) }

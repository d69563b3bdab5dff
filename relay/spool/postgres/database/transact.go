// Transactions: all of one is sent at once where that is possible, and has its limits with it.

package database

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
)

const (
	// Quick bounds a statement on which a sender or a delivery waits, Slow one of an operator or of
	// upkeep.
	Quick = 8 * time.Second
	Slow  = 60 * time.Second

	// answerTime is how much longer than the database's own limit the gateway waits for its answer.
	answerTime = 2 * time.Second
)

// settings are for one transaction only, since a pooler between may give the session to another one
// afterwards. Besides the time-out they keep the planner from what it might do where its statistics
// know nothing of a young table or of one that was emptied: to read all of it, or to sort what it
// has from another index. Every statement has an index to go by. A range of one value (BETWEEN
// x AND x) stands where an equality would let the planner find the order in another index, too; a
// comparison of rows must not be the only end of a range, as it ends the scan of an index only where
// the first column differs. And a plan is made each time, since one that was made for an empty table
// is not good for a full one.
const settings = `SELECT set_config('statement_timeout', $1, true),
	set_config('idle_in_transaction_session_timeout', '30000', true),
	set_config('enable_seqscan', 'off', true), set_config('enable_bitmapscan', 'off', true),
	set_config('plan_cache_mode', 'force_custom_plan', true), set_config('enable_incremental_sort',
		'off', true), set_config('enable_hashjoin', 'off', true), set_config('enable_mergejoin',
		'off', true), set_config('jit', 'off', true)`

// Statement is a statement of SQL, in which @schema@ stands for the name of the schema.
type Statement struct {
	sql  string
	args []any
	read func(pgx.Rows) error // called for each row; nil where nobody wants them
}

// SQL returns a statement with its arguments.
func SQL(text string, args ...any) Statement { return Statement{sql: text, args: args} }

// Each returns the statement with something to be called for each row that it answers.
func (s Statement) Each(read func(rows pgx.Rows) error) Statement {
	s.read = read
	return s
}

// Transact runs statements in one transaction, in one round trip. When it fails, it may have been
// committed all the same, see IsUncertain.
func (d *DB) Transact(ctx context.Context, limit time.Duration, statements ...Statement) error {
	return d.TransactAnew(ctx, limit, func() {}, statements...)
}

// TransactAnew is Transact for statements that collect what they read. begin is called before each
// attempt, to forget what was read in one that was rolled back.
func (d *DB) TransactAnew(
	ctx context.Context, limit time.Duration, begin func(), statements ...Statement,
) error {
	return d.persist(ctx, limit, begin, func(ctx context.Context, conn *pgx.Conn) error {
		return d.transact(ctx, conn, limit, statements)
	})
}

// persist has a transaction run, and again where it has certainly left nothing behind.
func (d *DB) persist(
	ctx context.Context, limit time.Duration, begin func(), run func(context.Context, *pgx.Conn) error,
) error {
	if err := d.health.ready(); err != nil {
		return err
	}
	caller := ctx
	ctx, cancel := context.WithTimeout(ctx, limit+answerTime)
	defer cancel()
	begin()
	err := d.attempt(ctx, run)
	for range maxReruns {
		if !isRolledBack(err) {
			break
		}
		if IsAbsence(err) {
			d.pool.Reset() // what broke one connection may have broken all
		}
		begin()
		err = d.attempt(ctx, run)
	}
	return d.observe(caller, err)
}

// maxReruns is how often a transaction is tried again that another one got in the way of.
const maxReruns = 5

func (d *DB) attempt(ctx context.Context, run func(context.Context, *pgx.Conn) error) error {
	conn, err := d.pool.Acquire(ctx)
	if err != nil {
		return err
	}
	defer conn.Release()
	wire := conn.Conn().PgConn()
	isUnconfirmed(wire) // what it was used for before has no part in this
	err = run(ctx, conn.Conn())
	if isUnconfirmed(wire) && err == nil {
		err = errUnconfirmed
	}
	if err != nil && wire.TxStatus() == 'E' {
		_, _ = conn.Exec(ctx, `ROLLBACK`) // a connection that is not idle is not used again
	}
	return err
}

func (d *DB) transact(
	ctx context.Context, conn *pgx.Conn, limit time.Duration, statements []Statement,
) error {
	batch := &pgx.Batch{}
	batch.Queue(`BEGIN`)
	batch.Queue(settings, milliseconds(limit))
	for _, statement := range statements {
		batch.Queue(d.sql(statement.sql), statement.args...)
	}
	batch.Queue(`COMMIT`)
	results := conn.SendBatch(ctx, batch)
	err := readResults(results, statements)
	if closeErr := results.Close(); err == nil {
		err = closeErr
	}
	return err
}

// milliseconds is a time as a setting has it.
func milliseconds(d time.Duration) string { return strconv.FormatInt(d.Milliseconds(), 10) }

// errUnconfirmed: somebody cancelled a commit that waited for the standby. The primary says that it
// is done then, but it may be lost with the primary, so it is one of unknown outcome.
var errUnconfirmed = errors.New("the commit was not confirmed by the synchronous standby")

const unconfirmed = "unconfirmed"

// noticeUnconfirmed takes note of the warning of such a commit, which comes before its end. Its code
// is that of all warnings, and its text in some language, so it is known by where it is made.
func noticeUnconfirmed(conn *pgconn.PgConn, notice *pgconn.Notice) {
	if notice.Routine == "SyncRepWaitForLSN" {
		conn.CustomData()[unconfirmed] = true
	}
}

// isUnconfirmed reports whether there was such a warning since the last call.
func isUnconfirmed(conn *pgconn.PgConn) bool {
	_, ok := conn.CustomData()[unconfirmed]
	delete(conn.CustomData(), unconfirmed)
	return ok
}

func readResults(results pgx.BatchResults, statements []Statement) error {
	for range 2 {
		if _, err := results.Exec(); err != nil {
			return err
		}
	}
	for i, statement := range statements {
		rows, err := results.Query()
		if err == nil {
			err = statement.readAll(rows)
		}
		if err != nil {
			return fmt.Errorf("statement %d of %d: %w", i+1, len(statements), err)
		}
	}
	tag, err := results.Exec()
	if err == nil && tag.String() != "COMMIT" {
		err = errRolledBack
	}
	return err
}

func (s Statement) readAll(rows pgx.Rows) error {
	defer rows.Close()
	for rows.Next() {
		if s.read == nil {
			continue
		}
		if err := s.read(rows); err != nil {
			return err
		}
	}
	return rows.Err()
}

// Query runs one statement that reads, without a transaction around it.
func (d *DB) Query(ctx context.Context, limit time.Duration, statement Statement) error {
	if err := d.health.ready(); err != nil {
		return err
	}
	caller := ctx
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	// It is planned anew each time, for what is in the tables.
	args := append([]any{pgx.QueryExecModeCacheDescribe}, statement.args...)
	run := func() error {
		rows, err := d.pool.Query(ctx, d.sql(statement.sql), args...)
		if err != nil {
			return err
		}
		return statement.readAll(rows)
	}
	err := run()
	if pgconn.SafeToRetry(err) { // a connection that broke while nobody used it
		err = run()
	}
	return d.observe(caller, err)
}

// Conn is a connection on which statements run one after another.
type Conn struct {
	db *DB
	on interface {
		Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	}
}

// Run runs a statement.
func (c Conn) Run(ctx context.Context, statement Statement) error {
	rows, err := c.on.Query(ctx, c.db.sql(statement.sql), statement.args...)
	if err != nil {
		return err
	}
	return statement.readAll(rows)
}

// InTransaction has work done statement by statement in a transaction, again where another one gets
// in its way.
func (d *DB) InTransaction(ctx context.Context, work func(tx Conn) error) error {
	if err := d.health.ready(); err != nil {
		return err
	}
	limited, cancel := context.WithTimeout(ctx, Slow+answerTime)
	defer cancel()
	err := d.attemptWork(limited, work)
	for range maxReruns {
		if !isRolledBack(err) {
			break
		}
		err = d.attemptWork(limited, work)
	}
	if errors.Is(err, spool.ErrInFlight) { // which the work has found out
		return err
	}
	return d.observe(ctx, err)
}

func (d *DB) attemptWork(ctx context.Context, work func(tx Conn) error) error {
	tx, err := d.pool.Begin(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }() // does nothing after Commit
	if _, err := tx.Exec(ctx, settings, milliseconds(Slow)); err != nil {
		return err
	}
	if err := work(Conn{d, tx}); err != nil {
		return err
	}
	return tx.Commit(ctx)
}

// observe takes note of how something went, unless whoever wanted it gave up.
func (d *DB) observe(caller context.Context, err error) error {
	if err != nil && caller.Err() != nil {
		return caller.Err()
	}
	d.health.observe(err)
	return err
}

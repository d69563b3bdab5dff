// Transactions: every one of them is sent at once, and has its limits with it.

package postgres

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

const (
	// quick bounds a statement on which a sender or a delivery waits, slow one of an operator or of
	// upkeep.
	quick = 8 * time.Second
	slow  = 60 * time.Second

	// answerTime is how much longer than the database's own limit the gateway waits for its answer.
	answerTime = 2 * time.Second
)

// settings are for one transaction only, since a pooler between may give the session to another one
// afterwards. Besides the time-out they keep the planner from what it might do where its statistics
// know nothing of a young table or of one that was emptied: to read all of it, or to sort what it
// has from another index. Every statement here has an index to go by. A range of one value (BETWEEN
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

// insertSettings are for a transaction that reads no table, where the planner may do as it likes
// with what it is given, and a plan is good for ever.
const insertSettings = `SELECT set_config('statement_timeout', $1, true), set_config('jit', 'off',
	true)`

// step is a statement of a transaction.
type step struct {
	sql  string
	args []any
	read func(pgx.Rows) error // called for each row; nil where there are none
}

// errRolledBack: the database answered COMMIT with ROLLBACK.
var errRolledBack = errors.New("the transaction was rolled back")

// transact runs the steps in one transaction, in one round trip. When it fails, it may have been
// committed all the same, unless isRolledBack says otherwise.
func (s *Store) transact(ctx context.Context, limit time.Duration, steps ...step) error {
	return s.transactAnew(ctx, limit, func() {}, steps...)
}

// transactAnew is transact for steps that collect what they read. begin is called before each
// attempt, to forget what was read in one that was rolled back.
func (s *Store) transactAnew(
	ctx context.Context, limit time.Duration, begin func(), steps ...step,
) error {
	return s.transactWith(ctx, settings, limit, begin, steps)
}

// insertOnly is transactAnew for steps that read no table.
func (s *Store) insertOnly(
	ctx context.Context, limit time.Duration, begin func(), steps ...step,
) error {
	return s.transactWith(ctx, insertSettings, limit, begin, steps)
}

func (s *Store) transactWith(
	ctx context.Context, settings string, limit time.Duration, begin func(), steps []step,
) error {
	if err := s.health.ready(); err != nil {
		return err
	}
	caller := ctx
	ctx, cancel := context.WithTimeout(ctx, limit+answerTime)
	defer cancel()
	begin()
	err := s.attemptTransaction(ctx, settings, limit, steps)
	for range maxReruns {
		if !isRolledBack(err) {
			break
		}
		if isAbsence(err) {
			s.pool.Reset() // what broke one connection may have broken all
		}
		begin()
		err = s.attemptTransaction(ctx, settings, limit, steps)
	}
	return s.observe(caller, err)
}

// maxReruns is how often a transaction is tried again that another one got in the way of.
const maxReruns = 5

func (s *Store) attemptTransaction(
	ctx context.Context,
	settings string,
	limit time.Duration,
	steps []step,
) error {
	conn, err := s.pool.Acquire(ctx)
	if err != nil {
		return err
	}
	defer conn.Release()
	isUnconfirmed(conn.Conn().PgConn()) // what it was used for before has no part in this
	batch := &pgx.Batch{}
	batch.Queue(`BEGIN`)
	batch.Queue(settings, strconv.FormatInt(limit.Milliseconds(), 10))
	for _, step := range steps {
		batch.Queue(s.sql(step.sql), step.args...)
	}
	batch.Queue(`COMMIT`)
	results := conn.SendBatch(ctx, batch)
	err = readResults(results, steps)
	if closeErr := results.Close(); err == nil {
		err = closeErr
	}
	if isUnconfirmed(conn.Conn().PgConn()) && err == nil {
		err = errUnconfirmed
	}
	if err != nil && conn.Conn().PgConn().TxStatus() == 'E' {
		_, _ = conn.Exec(ctx, `ROLLBACK`) // a connection that is not idle is not used again
	}
	return err
}

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

func readResults(results pgx.BatchResults, steps []step) error {
	for range 2 {
		if _, err := results.Exec(); err != nil {
			return err
		}
	}
	for i, step := range steps {
		if err := readRows(results, step.read); err != nil {
			return fmt.Errorf("statement %d of %d: %w", i+1, len(steps), err)
		}
	}
	tag, err := results.Exec()
	if err == nil && tag.String() != "COMMIT" {
		err = errRolledBack
	}
	return err
}

func readRows(results pgx.BatchResults, read func(pgx.Rows) error) error {
	rows, err := results.Query()
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		if read == nil {
			continue
		}
		if err := read(rows); err != nil {
			return err
		}
	}
	return rows.Err()
}

// query runs one statement that reads, without a transaction around it.
func (s *Store) query(
	ctx context.Context,
	limit time.Duration,
	sql string,
	read func(pgx.Rows) error,
	args ...any,
) error {
	if err := s.health.ready(); err != nil {
		return err
	}
	caller := ctx
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	run := func() error {
		// It is planned anew each time, for what is in the tables.
		rows, err := s.pool.Query(
			ctx,
			s.sql(sql),
			append([]any{pgx.QueryExecModeCacheDescribe}, args...)...)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			if err := read(rows); err != nil {
				return err
			}
		}
		return rows.Err()
	}
	err := run()
	if pgconn.SafeToRetry(err) { // a connection that broke while nobody used it
		err = run()
	}
	return s.observe(caller, err)
}

// observe takes note of how something went, unless whoever wanted it gave up.
func (s *Store) observe(caller context.Context, err error) error {
	if err != nil && caller.Err() != nil {
		return caller.Err()
	}
	s.health.observe(err)
	return err
}

// isRolledBack reports whether the transaction has certainly left nothing behind, and may go well
// when it is tried again.
func isRolledBack(err error) bool {
	if err == nil {
		return false
	}
	if unsent := (pgx.ErrPreprocessingBatch{}); errors.As(err, &unsent) {
		return isAbsence(err) // of a connection that broke before anything was sent
	}
	switch sqlState(err) {
	case "40001", "40P01": // serialization_failure, deadlock_detected
		return true
	case "":
		return pgconn.SafeToRetry(err)
	}
	return false
}

// sqlState returns the code of an error of the database, empty for any other.
func sqlState(err error) string {
	var pgErr *pgconn.PgError
	if errors.As(err, &pgErr) {
		return pgErr.Code
	}
	return ""
}

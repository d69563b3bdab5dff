// What the errors of a database mean.

package database

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
)

// RetryAfter is what a sender is told to wait who is refused.
const RetryAfter = 15 * time.Second

// errRolledBack: the database answered COMMIT with ROLLBACK.
var errRolledBack = errors.New("the transaction was rolled back")

// Refuse makes a refusal of whatever went wrong with the database.
func Refuse(err error) *spool.RefusedError {
	var refused *spool.RefusedError
	if errors.As(err, &refused) {
		return refused
	}
	refused = unavailable(err)
	if sqlState(err) == "53100" { // disk_full
		refused.Reason = spool.ReasonDisk
	}
	return refused
}

func unavailable(cause error) *spool.RefusedError {
	return &spool.RefusedError{Reason: spool.ReasonUnavailable, RetryAfter: RetryAfter, Err: cause}
}

func isRefusal(err error) bool {
	var refused *spool.RefusedError
	return errors.As(err, &refused)
}

// IsAbsence reports whether an error says that the database is away, rather than that it
// did not like what it was told.
func IsAbsence(err error) bool {
	if err == nil || errors.Is(err, context.Canceled) || isRefusal(err) ||
		errors.Is(err, errRolledBack) {
		return false
	}
	code := sqlState(err)
	switch code {
	case "": // the connection broke, or there was none, or no answer
		return true
	case "57P01", "57P02", "57P03", "57P05", // shut down, or terminated by somebody
		"53300", "25006", // too many connections; read only, as a primary is that is one no more
		"3D000", "3F000", "42P01": // no such database, schema, table
		return true
	}
	switch code[:2] {
	case "08", "28": // connection, authorization
		return true
	}
	return false
}

// isBusy reports whether a statement took too long or something it needs was not to be had.
func isBusy(err error) bool {
	switch code := sqlState(err); code {
	case "57014", "55P03", // query_canceled, lock_not_available
		"40001", "40P01": // serialization_failure, deadlock_detected
		return true
	case "":
		return true
	default:
		return code[:2] == "53" // insufficient resources
	}
}

// IsDislike reports whether an error says that the database does not like what it was told, and
// would not like it any better the next time.
func IsDislike(err error) bool {
	return err != nil && !isRefusal(err) && !IsAbsence(err) && !isBusy(err)
}

// IsUncertain reports whether a transaction that failed like this may have been committed all the
// same.
func IsUncertain(err error) bool { return !isRefusal(err) && !isRolledBack(err) }

// isRolledBack reports whether the transaction has certainly left nothing behind, and may go well
// when it is tried again.
func isRolledBack(err error) bool {
	if err == nil {
		return false
	}
	if isUnsent(err) {
		return IsAbsence(err) // of a connection that broke before anything was sent
	}
	switch sqlState(err) {
	case "40001", "40P01": // serialization_failure, deadlock_detected
		return true
	case "":
		return pgconn.SafeToRetry(err)
	}
	return isForgotten(err)
}

// unsentError is what went wrong before anything of a transaction was sent.
type unsentError struct{ error }

func (e unsentError) Unwrap() error { return e.error }

func isUnsent(err error) bool {
	var ours unsentError
	var theirs pgx.ErrPreprocessingBatch
	return errors.As(err, &ours) || errors.As(err, &theirs)
}

// isForgotten reports whether the session does not know a statement any more that was prepared in it.
func isForgotten(err error) bool { return sqlState(err) == "26000" } // invalid_sql_statement_name

// sqlState returns the code of an error of the database, empty for any other.
func sqlState(err error) string {
	var pgErr *pgconn.PgError
	if errors.As(err, &pgErr) {
		return pgErr.Code
	}
	return ""
}

// The errors that callers tell apart.

package spool

import (
	"errors"
	"fmt"
	"time"
)

var (
	// ErrNotFound: no message has this id (any more).
	ErrNotFound = errors.New("no such message")

	// ErrClosed: the inbox was closed.
	ErrClosed = errors.New("the inbox is closed")

	// ErrInFlight: the message is being delivered at this moment, so it cannot be changed.
	ErrInFlight = errors.New("the message is being delivered")

	// ErrLocked: another process has this inbox open.
	ErrLocked = errors.New("in use by another process")

	// ErrForeign: what is there is not an inbox, or one of another version.
	// Nothing was changed.
	ErrForeign = errors.New("not an inbox that this version can read")

	// ErrDamaged: stored bytes are not those that were accepted.
	ErrDamaged = errors.New("damaged on disk")
)

// Reason is a stable word for why messages are refused: it labels metrics and
// events.
type Reason string

const (
	// ReasonFull: max_size is reached.
	ReasonFull Reason = "inbox_full"

	// ReasonDisk: the file system has no room, or the quota is used up.
	ReasonDisk Reason = "disk_full"

	// ReasonSync: the system could not confirm that data is on disk.
	ReasonSync Reason = "sync_failed"

	// ReasonDamaged: what the index has on disk is not what was written there. It takes an operator:
	// see [Recover].
	ReasonDamaged Reason = "inbox_damaged"

	// ReasonUnavailable: the store cannot be reached.
	ReasonUnavailable Reason = "store_unavailable"

	// ReasonWrite: writing failed in another way.
	ReasonWrite Reason = "write_failed"
)

// RefusedError is returned by Accept when the inbox cannot keep a message
// safely. What was accepted before is not affected. The caller answers 503
// with Retry-After.
type RefusedError struct {
	Reason Reason

	// RetryAfter is a reasonable time for the sender to wait.
	RetryAfter time.Duration

	// Err is the cause, nil for ReasonFull.
	Err error
}

// Error implements error.
func (e *RefusedError) Error() string {
	if e.Err == nil {
		return fmt.Sprintf("refused: %s", e.Reason)
	}
	return fmt.Sprintf("refused: %s: %v", e.Reason, e.Err)
}

// Unwrap returns the cause.
func (e *RefusedError) Unwrap() error { return e.Err }

// What a failure of the disk means for those who want to have a message kept.

package bodies

import (
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
)

const RetryAfter = 15 * time.Second

// Refusal classifies an error of a write or a sync.
func Refusal(err error) *spool.RefusedError {
	var refused *spool.RefusedError
	if errors.As(err, &refused) {
		return refused
	}
	refused = &spool.RefusedError{Reason: spool.ReasonWrite, RetryAfter: RetryAfter, Err: err}

	var failedSync *SyncError
	switch {
	case errors.Is(err, spool.ErrDamaged):
		refused.Reason = spool.ReasonDamaged
	case IsDiskFull(err):
		refused.Reason = spool.ReasonDisk
	case errors.As(err, &failedSync):
		refused.Reason = spool.ReasonSync
	}
	return refused
}

// SyncError marks the failure of an fsync or fdatasync, after which nothing
// written through the same descriptor since the last good one can be relied on.
type SyncError struct {
	Path string
	Err  error
}

func (e *SyncError) Error() string { return fmt.Sprintf("sync %s: %v", e.Path, e.Err) }
func (e *SyncError) Unwrap() error { return e.Err }

// PathError names the thing that a system call failed on, unless err does already.
func PathError(op, path string, err error) error {
	var named *fs.PathError
	if err == nil || errors.As(err, &named) {
		return err
	}
	return &fs.PathError{Op: op, Path: path, Err: err}
}

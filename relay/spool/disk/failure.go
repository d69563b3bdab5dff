// What a failure of the disk means for those who want to have a message kept.

package disk

import (
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
)

const refusedRetryAfter = 15 * time.Second

// refuse classifies an error of a write or a sync.
func refuse(err error) *spool.RefusedError {
	var refused *spool.RefusedError
	if errors.As(err, &refused) {
		return refused
	}
	refused = &spool.RefusedError{Reason: spool.ReasonWrite, RetryAfter: refusedRetryAfter, Err: err}

	var failedSync *syncError
	switch {
	case errors.Is(err, spool.ErrDamaged):
		refused.Reason = spool.ReasonDamaged
	case isDiskFull(err):
		refused.Reason = spool.ReasonDisk
	case errors.As(err, &failedSync):
		refused.Reason = spool.ReasonSync
	}
	return refused
}

// syncError marks the failure of an fsync or fdatasync, after which nothing
// written through the same descriptor since the last good one can be relied on.
type syncError struct {
	path string
	err  error
}

func (e *syncError) Error() string { return fmt.Sprintf("sync %s: %v", e.path, e.err) }
func (e *syncError) Unwrap() error { return e.err }

// pathError names the thing that a system call failed on, unless err does already.
func pathError(op, path string, err error) error {
	var named *fs.PathError
	if err == nil || errors.As(err, &named) {
		return err
	}
	return &fs.PathError{Op: op, Path: path, Err: err}
}

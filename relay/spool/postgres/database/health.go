// Whether the database is there: while it is not, nobody waits for it but one who looks.

package database

import (
	"context"
	"errors"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	// probeTime bounds one look for the database, firstProbePause and maxProbePause the time
	// between.
	probeTime       = 10 * time.Second
	firstProbePause = 50 * time.Millisecond
	maxProbePause   = time.Second
)

// errNotYet: nobody has reached the database since the store was opened.
var errNotYet = errors.New("the database was not reached yet")

// health knows whether the database can be reached.
type health struct {
	away chan struct{} // has an element when somebody should look

	mu    sync.Mutex
	cause error // why it cannot be reached; nil: it can
	since time.Time
}

func newHealth() *health {
	return &health{away: make(chan struct{}, 1), cause: errNotYet, since: time.Now()}
}

// ready returns nil, or at once the refusal.
func (h *health) ready() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.cause == nil {
		return nil
	}
	return unavailable(h.cause)
}

// observe takes note of how something went.
func (h *health) observe(err error) {
	if !IsAbsence(err) {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.cause == nil {
		h.cause, h.since = err, time.Now()
	}
	h.look()
}

// look has the database looked for.
func (h *health) look() {
	select {
	case h.away <- struct{}{}:
	default:
	}
}

// set takes note of what a probe found, and reports whether that is news.
func (h *health) set(cause error) (changed bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	changed = (h.cause == nil) != (cause == nil)
	if changed {
		h.since = time.Now()
	}
	h.cause = cause
	return changed
}

func (h *health) state() (since time.Time, cause error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.since, h.cause
}

// Ready returns nil, or at once the refusal while the database is away.
func (d *DB) Ready() error { return d.health.ready() }

// State returns since when the database has been there, or away; then with the refusal.
func (d *DB) State() (since time.Time, refusal error) {
	since, cause := d.health.state()
	if cause != nil {
		refusal = unavailable(cause)
	}
	return since, refusal
}

// Reach tries to reach the database once, for whoever opens it. Where that fails, Run goes on.
func (d *DB) Reach(ctx context.Context) {
	if !d.reach(ctx) {
		d.health.look()
	}
}

// Run looks for the database whenever it is away, until ctx ends.
func (d *DB) Run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-d.health.away:
		}
		_, cause := d.health.state()
		if cause == nil {
			continue
		}
		d.options.Away(cause)
		d.pool.Reset()
		for pause := firstProbePause; !d.reach(ctx); pause = min(2*pause, maxProbePause) {
			select {
			case <-ctx.Done():
				return
			case <-time.After(pause):
			}
		}
	}
}

// reach tries to reach the database once, and sees to its tables.
func (d *DB) reach(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, probeTime)
	defer cancel()
	err := d.prepare(ctx)
	if d.health.set(err) && err == nil {
		d.forgetComplaint()
		d.options.Back()
	}
	if err != nil && ctx.Err() != context.Canceled {
		d.Complain(err)
	}
	return err == nil
}

var errReadOnly = errors.New("the database is read-only, as a standby is; where there is one, name " +
	"all hosts and target_session_attrs=read-write")

// prepare looks at what is there and makes what is missing.
func (d *DB) prepare(ctx context.Context) error {
	pooled, err := d.pool.Acquire(ctx)
	if err != nil {
		return err
	}
	defer pooled.Release()
	if err := d.prepareWith(ctx, pooled.Conn()); err != nil {
		_ = pooled.Conn().Close(ctx) // the name may mean another server the next time
		return err
	}
	return nil
}

func (d *DB) prepareWith(ctx context.Context, conn *pgx.Conn) error {
	var readOnly, fsync, commit string
	const look = `SELECT current_setting('transaction_read_only'), current_setting('fsync', true),
		current_setting('synchronous_commit', true)`
	if err := conn.QueryRow(ctx, look).Scan(&readOnly, &fsync, &commit); err != nil {
		return err
	}
	if readOnly == "on" {
		return errReadOnly
	}
	if err := d.migrate(ctx, conn); err != nil {
		return err
	}
	if fsync == "off" || commit == "off" {
		d.warnOnce.Do(func() {
			d.options.Problem(errors.New("the database does not keep what it has confirmed: " +
				"fsync = " + fsync + ", synchronous_commit = " + commit))
		})
	}
	if err := d.lookForPooler(ctx, conn); err != nil {
		return err
	}
	return d.options.Reached(ctx, Conn{d, conn})
}

// lookForPooler finds out whether the process that the connection was made to is the one that
// answers. Then statements can be prepared, which saves the database from reading them each time.
func (d *DB) lookForPooler(ctx context.Context, conn *pgx.Conn) error {
	var pid uint32
	if err := conn.QueryRow(ctx, `SELECT pg_backend_pid()`).Scan(&pid); err != nil {
		return err
	}
	if direct := pid == conn.PgConn().PID(); d.direct.Swap(direct) != direct {
		d.pool.Reset()
	}
	return nil
}

// Complain reports what does not work, once for each reason until the database is back.
func (d *DB) Complain(err error) {
	text, _, _ := strings.Cut(err.Error(), "\n")
	d.complaintMu.Lock()
	news := text != d.complaint
	d.complaint = text
	d.complaintMu.Unlock()
	if news {
		d.options.Problem(err)
	}
}

func (d *DB) forgetComplaint() {
	d.complaintMu.Lock()
	defer d.complaintMu.Unlock()
	d.complaint = ""
}

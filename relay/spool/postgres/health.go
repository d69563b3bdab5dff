// Whether the database is there: while it is not, nobody waits for it but one who looks.

package postgres

import (
	"context"
	"errors"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
)

const (
	// retryAfter is what a sender is told to wait.
	retryAfter = 15 * time.Second

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
	if !isAbsence(err) {
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

func unavailable(cause error) *spool.RefusedError {
	return &spool.RefusedError{Reason: spool.ReasonUnavailable, RetryAfter: retryAfter, Err: cause}
}

// refuse makes a refusal of whatever went wrong with the database.
func refuse(err error) *spool.RefusedError {
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

// isAbsence reports whether an error says that the database is away, rather than that it
// did not like what it was told.
func isAbsence(err error) bool {
	var refused *spool.RefusedError
	if err == nil || errors.Is(err, context.Canceled) || errors.As(err, &refused) ||
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

// probe looks for the database for as long as it is away.
func (s *Store) probe(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.health.away:
		}
		if _, cause := s.health.state(); cause == nil {
			continue
		}
		s.announceAbsence()
		s.pool.Reset()
		for pause := firstProbePause; !s.reach(ctx); pause = min(2*pause, maxProbePause) {
			select {
			case <-ctx.Done():
				return
			case <-time.After(pause):
			}
		}
	}
}

// reach tries to reach the database once, and sees to its tables.
func (s *Store) reach(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, probeTime)
	defer cancel()
	err := s.prepare(ctx)
	if s.health.set(err) && err == nil {
		s.announcePresence()
	}
	if err != nil && ctx.Err() != context.Canceled {
		s.complain(err)
	}
	return err == nil
}

var errReadOnly = errors.New("the database is read-only, as a standby is; where there is one, name " +
	"all hosts and target_session_attrs=read-write")

// prepare looks at what is there and makes what is missing.
func (s *Store) prepare(ctx context.Context) error {
	pooled, err := s.pool.Acquire(ctx)
	if err != nil {
		return err
	}
	defer pooled.Release()
	if err := s.prepareWith(ctx, pooled.Conn()); err != nil {
		_ = pooled.Conn().Close(ctx) // the name may mean another server the next time
		return err
	}
	return nil
}

func (s *Store) prepareWith(ctx context.Context, conn *pgx.Conn) error {
	var readOnly, fsync, commit string
	const look = `SELECT current_setting('transaction_read_only'), current_setting('fsync', true),
		current_setting('synchronous_commit', true)`
	if err := conn.QueryRow(ctx, look).Scan(&readOnly, &fsync, &commit); err != nil {
		return err
	}
	if readOnly == "on" {
		return errReadOnly
	}
	if err := s.migrate(ctx, conn); err != nil {
		return err
	}
	if fsync == "off" || commit == "off" {
		s.warnOnce.Do(func() {
			s.problem(
				errors.New(
					"the database does not keep what it has confirmed: fsync = " + fsync +
						", synchronous_commit = " + commit,
				),
			)
		})
	}
	if err := s.lookForPooler(ctx, conn); err != nil {
		return err
	}
	s.routes.forget() // it may be another database than before
	return s.beat(ctx, conn)
}

// lookForPooler finds out whether the process that the connection was made to is the one that
// answers. Then statements can be prepared, which saves the database from reading them each time.
func (s *Store) lookForPooler(ctx context.Context, conn *pgx.Conn) error {
	var pid uint32
	if err := conn.QueryRow(ctx, `SELECT pg_backend_pid()`).Scan(&pid); err != nil {
		return err
	}
	if direct := pid == conn.PgConn().PID(); s.direct.Swap(direct) != direct {
		s.pool.Reset()
	}
	return nil
}

// complain reports why the database cannot be reached, once for each reason.
func (s *Store) complain(err error) {
	text := err.Error()
	if i := strings.IndexByte(text, '\n'); i >= 0 {
		text = text[:i]
	}
	s.complaintMu.Lock()
	news := text != s.complaint
	s.complaint = text
	s.complaintMu.Unlock()
	if news {
		s.problem(err)
	}
}

func (s *Store) announceAbsence() {
	_, cause := s.health.state()
	if s.options.Events.Refusing != nil {
		s.options.Events.Refusing(spool.ReasonUnavailable, true, cause)
	}
}

// announcePresence has everything go on.
func (s *Store) announcePresence() {
	s.complaintMu.Lock()
	s.complaint = ""
	s.complaintMu.Unlock()
	if s.options.Events.Refusing != nil {
		s.options.Events.Refusing(spool.ReasonUnavailable, false, nil)
	}
	s.courier.wake()
	s.acceptor.wake()
	s.changed("")
}

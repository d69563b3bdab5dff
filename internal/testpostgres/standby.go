//go:build unix

// A standby: a server that follows another one, and takes its place.

package testpostgres

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// NewPair starts a server and a standby of it, without which nothing is committed.
func NewPair(t testing.TB, settings ...string) (primary, standby *Server) {
	t.Helper()
	// How soon a standby looks for a primary that was away.
	primary = New(t, append(settings, "wal_retrieve_retry_interval=200ms")...)
	standby = &Server{bin: primary.bin}
	t.Cleanup(func() { standby.Remove() })
	var err error
	if standby.data, err = os.MkdirTemp("", "postgres-*"); err == nil {
		standby.port, err = freePort()
	}
	if err == nil {
		err = standby.Follow(primary)
	}
	if err != nil {
		t.Fatalf("the standby: %v", err)
	}
	return primary, standby
}

// Follow makes a server that does not run the standby of another one, with a copy of that. It
// returns when each commit of the primary waits for the standby to have it on disk.
func (s *Server) Follow(primary *Server) error {
	if err := s.copy(primary); err != nil {
		return err
	}
	// No standby of its own: this one's commits wait for nobody when it is promoted.
	config := fmt.Sprintf("port = %d\nsynchronous_standby_names = ''\n", s.port)
	if err := s.configure(config); err != nil {
		return err
	}
	if err := s.Start(); err != nil {
		return err
	}
	return primary.waitForStandby()
}

// copy replaces what a server has by what the primary has.
func (s *Server) copy(primary *Server) error {
	var err error
	// Processes of a server that was killed may write for a moment yet.
	for range 100 {
		if err = os.RemoveAll(s.data); err == nil {
			break
		}
		<-time.After(startPause)
	}
	if err != nil {
		return err
	}
	if err := os.Mkdir(s.data, 0o700); err != nil {
		return err
	}
	if err := s.becomeSomebody(); err != nil {
		return err
	}
	// pg_basebackup copies what ALTER SYSTEM said, but for what --write-recovery-conf adds.
	backup := s.command("pg_basebackup", "--pgdata", s.data, "--write-recovery-conf",
		"--checkpoint", "fast", "--no-sync",
		"--host", "127.0.0.1", "--port", strconv.Itoa(primary.port), "--username", "postgres")
	if out, err := backup.CombinedOutput(); err != nil {
		return fmt.Errorf("pg_basebackup: %w: %s", err, out)
	}
	return nil
}

// waitForStandby has every commit wait for a standby, and waits for it itself.
func (s *Server) waitForStandby() error {
	if err := s.configure("synchronous_standby_names = '*'\n"); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), startTime)
	defer cancel()
	conn, err := pgx.Connect(ctx, s.DSN())
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(ctx) }()
	if _, err := conn.Exec(ctx, `SELECT pg_reload_conf()`); err != nil {
		return err
	}
	const look = `SELECT EXISTS (SELECT FROM pg_stat_replication WHERE sync_state = 'sync')`
	for synchronous := false; !synchronous; {
		if err := conn.QueryRow(ctx, look).Scan(&synchronous); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the standby does not follow: %w", ctx.Err())
		case <-time.After(startPause):
		}
	}
	return nil
}

// Promote makes a standby a primary, and returns when it is one.
func (s *Server) Promote() error {
	promote := s.command("pg_ctl", "promote", "--pgdata", s.data, "--wait", "--timeout", "60")
	if out, err := promote.CombinedOutput(); err != nil {
		return fmt.Errorf("pg_ctl promote: %w: %s", err, out)
	}
	return nil
}

// PairDSN returns a data source name of both servers of a pair, which means the one that can be
// written to, in the form that documents recommend.
func PairDSN(a, b *Server) string {
	return fmt.Sprintf("host=127.0.0.1,127.0.0.1 port=%d,%d user=postgres dbname=postgres "+
		"sslmode=disable target_session_attrs=read-write", a.port, b.port)
}

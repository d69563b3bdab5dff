// The tables, and how they come to be there.

package postgres

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// DefaultSchema is where the tables are unless Options say otherwise.
const DefaultSchema = "deepgram_callback"

// schemaVersion is the version of the tables that this package works with.
const schemaVersion = 1

//go:embed schema.sql
var schemaSQL string

// migrations has the SQL that leads from each version to the next: the first one from nothing.
var migrations = [schemaVersion]string{schemaSQL}

// plainName is what a schema may be called, so that nobody has to think of quotes.
var plainName = regexp.MustCompile(`^[a-z_][a-z0-9_]{0,62}$`)

// Schema returns the SQL that makes the tables in a schema of this name, for those whose gateways
// may not do so. An empty name means DefaultSchema.
func Schema(name string) (string, error) {
	if name == "" {
		name = DefaultSchema
	}
	if !plainName.MatchString(name) {
		return "", fmt.Errorf(
			"schema %q: a name of at most 63 lower-case letters, digits and underscores is expected",
			name,
		)
	}
	var all strings.Builder
	for _, sql := range migrations {
		all.WriteString(strings.ReplaceAll(sql, "@schema@", name))
	}
	return all.String(), nil
}

// errNewer: the tables were made by a later version of the gateway.
type newerError struct{ schema, found string }

func (e *newerError) Error() string {
	return fmt.Sprintf(
		"schema %s has version %s, this gateway knows up to %d: it is not touched",
		e.schema,
		e.found,
		schemaVersion,
	)
}

// migrate sees to it that the tables are there. Of several gateways one does it, the others wait.
func (s *Store) migrate(ctx context.Context, conn *pgx.Conn) error {
	version, err := s.version(ctx, conn)
	if err != nil || version == schemaVersion {
		return err
	}
	tx, err := conn.Begin(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }() // does nothing after Commit

	// The lock ends with the transaction; its number is that of this schema's name.
	const lock = `SELECT pg_advisory_xact_lock(hashtextextended('deepgram_callback ' || $1, 0)),
		set_config('lock_timeout', '5000', true)`
	if _, err := tx.Exec(ctx, lock, s.options.Schema); err != nil {
		return err
	}
	if version, err = s.version(ctx, tx); err != nil {
		return err
	}
	for _, sql := range migrations[version:] {
		if _, err := tx.Exec(ctx, s.sql(sql), pgx.QueryExecModeSimpleProtocol); err != nil {
			return s.explainMigration(err)
		}
	}
	return tx.Commit(ctx)
}

// explainMigration says what an operator can do where the role may not make tables.
func (s *Store) explainMigration(err error) error {
	var pgErr *pgconn.PgError
	if errors.As(err, &pgErr) && pgErr.Code == "42501" { // insufficient_privilege
		return fmt.Errorf(
			"schema %s is missing and this role may not make it; "+
				"someone who may can run the SQL that `spool schema` prints: %w",
			s.options.Schema,
			err,
		)
	}
	return fmt.Errorf("make schema %s: %w", s.options.Schema, err)
}

// queryer is a connection or a transaction.
type queryer interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// version returns the version of the tables, 0 if there are none.
func (s *Store) version(ctx context.Context, q queryer) (int, error) {
	// This looks with a snapshot of now; to_regclass may answer from a cache of before the lock was
	// had.
	const look = `SELECT EXISTS (SELECT FROM pg_catalog.pg_tables WHERE schemaname = $1
		AND tablename = 'version')`
	var exists bool
	err := q.QueryRow(ctx, look, s.options.Schema).Scan(&exists)
	if err != nil || !exists {
		return 0, err
	}
	var version int
	if err := q.QueryRow(ctx, s.sql(`SELECT version
		FROM @schema@.version`)).Scan(&version); err != nil {
		return 0, fmt.Errorf("read the version of schema %s: %w", s.options.Schema, err)
	}
	if version < 1 || version > schemaVersion {
		return 0, &newerError{s.options.Schema, fmt.Sprint(version)}
	}
	return version, nil
}

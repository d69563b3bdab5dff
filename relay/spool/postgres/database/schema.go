// The tables, and how they come to be there.

package database

import (
	"cmp"
	"context"
	_ "embed"
	"fmt"
	"regexp"
	"strings"

	"github.com/jackc/pgx/v5"
)

// DefaultSchema is where the tables are unless somebody says otherwise.
const DefaultSchema = "deepgram_callback"

// schemaVersion is the version of the tables that this package works with.
const schemaVersion = 1

//go:embed schema.sql
var schemaSQL string

// migrations has the SQL that leads from each version to the next: the first one from nothing.
var migrations = [schemaVersion]string{schemaSQL}

// plainName is what a schema may be called, so that nobody has to think of quotes.
var plainName = regexp.MustCompile(`^[a-z_][a-z0-9_]{0,62}$`)

// CheckSchema returns an error for what a schema may not be called.
func CheckSchema(name string) error {
	if !plainName.MatchString(name) {
		return fmt.Errorf(
			"schema %q: a name of at most 63 lower-case letters, digits and underscores is expected",
			name,
		)
	}
	return nil
}

// grants is what the role of a gateway needs that makes no tables itself.
const grants = `
-- What the role of the gateways needs, here called gateway:
-- GRANT USAGE ON SCHEMA @schema@ TO gateway;
-- GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA @schema@ TO gateway;
-- GRANT USAGE ON ALL SEQUENCES IN SCHEMA @schema@ TO gateway;
`

// Schema returns the SQL that makes the tables in a schema of this name, for those whose gateways
// may not do so, and says what these need. An empty name means DefaultSchema.
func Schema(name string) (string, error) {
	name = cmp.Or(name, DefaultSchema)
	if err := CheckSchema(name); err != nil {
		return "", err
	}
	return inSchema(name, strings.Join(migrations[:], "")+grants), nil
}

// migrate sees to it that the tables are there. Of several gateways one does it, the others wait.
func (d *DB) migrate(ctx context.Context, conn *pgx.Conn) error {
	found, err := version(ctx, conn, d.options.Schema)
	if err != nil || found == schemaVersion {
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
	if _, err := tx.Exec(ctx, lock, d.options.Schema); err != nil {
		return err
	}
	if found, err = version(ctx, tx, d.options.Schema); err != nil {
		return err
	}
	for _, sql := range migrations[found:] {
		if _, err := tx.Exec(ctx, d.sql(sql), pgx.QueryExecModeSimpleProtocol); err != nil {
			return d.explainMigration(err)
		}
	}
	return tx.Commit(ctx)
}

// explainMigration says what an operator can do where the role may not make tables.
func (d *DB) explainMigration(err error) error {
	if sqlState(err) == "42501" { // insufficient_privilege
		return fmt.Errorf(
			"schema %s is missing and this role may not make it; "+
				"someone who may can run the SQL that `spool schema` prints: %w",
			d.options.Schema, err,
		)
	}
	return fmt.Errorf("make schema %s: %w", d.options.Schema, err)
}

// queryer is a connection or a transaction.
type queryer interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// version returns the version of the tables, 0 if there are none.
func version(ctx context.Context, q queryer, schema string) (int, error) {
	// This looks with a snapshot of now; to_regclass may answer from a cache of before the lock was
	// had.
	const look = `SELECT EXISTS (SELECT FROM pg_catalog.pg_tables WHERE schemaname = $1
		AND tablename = 'version')`
	var exists bool
	err := q.QueryRow(ctx, look, schema).Scan(&exists)
	if err != nil || !exists {
		return 0, err
	}
	var found int
	sql := inSchema(schema, `SELECT version FROM @schema@.version`)
	if err := q.QueryRow(ctx, sql).Scan(&found); err != nil {
		return 0, fmt.Errorf("read the version of schema %s: %w", schema, err)
	}
	if found < 1 || found > schemaVersion {
		return 0, fmt.Errorf(
			"schema %s has version %d, this gateway knows up to %d: it is not touched",
			schema, found, schemaVersion)
	}
	return found, nil
}

package postgres

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	"github.com/caddy-deepgram/deepgram-callback/internal/build"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/postgres/database"
)

func init() { caddy.RegisterModule(new(Module)) }

// Module keeps callbacks in a PostgreSQL database, which any number of gateways share.
type Module struct {
	// Where the database is, as a URL (postgres://user:password@host:5432/database) or as pairs
	// (host=… user=…). What libpq reads from the environment (PGHOST, PGPASSWORD, PGSSLMODE …)
	// applies too. Placeholders are replaced, so that the password can be kept elsewhere.
	DSN string `json:"dsn,omitempty"`

	// The schema that the tables are in. The first gateway that needs it makes it. Default:
	// deepgram_callback.
	Schema string `json:"schema,omitempty"`

	// How many connections to the database there are at most, at least 4; one more listens.
	// Default: 8.
	Connections int `json:"connections,omitempty"`

	// How long a gateway that died, or that cannot reach the database, holds what it was
	// delivering. At least 1s. Default: 30s.
	Lease caddy.Duration `json:"lease,omitempty"`

	dsn      string
	identity string
	options  Options
}

// CaddyModule returns the Caddy module information.
func (*Module) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "deepgram_callback.stores.postgres",
		New: func() caddy.Module { return new(Module) },
	}
}

// Provision implements [caddy.Provisioner]. It does not connect.
func (m *Module) Provision(caddy.Context) error {
	if m.DSN == "" {
		return errors.New("no database is named")
	}
	repl := caddy.NewReplacer()
	var err error
	if m.dsn, err = repl.ReplaceOrErr(m.DSN, true, true); err != nil {
		return errors.New("a placeholder in the name of the database is unknown or empty")
	}
	m.options, err = Options{
		Schema: m.Schema, Connections: m.Connections, Lease: time.Duration(m.Lease),
		Name: build.Gateway(), Version: build.Version(),
	}.withDefaults()
	if err != nil {
		return err
	}
	m.identity, err = database.Identity(m.dsn, m.options.Schema)
	return err
}

// Identity implements [spool.StoreModule]: hosts, database and schema.
func (m *Module) Identity() string { return m.identity }

// Open implements [spool.StoreModule]. A database that is away is no error.
func (m *Module) Open(
	ctx context.Context, limits spool.Limits, events spool.StoreEvents,
) (spool.Store, error) {
	options := m.options
	options.Limits, options.Events = limits, events
	store, err := Open(ctx, m.dsn, options)
	if err != nil {
		return nil, fmt.Errorf("store %s: %w", m.identity, err)
	}
	return store, nil
}

// Exists implements [spool.WithExists]: it says whether the schema has the tables.
func (m *Module) Exists(ctx context.Context) (bool, error) {
	exists, err := database.Exists(ctx, m.dsn, m.options.Schema)
	if err != nil {
		return false, fmt.Errorf("store %s: %w", m.identity, err)
	}
	return exists, nil
}

// SchemaSQL implements [spool.WithSchema].
func (*Module) SchemaSQL(schema string) (string, error) { return database.Schema(schema) }

// UnmarshalCaddyfile implements [caddyfile.Unmarshaler]:
//
//	store postgres <dsn> {
//		schema <name>
//		connections <n>
//		lease <duration>
//	}
func (m *Module) UnmarshalCaddyfile(d *caddyfile.Dispenser) error {
	d.Next() // its name
	args := d.RemainingArgs()
	if len(args) != 1 || strings.TrimSpace(args[0]) == "" {
		return d.Err(
			"it needs a data source name, such as postgres://user:{env.PASSWORD}@host/database",
		)
	}
	m.DSN = args[0]
	seen := make(map[string]bool)
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		name := d.Val()
		if seen[name] {
			return d.Errf("%s stands here a second time", name)
		}
		seen[name] = true
		var value string
		if !d.AllArgs(&value) {
			return d.Errf("%s needs one value", name)
		}
		if err := m.set(d, name, value); err != nil {
			return err
		}
	}
	return nil
}

func (m *Module) set(d *caddyfile.Dispenser, name, value string) error {
	switch name {
	case "schema":
		if err := database.CheckSchema(value); err != nil {
			return d.WrapErr(err)
		}
		m.Schema = value
	case "connections":
		n, err := strconv.Atoi(value)
		if err != nil || n < minConnections {
			return d.Errf("connections: %q is not a number of at least %d", value, minConnections)
		}
		m.Connections = n
	case "lease":
		lease, err := caddy.ParseDuration(value)
		if err != nil || lease < minLease {
			return d.Errf("lease: %q is not a duration of at least %s", value, minLease)
		}
		m.Lease = caddy.Duration(lease)
	default:
		return d.Errf("unrecognized option %s; there are schema, connections and lease", name)
	}
	return nil
}

// Interface guards
var (
	_ spool.StoreModule     = (*Module)(nil)
	_ spool.WithSchema      = (*Module)(nil)
	_ spool.WithExists      = (*Module)(nil)
	_ caddy.Provisioner     = (*Module)(nil)
	_ caddyfile.Unmarshaler = (*Module)(nil)
)

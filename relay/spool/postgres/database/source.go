// What a data source name says, and which of it may be shown.

package database

import (
	"cmp"
	"context"
	"errors"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

var errDSN = errors.New(
	"the data source name cannot be read: " +
		"a URL like postgres://user:password@host:5432/database is expected, " +
		"or pairs like host=… user=… (it is not shown here since it may have a password in it)",
)

func parse(dsn string) (*pgxpool.Config, error) {
	config, err := pgxpool.ParseConfig(dsn)
	if err != nil {
		return nil, errDSN // not wrapped, as it quotes from it
	}
	return config, nil
}

// Identity names a schema of the database that dsn names, without who uses it.
func Identity(dsn, schema string) (string, error) {
	config, err := parse(dsn)
	if err != nil {
		return "", err
	}
	database := cmp.Or(config.ConnConfig.Database, config.ConnConfig.User)
	return "postgres://" + strings.Join(addresses(&config.ConnConfig.Config), ",") + "/" +
		url.PathEscape(database) + "?schema=" + schema, nil
}

// addresses are the hosts, each once: there may be two ways to connect to one.
func addresses(config *pgconn.Config) []string {
	list := []string{address(config.Host, config.Port)}
	for _, fallback := range config.Fallbacks {
		if a := address(fallback.Host, fallback.Port); !slices.Contains(list, a) {
			list = append(list, a)
		}
	}
	return list
}

func address(host string, port uint16) string {
	return net.JoinHostPort(host, strconv.Itoa(int(port)))
}

// Exists reports whether a schema of the database that dsn names has the tables.
func Exists(ctx context.Context, dsn, schema string) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, probeTime)
	defer cancel()
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return false, err
	}
	defer func() { _ = conn.Close(ctx) }()
	found, err := version(ctx, conn, schema)
	return found > 0, err
}

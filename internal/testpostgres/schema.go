//go:build unix

// Schemas for tests, and what is in them.

package testpostgres

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

var schemas atomic.Int64

// NewSchema returns the name of a schema that is not there yet, and goes with the test.
func NewSchema(t testing.TB, dsn string) string {
	name := fmt.Sprintf("test_%d_%d", time.Now().UnixNano(), schemas.Add(1))
	t.Cleanup(func() { Execute(t, dsn, `DROP SCHEMA IF EXISTS `+name+` CASCADE`) })
	return name
}

// Scalar returns what a query answers, as text.
func Scalar(t testing.TB, dsn, sql string) (text string) {
	t.Helper()
	connected(t, dsn, func(ctx context.Context, conn *pgx.Conn) error {
		return conn.QueryRow(ctx, `SELECT (`+sql+`)::text`).Scan(&text)
	})
	return text
}

//go:build unix

package testpostgres_test

import (
	"context"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/caddy-deepgram/deepgram-callback/internal/testpostgres"
)

// The servers of a pair take turns, and what was committed is always there.
func TestAStandbyHasWhatItsPrimaryHad(t *testing.T) {
	primary, standby := testpostgres.NewPair(t)
	dsn := testpostgres.PairDSN(primary, standby)
	testpostgres.Execute(t, dsn, `CREATE TABLE t (n integer)`)
	for n := range 2 {
		for range 20 {
			testpostgres.Execute(t, dsn, `INSERT INTO t VALUES (1)`)
		}
		primary.Kill()
		require.NoError(t, standby.Promote())
		conn, err := pgx.Connect(t.Context(), dsn)
		require.NoError(t, err)
		var count int
		require.NoError(t, conn.QueryRow(t.Context(), `SELECT count(*) FROM t`).Scan(&count))
		require.Equal(t, 20*(n+1), count)
		require.NoError(t, conn.Close(context.Background()))
		primary, standby = standby, primary
		require.NoError(t, standby.Follow(primary))
	}
}

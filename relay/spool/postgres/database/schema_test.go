//go:build unix

package database

import (
	"fmt"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/caddy-deepgram/deepgram-callback/internal/testpostgres"
)

func TestOneGatewayMakesTheTables(t *testing.T) {
	dsn := testpostgres.DSN(t)
	schema := testpostgres.NewSchema(t, dsn)
	var gateways sync.WaitGroup
	for i := range 8 {
		gateways.Go(func() {
			d := open(t, dsn, schema, func(err error) { t.Error(err) })
			if err := write(d, fmt.Sprint(i)); err != nil {
				t.Error(err)
			}
		})
	}
	gateways.Wait()
	count := func(table string) string {
		return testpostgres.Scalar(t, dsn, `SELECT count(*) FROM `+schema+`.`+table)
	}
	require.Equal(t, "8", count("routes"))
	require.Equal(t, "1", count("version"))
}

func TestNewerTablesAreNotTouched(t *testing.T) {
	dsn := testpostgres.DSN(t)
	schema := testpostgres.NewSchema(t, dsn)
	testpostgres.Execute(t, dsn, `CREATE SCHEMA `+schema+`;
		CREATE TABLE `+schema+`.version (version integer);
		INSERT INTO `+schema+`.version VALUES (99)`)
	problems := make(chan error, 100)
	d := open(t, dsn, schema, func(err error) { problems <- err })
	require.Error(t, write(d, "a"))
	require.ErrorContains(t, <-problems, "has version 99, this gateway knows up to 1")
	require.Equal(t, "1", testpostgres.Scalar(t, dsn,
		`SELECT count(*) FROM pg_tables WHERE schemaname = '`+schema+`'`))
}

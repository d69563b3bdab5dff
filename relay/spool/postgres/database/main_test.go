//go:build unix

package database

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-deepgram/deepgram-callback/internal/testpostgres"
)

func TestMain(m *testing.M) { testpostgres.Main(m) }

const patience = 60 * time.Second

// open opens a database as a store does, and has it looked after until the test ends.
func open(t testing.TB, dsn, schema string, problem func(err error)) *DB {
	d, err := Open(dsn, Options{
		Schema: schema, Connections: 4, Problem: problem, Away: func(error) {}, Back: func() {},
		Reached: func(context.Context, Conn) error { return nil },
	})
	require.NoError(t, err)
	d.Reach(context.Background())
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		d.Run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		<-ended
		d.Close()
	})
	return d
}

// write commits something.
func write(d *DB, text string) error {
	const insert = `INSERT INTO @schema@.routes (name) VALUES ($1)`
	return d.Transact(context.Background(), Quick, SQL(insert, text))
}

func writeAtLast(t *testing.T, d *DB, text string) {
	t.Helper()
	require.Eventually(t, func() bool { return write(d, text) == nil }, patience, 10*time.Millisecond)
}

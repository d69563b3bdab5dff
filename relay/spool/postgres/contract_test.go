//go:build unix

package postgres

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/caddy-deepgram/deepgram-callback/internal/testpostgres"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/storetest"
)

var schemas atomic.Int64

// newSchema returns the name of a schema that is not there yet, and goes with the test.
func newSchema(t testing.TB, dsn string) string {
	name := fmt.Sprintf("test_%d_%d", time.Now().UnixNano(), schemas.Add(1))
	t.Cleanup(func() { execute(t, dsn, `DROP SCHEMA IF EXISTS `+name+` CASCADE`) })
	return name
}

func execute(t testing.TB, dsn, sql string) { require.NoError(t, tryToExecute(dsn, sql)) }

func tryToExecute(dsn, sql string) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(ctx) }()
	_, err = conn.Exec(ctx, sql)
	return err
}

func openTest(t testing.TB, dsn string, options Options) *Store {
	if options.Events.Problem == nil {
		options.Events.Problem = func(err error) { t.Log(err) }
	}
	s, err := Open(context.Background(), dsn, options)
	require.NoError(t, err)
	return s
}

// abandon ends a store as if its process had died.
func (s *Store) abandon() {
	s.closing.Do(func() {
		s.closed.Store(true)
		s.acceptor.close()
		s.cancel()
		s.work.Wait()
		s.pool.Close()
	})
}

const testLease = 2 * time.Second

func TestTheContract(t *testing.T) {
	dsn := testpostgres.DSN(t)
	storetest.Run(t, storetest.Factory{
		New: func(t testing.TB) func() spool.Store {
			schema := newSchema(t, dsn)
			options := Options{Schema: schema, Lease: testLease, Name: "test"}
			return func() spool.Store { return openTest(t, dsn, options) }
		},
		Shared:    true,
		Abandon:   func(store spool.Store) { store.(*Store).abandon() },
		LeaseTime: testLease,
	})
}

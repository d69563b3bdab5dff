//go:build unix

package postgres

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-deepgram/deepgram-callback/internal/testpostgres"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/storetest"
)

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
		s.db.Close()
	})
}

const testLease = 2 * time.Second

func TestTheContract(t *testing.T) {
	dsn := testpostgres.DSN(t)
	storetest.Run(t, storetest.Factory{
		New: func(t testing.TB) func() spool.Store {
			schema := testpostgres.NewSchema(t, dsn)
			options := Options{Schema: schema, Lease: testLease, Name: "test"}
			return func() spool.Store { return openTest(t, dsn, options) }
		},
		Shared:    true,
		Abandon:   func(store spool.Store) { store.(*Store).abandon() },
		LeaseTime: testLease,
	})
}

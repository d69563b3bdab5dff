//go:build unix

package hints

import (
	"context"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/caddy-deepgram/deepgram-callback/internal/testpostgres"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/postgres/database"
)

func TestMain(m *testing.M) { testpostgres.Main(m) }

const patience = 60 * time.Second

// run runs the hints of a gateway until the test ends.
func run(t *testing.T, dsn, schema string, told, looked chan int32) *Hints {
	db, err := database.Open(dsn, database.Options{
		Schema: schema, Connections: 4, Problem: func(err error) { t.Error(err) },
		Away: func(error) {}, Back: func() {},
		Reached: func(context.Context, database.Conn) error { return nil },
	})
	require.NoError(t, err)
	db.Reach(context.Background())
	h := New(Options{
		DB: db, Schema: schema, Gateway: uuid.New(),
		Told: func(_ context.Context, route int32) { told <- route },
		Look: func(_ context.Context, routes []int32) {
			for _, route := range routes {
				looked <- route
			}
		},
	})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		h.Run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		<-ended
		db.Close()
	})
	return h
}

func receive(t *testing.T, from chan int32) int32 {
	t.Helper()
	select {
	case route := <-from:
		return route
	case <-time.After(patience):
		require.Fail(t, "nobody was told")
		return 0
	}
}

func TestAHintReachesOthersOfTheSchemaOnly(t *testing.T) {
	dsn := testpostgres.DSN(t)
	schema := testpostgres.NewSchema(t, dsn)
	told, elsewhere := make(chan int32, 10), make(chan int32, 10)
	here := run(t, dsn, schema, told, nil)
	there := run(t, dsn, schema, told, nil)
	other := run(t, dsn, testpostgres.NewSchema(t, dsn), elsewhere, nil)
	for _, h := range []*Hints{here, there, other} {
		require.Eventually(t, func() bool {
			h.mu.Lock()
			defer h.mu.Unlock()
			return h.listening
		}, patience, time.Millisecond)
	}
	here.Give(7)
	require.Equal(t, int32(7), receive(t, told))
	there.GiveNow(context.Background(), 8)
	require.Equal(t, int32(8), receive(t, told))
	other.GiveNow(context.Background(), 9)
	require.Empty(t, told, "each was told once, and nobody of himself")
	require.Empty(t, elsewhere)
}

func TestAGatewayLooksForItself(t *testing.T) {
	dsn := testpostgres.DSN(t)
	looked := make(chan int32, 1000)
	h := run(t, dsn, testpostgres.NewSchema(t, dsn), nil, looked)
	h.Interest(7)
	for range 2 {
		require.Equal(t, int32(7), receive(t, looked))
	}
}

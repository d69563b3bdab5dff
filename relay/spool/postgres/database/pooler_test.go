//go:build unix

package database

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/caddy-deepgram/deepgram-callback/internal/testpostgres"
)

func TestItIsKnownWhetherAPoolerStandsBetween(t *testing.T) {
	server := testpostgres.New(t)
	report := func(err error) { t.Error(err) }
	straight := open(t, server.DSN(), DefaultSchema, report)
	require.NoError(t, straight.Ready())
	require.True(t, straight.direct.Load())
	pooled := open(t, testpostgres.NewPooler(t, server), DefaultSchema, report)
	require.NoError(t, pooled.Ready())
	require.False(t, pooled.direct.Load())
}

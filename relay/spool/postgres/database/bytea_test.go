//go:build unix

package database

import (
	"bytes"
	"context"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/stretchr/testify/require"

	"github.com/caddy-deepgram/deepgram-callback/internal/testpostgres"
)

var arraysOfBytea = map[string][][]byte{
	"nil":        nil,
	"empty":      {},
	"one":        {[]byte("a")},
	"null":       {nil},
	"some":       {[]byte("a"), nil, {}, {0, 0xff, '"', '{'}},
	"large ones": {bytes.Repeat([]byte("x"), 70_000), nil, bytes.Repeat([]byte{0}, 100_000)},
}

func TestAnArrayOfByteaIsEncodedAsPgxDoes(t *testing.T) {
	types := pgtype.NewMap()
	known, _ := types.TypeForOID(pgtype.ByteaArrayOID)
	ours := byteaArrays{known.Codec}
	for name, value := range arraysOfBytea {
		want, err := types.Encode(pgtype.ByteaArrayOID, pgtype.BinaryFormatCode, value, []byte("before"))
		require.NoError(t, err, name)
		plan := ours.PlanEncode(types, pgtype.ByteaArrayOID, pgtype.BinaryFormatCode, value)
		require.IsType(t, encodeByteas{}, plan, name)
		got, err := plan.Encode(value, []byte("before"))
		require.NoError(t, err, name)
		require.Equal(t, want, got, name)
	}

	// Whatever else can be an array of bytea is left to pgx.
	for _, value := range []any{[]string{"a", "b"}, "{a}", pgtype.FlatArray[[]byte]{[]byte("a")}} {
		plan := ours.PlanEncode(types, pgtype.ByteaArrayOID, pgtype.BinaryFormatCode, value)
		require.NotEqual(t, encodeByteas{}, plan)
	}
}

func TestAnArrayOfByteaComesBack(t *testing.T) {
	ctx := context.Background()
	conn, err := pgx.Connect(ctx, testpostgres.DSN(t))
	require.NoError(t, err)
	defer func() { require.NoError(t, conn.Close(ctx)) }()
	require.NoError(t, registerArrays(ctx, conn))
	for name, value := range arraysOfBytea {
		var got [][]byte
		require.NoError(t, conn.QueryRow(ctx, `SELECT $1::bytea[]`, value).Scan(&got), name)
		require.Equal(t, value, got, name)
	}
}

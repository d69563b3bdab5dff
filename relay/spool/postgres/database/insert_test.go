//go:build unix

package database

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/caddy-deepgram/deepgram-callback/internal/testpostgres"
)

// straightAndPooled runs a test on a database, and on one with a pooler before it.
func straightAndPooled(t *testing.T, test func(t *testing.T, d *DB, dsn, schema string)) {
	t.Helper()
	server := testpostgres.New(t)
	for name, dsn := range map[string]string{
		"straight": server.DSN(), "pooled": testpostgres.NewPooler(t, server),
	} {
		t.Run(name, func(t *testing.T) {
			schema := testpostgres.NewSchema(t, server.DSN())
			d := open(t, dsn, schema, func(err error) { t.Error(err) })
			require.NoError(t, d.Ready())
			require.Equal(t, name == "straight", d.direct.Load())
			test(t, d, server.DSN(), schema)
		})
	}
}

const hashSQL = `INSERT INTO @schema@.routes (name)
	SELECT encode(sha256(content), 'hex') FROM unnest($1::bytea[]) AS content RETURNING name`

// insertHashes inserts the hashes of some contents, as the database finds them, and returns them.
func insertHashes(d *DB, contents ...[]byte) (hashes []string, err error) {
	err = d.Insert(context.Background(), Quick, func() { hashes = nil },
		SQL(hashSQL, contents).Each(func(rows pgx.Rows) error {
			var hash string
			err := rows.Scan(&hash)
			hashes = append(hashes, hash)
			return err
		}))
	return hashes, err
}

func hash(content []byte) string { return fmt.Sprintf("%x", sha256.Sum256(content)) }

func TestWhatIsInsertedAtOnceIsNotMixedUp(t *testing.T) {
	straightAndPooled(t, func(t *testing.T, d *DB, dsn, schema string) {
		var inserters sync.WaitGroup
		for inserter := range 8 {
			inserters.Go(func() {
				for i := range 20 {
					var contents [][]byte
					var want []string
					for n := range 1 + i%5 {
						size := 1 + (inserter*7919+i*104729+n*1299709)%300_000
						contents = append(contents, bytes.Repeat([]byte{byte(inserter), byte(i), byte(n)}, size))
						want = append(want, hash(contents[n]))
					}
					got, err := insertHashes(d, contents...)
					if !assert.NoError(t, err) || !assert.Equal(t, want, got) {
						return
					}
				}
			})
		}
		inserters.Wait()
		require.Equal(t, "480", testpostgres.Scalar(t, dsn, `SELECT count(*) FROM `+schema+`.routes`))
	})
}

func TestAnInsertThatFailsLeavesNothingBehind(t *testing.T) {
	straightAndPooled(t, func(t *testing.T, d *DB, dsn, schema string) {
		_, err := insertHashes(d, []byte("a"))
		require.NoError(t, err)
		_, err = insertHashes(d, []byte("b"), []byte("a")) // a name is unique
		require.Equal(t, "23505", sqlState(err), err)
		require.True(t, IsDislike(err))
		got, err := insertHashes(d, []byte("b"))
		require.NoError(t, err)
		require.Equal(t, []string{hash([]byte("b"))}, got)
		require.Equal(t, "2", testpostgres.Scalar(t, dsn, `SELECT count(*) FROM `+schema+`.routes`))

		err = d.Insert(context.Background(), Quick, func() {}, SQL(`SELECT nonsense`))
		require.Equal(t, "42703", sqlState(err), err)
		_, err = insertHashes(d, []byte("c"))
		require.NoError(t, err)
	})
}

func TestAnInsertThatTakesTooLongIsEndedByTheDatabase(t *testing.T) {
	straightAndPooled(t, func(t *testing.T, d *DB, _, _ string) {
		err := d.Insert(context.Background(), 50*time.Millisecond, func() {}, SQL(`SELECT pg_sleep(60)`))
		require.Equal(t, "57014", sqlState(err), err)
		_, err = insertHashes(d, []byte("a"))
		require.NoError(t, err)
	})
}

func TestASessionThatForgotItsStatementsIsLeft(t *testing.T) {
	straightAndPooled(t, func(t *testing.T, d *DB, _, _ string) {
		for i := range 3 {
			got, err := insertHashes(d, []byte{byte(i)})
			require.NoError(t, err)
			require.Equal(t, []string{hash([]byte{byte(i)})}, got)
			for _, conn := range d.pool.AcquireAllIdle(t.Context()) {
				_, err := conn.Exec(t.Context(), `DEALLOCATE ALL`, pgx.QueryExecModeSimpleProtocol)
				require.NoError(t, err)
				conn.Release()
			}
		}
	})
}

func TestArgumentsAreEncodedAsPgxDoes(t *testing.T) {
	id := [16]byte{1, 2, 3}
	oids := []uint32{
		pgtype.Int4ArrayOID, pgtype.Int8ArrayOID, pgtype.UUIDArrayOID, pgtype.IntervalArrayOID,
		pgtype.TextArrayOID, pgtype.ByteaArrayOID, pgtype.Int8OID, pgtype.UUIDOID, pgtype.Int4OID,
		pgtype.TextOID, pgtype.ByteaOID, pgtype.ByteaArrayOID,
	}
	args := []any{
		[]int32{1, -2}, []int64{}, []*[16]byte{&id, nil}, []time.Duration{time.Hour},
		[]string{"", "{", "é"}, [][]byte{nil, {}, bytes.Repeat([]byte("x"), 100_000)}, int64(1), id, 7,
		"text", nil, [][]byte(nil),
	}
	types := pgtype.NewMap()
	var memory arguments
	for range 3 { // what is used again is no different
		values, err := memory.encode(types, oids, args)
		require.NoError(t, err)
		for i, arg := range args {
			want, err := types.Encode(oids[i], pgtype.BinaryFormatCode, arg, []byte{})
			require.NoError(t, err)
			require.Equal(t, want, values[i], i)
		}
		slices.Reverse(oids)
		slices.Reverse(args)
	}
	_, err := memory.encode(types, oids, args[1:])
	require.ErrorContains(t, err, "11 arguments for a statement that takes 12")
	_, err = memory.encode(types, oids[:2], []any{int64(1), "no number"})
	require.ErrorContains(t, err, "argument $")
}

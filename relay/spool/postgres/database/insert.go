// Inserting: what is large is encoded into memory that is used again.

package database

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"
)

// insertSettings are for a transaction that reads no table, where the planner may do as it likes
// with what it is given, and a plan is good for ever.
const insertSettings = `SELECT set_config('statement_timeout', $1, true), set_config('jit', 'off',
	true)`

// Insert is TransactAnew for one statement that reads no table and has much to say. pgx makes a
// buffer for all arguments of a statement and another one for its message, each time anew. The first
// is ours here and used again, which saves a tenth of the processor time of accepting callbacks of
// 16 KB; the second holds a copy, so nothing that is sent refers to what is used again.
func (d *DB) Insert(
	ctx context.Context, limit time.Duration, begin func(), statement Statement,
) error {
	return d.persist(ctx, limit, begin, func(ctx context.Context, conn *pgx.Conn) error {
		err := d.insert(ctx, conn, limit, statement)
		if isForgotten(err) {
			_ = conn.Close(ctx) // somebody has changed its session
		}
		return err
	})
}

func (d *DB) insert(
	ctx context.Context, conn *pgx.Conn, limit time.Duration, statement Statement,
) error {
	batch := new(pgconn.Batch)
	memory := insertMemory.Get().(*arguments)
	defer insertMemory.Put(memory)
	for _, s := range []Statement{
		SQL(`BEGIN`), SQL(insertSettings, milliseconds(limit)), statement, SQL(`COMMIT`),
	} {
		if err := d.add(ctx, conn, batch, memory, s); err != nil {
			return unsentError{err}
		}
	}

	results := conn.PgConn().ExecBatch(ctx, batch)
	var tag pgconn.CommandTag
	var err error
	for place := 0; err == nil && results.NextResult(); place++ {
		if result := results.ResultReader(); place == 2 {
			err = statement.readAll(pgx.RowsFromResultReader(conn.TypeMap(), result))
		} else {
			tag, err = result.Close()
		}
	}
	if closeErr := results.Close(); err == nil {
		err = closeErr
	}
	if err == nil && tag.String() != "COMMIT" {
		err = errRolledBack
	}
	return err
}

// add puts a statement into a batch, with a copy of its arguments.
func (d *DB) add(
	ctx context.Context, conn *pgx.Conn, batch *pgconn.Batch, memory *arguments, s Statement,
) error {
	direct := d.direct.Load()
	description, err := d.describe(ctx, conn, direct, d.sql(s.sql))
	if err != nil {
		return err
	}
	values, err := memory.encode(conn.TypeMap(), description.ParamOIDs, s.args)
	if err != nil {
		return err
	}
	binary := []int16{pgtype.BinaryFormatCode} // all of them
	if direct {
		batch.ExecStatement(description, values, binary, binary)
	} else {
		batch.ExecParams(description.SQL, values, description.ParamOIDs, binary, binary)
	}
	return nil
}

// describe returns what a statement takes and answers. It has a name in the database, for this
// connection, where there is no pooler between.
func (d *DB) describe(
	ctx context.Context, conn *pgx.Conn, direct bool, sql string,
) (*pgconn.StatementDescription, error) {
	if direct {
		return conn.Prepare(ctx, sql, sql) // which is remembered by conn
	}
	if known, ok := d.descriptions.Load(sql); ok {
		return known.(*pgconn.StatementDescription), nil
	}
	description, err := conn.Prepare(ctx, "", sql)
	if err == nil {
		d.descriptions.Store(sql, description)
	}
	return description, err
}

// arguments are those of one statement in the binary form, in memory that the next one uses again.
type arguments struct {
	bytes  []byte
	ends   []int // of each in bytes, or isNull
	values [][]byte
}

const isNull = -1

var insertMemory = sync.Pool{New: func() any { return new(arguments) }}

// encode returns the values of arguments, nil for NULL. They are good until it is called again.
func (a *arguments) encode(types *pgtype.Map, oids []uint32, args []any) ([][]byte, error) {
	if len(oids) != len(args) {
		return nil, fmt.Errorf("%d arguments for a statement that takes %d", len(args), len(oids))
	}
	a.bytes, a.ends, a.values = a.bytes[:0], a.ends[:0], a.values[:0]
	for i, arg := range args {
		encoded, err := types.Encode(oids[i], pgtype.BinaryFormatCode, arg, a.bytes)
		switch {
		case err != nil:
			return nil, fmt.Errorf("argument $%d: %w", i+1, err)
		case encoded == nil:
			a.ends = append(a.ends, isNull)
		default:
			a.bytes = encoded
			a.ends = append(a.ends, len(encoded))
		}
	}
	start := 0
	for _, end := range a.ends { // now that bytes stays where it is
		if end == isNull {
			a.values = append(a.values, nil)
			continue
		}
		a.values = append(a.values, a.bytes[start:end:end])
		start = end
	}
	return a.values, nil
}

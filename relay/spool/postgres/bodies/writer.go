// Bodies that arrive.

package bodies

import (
	"context"
	"errors"
	"hash/crc32"
	"sync"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/postgres/database"
)

// smallBuffers and pieceBuffers are memory for bodies on their way in.
var (
	smallBuffers = sync.Pool{New: func() any { b := make([]byte, 0, 8<<10); return &b }}
	pieceBuffers = sync.Pool{New: func() any { b := make([]byte, 0, PieceSize); return &b }}
)

// New returns what takes in a body, for whoever brings it, for as long as ctx lasts. Of its size
// something may be known before, or nothing: -1.
func (b *Bodies) New(ctx context.Context, sizeHint int64) (*Writer, error) {
	if err := b.DB.Ready(); err != nil {
		return nil, err
	}
	if err := b.Room.Expect(sizeHint); err != nil {
		return nil, err
	}
	return &Writer{
		bodies: b, ctx: ctx, buffer: smallBuffers.Get().(*[]byte), pool: &smallBuffers,
	}, nil
}

// Writer takes in one body.
type Writer struct {
	bodies *Bodies
	ctx    context.Context // of whoever brings it

	size    int64
	crc     uint32
	buffer  *[]byte // what is not in the database yet
	pool    *sync.Pool
	pieces  int
	name    [16]byte // of the pieces
	arrived int64    // bytes in pieces

	mu     sync.Mutex
	closed bool
}

// Size returns how large the body is, as far as it has come.
func (w *Writer) Size() int64 { return w.size }

// CRC returns its CRC-32C.
func (w *Writer) CRC() uint32 { return w.crc }

// Name returns what its pieces are called, nil if it is in none.
func (w *Writer) Name() *[16]byte {
	if w.pieces == 0 {
		return nil
	}
	return &w.name
}

// Inline returns a body that is not in pieces, nil for one that is.
func (w *Writer) Inline() []byte {
	if w.pieces > 0 || w.buffer == nil {
		return nil
	}
	return *w.buffer
}

// Write implements io.Writer.
func (w *Writer) Write(p []byte) (int, error) {
	written := len(p)
	for len(p) > 0 {
		if w.size == maxInline && w.pool == &smallBuffers {
			w.grow()
		}
		room := maxInline
		if w.pool == &pieceBuffers {
			room = PieceSize
		}
		part := p[:min(len(p), room-len(*w.buffer))]
		*w.buffer = append(*w.buffer, part...)
		w.crc = crc32.Update(w.crc, castagnoli, part)
		w.size += int64(len(part))
		p = p[len(part):]
		if len(*w.buffer) == PieceSize {
			if err := w.send(); err != nil {
				return written - len(p), database.Refuse(err)
			}
		}
	}
	return written, nil
}

// grow goes on with the buffer of a piece.
func (w *Writer) grow() {
	larger := pieceBuffers.Get().(*[]byte)
	*larger = append((*larger)[:0], *w.buffer...)
	w.release()
	w.buffer, w.pool = larger, &pieceBuffers
}

func (w *Writer) release() {
	if w.buffer != nil {
		*w.buffer = (*w.buffer)[:0]
		w.pool.Put(w.buffer)
		w.buffer = nil
	}
}

// ErrSwept says that the pieces of a body were removed before it was accepted.
var ErrSwept = errors.New("the body took too long to arrive and was swept away")

// An upload says that the pieces belong to a body that is not accepted yet. Once it was swept,
// nothing more is taken.
const (
	beginUploadSQL = `INSERT INTO @schema@.uploads (body, gateway, at) VALUES ($1, $2, now())
		RETURNING body`
	renewUploadSQL = `UPDATE @schema@.uploads SET at = now(), gateway = $2 WHERE body = $1
		RETURNING body`
	pieceSQL = `INSERT INTO @schema@.pieces (body, n, data) SELECT body, $2, $3
		FROM @schema@.uploads WHERE body = $1 RETURNING n`
	forgetPiecesSQL = `DELETE FROM @schema@.pieces p USING @schema@.uploads u WHERE u.body = $1
		AND p.body = u.body`
	forgetUploadSQL = `DELETE FROM @schema@.uploads WHERE body = $1`
)

// send sends what is in the buffer as the next piece.
func (w *Writer) send() error {
	if err := w.bodies.Room.Expect(w.size - w.arrived); err != nil {
		return err
	}
	upload := renewUploadSQL
	if w.pieces == 0 {
		w.name, upload = uuid.New(), beginUploadSQL
	}
	n := w.pieces
	w.pieces++ // whether it works or not: it is to be swept
	w.bodies.Room.Arrive(int64(len(*w.buffer)))
	w.arrived += int64(len(*w.buffer))
	stored := false
	piece := database.SQL(pieceSQL, w.name, n, *w.buffer)
	err := w.bodies.DB.Transact(w.ctx, database.Quick,
		database.SQL(upload, w.name, w.bodies.Gateway),
		piece.Each(func(pgx.Rows) error { stored = true; return nil }))
	if err == nil && !stored {
		err = ErrSwept
	}
	*w.buffer = (*w.buffer)[:0]
	return err
}

// Finish ends the writing: what is left of a body in pieces is sent.
func (w *Writer) Finish() error {
	if w.pool != &pieceBuffers || len(*w.buffer) == 0 {
		return nil
	}
	if err := w.send(); err != nil {
		return database.Refuse(err)
	}
	return nil
}

// Keep ends the writing of a body that now belongs to a message.
func (w *Writer) Keep() { w.end(false) }

// Discard implements spool.BodyWriter.
func (w *Writer) Discard() { w.end(true) }

func (w *Writer) end(forget bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return
	}
	w.closed = true
	w.release()
	w.bodies.Room.Arrive(-w.arrived)
	if forget && w.pieces > 0 {
		w.bodies.forget(w.name)
	}
}

// forget removes pieces that are not needed. Where that fails they are swept later.
func (b *Bodies) forget(name [16]byte) {
	go func() {
		_ = b.DB.Transact(b.Context, database.Slow,
			database.SQL(forgetPiecesSQL, name), database.SQL(forgetUploadSQL, name))
	}()
}

var _ spool.BodyWriter = (*Writer)(nil)

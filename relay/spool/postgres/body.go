// Bodies: small ones in the row of their message, large ones in pieces that go to the
// database while they arrive, and come from there while they are read.

package postgres

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"sync"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/postgres/database"
)

const (
	// maxInline is the size above which a body is in pieces.
	maxInline = 64 << 10
	pieceSize = 256 << 10
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// smallBuffers and pieceBuffers are memory for bodies on their way in.
var (
	smallBuffers = sync.Pool{New: func() any { b := make([]byte, 0, 8<<10); return &b }}
	pieceBuffers = sync.Pool{New: func() any { b := make([]byte, 0, pieceSize); return &b }}
)

// NewBody implements spool.Store.
func (s *Store) NewBody(ctx context.Context, sizeHint int64) (spool.BodyWriter, error) {
	if err := s.enter(ctx); err != nil {
		return nil, err
	}
	if err := s.db.Ready(); err != nil {
		return nil, err
	}
	if err := s.room.expect(sizeHint); err != nil {
		return nil, err
	}
	return &bodyWriter{
		s: s, ctx: ctx, buffer: smallBuffers.Get().(*[]byte), pool: &smallBuffers,
	}, nil
}

// bodyWriter takes in one body.
type bodyWriter struct {
	s   *Store
	ctx context.Context // of whoever brings it

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

// stored reports whether the body is in pieces.
func (w *bodyWriter) stored() bool { return w.pieces > 0 }

// inline returns a body that is not in pieces, nil for one that is.
func (w *bodyWriter) inline() []byte {
	if w.stored() || w.buffer == nil {
		return nil
	}
	return *w.buffer
}

// Write implements io.Writer.
func (w *bodyWriter) Write(p []byte) (int, error) {
	written := len(p)
	for len(p) > 0 {
		if w.size == maxInline && w.pool == &smallBuffers {
			w.grow()
		}
		room := maxInline
		if w.pool == &pieceBuffers {
			room = pieceSize
		}
		part := p[:min(len(p), room-len(*w.buffer))]
		*w.buffer = append(*w.buffer, part...)
		w.crc = crc32.Update(w.crc, castagnoli, part)
		w.size += int64(len(part))
		p = p[len(part):]
		if len(*w.buffer) == pieceSize {
			if err := w.send(); err != nil {
				return written - len(p), database.Refuse(err)
			}
		}
	}
	return written, nil
}

// grow goes on with the buffer of a piece.
func (w *bodyWriter) grow() {
	larger := pieceBuffers.Get().(*[]byte)
	*larger = append((*larger)[:0], *w.buffer...)
	w.release()
	w.buffer, w.pool = larger, &pieceBuffers
}

func (w *bodyWriter) release() {
	if w.buffer != nil {
		*w.buffer = (*w.buffer)[:0]
		w.pool.Put(w.buffer)
		w.buffer = nil
	}
}

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
func (w *bodyWriter) send() error {
	if err := w.s.room.expect(w.size - w.arrived); err != nil {
		return err
	}
	upload := renewUploadSQL
	if w.pieces == 0 {
		w.name, upload = uuid.New(), beginUploadSQL
	}
	n := w.pieces
	w.pieces++ // whether it works or not: it is to be swept
	w.s.room.arriving.Add(int64(len(*w.buffer)))
	w.arrived += int64(len(*w.buffer))
	stored := false
	piece := database.SQL(pieceSQL, w.name, n, *w.buffer)
	err := w.s.db.Transact(w.ctx, database.Quick,
		database.SQL(upload, w.name, w.s.id),
		piece.Each(func(pgx.Rows) error { stored = true; return nil }))
	if err == nil && !stored {
		err = errSwept
	}
	*w.buffer = (*w.buffer)[:0]
	return err
}

// finish ends the writing: what is left of a body in pieces is sent.
func (w *bodyWriter) finish() error {
	if w.pool != &pieceBuffers || len(*w.buffer) == 0 {
		return nil
	}
	if err := w.send(); err != nil {
		return database.Refuse(err)
	}
	return nil
}

// keep ends the writing of a body that now belongs to a message.
func (w *bodyWriter) keep() { w.end(false) }

// Discard implements spool.BodyWriter.
func (w *bodyWriter) Discard() { w.end(true) }

func (w *bodyWriter) end(forget bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return
	}
	w.closed = true
	w.release()
	w.s.room.arriving.Add(-w.arrived)
	if forget && w.stored() {
		w.s.forgetUpload(w.name)
	}
}

// forgetUpload removes pieces that are not needed. Where that fails they are swept later.
func (s *Store) forgetUpload(name [16]byte) {
	go func() {
		_ = s.db.Transact(s.ctx, database.Slow,
			database.SQL(forgetPiecesSQL, name), database.SQL(forgetUploadSQL, name))
	}()
}

const (
	bodySQL      = `SELECT size, crc, pieces, body FROM @schema@.messages WHERE id = $1`
	readPieceSQL = `SELECT data FROM @schema@.pieces WHERE body = $1 AND n = $2`
)

// Body implements spool.Store.
func (s *Store) Body(ctx context.Context, id spool.ID) (spool.Body, error) {
	if err := s.enter(ctx); err != nil {
		return nil, err
	}
	if content, crc, ok := s.leases.body(id); ok {
		return &inlineBody{Reader: bytes.NewReader(content), crc: crc, content: content}, nil
	}
	var found bool
	var content []byte
	var pieces *[16]byte
	var size, crc int64
	body := database.SQL(bodySQL, [16]byte(id))
	err := s.db.Query(ctx, database.Quick, body.Each(func(rows pgx.Rows) error {
		found = true
		return rows.Scan(&size, &crc, &pieces, &content)
	}))
	switch {
	case err != nil:
		return nil, err
	case !found:
		return nil, spool.ErrNotFound
	case pieces == nil && int64(len(content)) != size:
		return nil, fmt.Errorf("message %s: %w", id, spool.ErrDamaged)
	case pieces == nil:
		return &inlineBody{
			Reader: bytes.NewReader(content), crc: uint32(crc), content: content,
		}, nil
	}
	return &piecedBody{
		s: s, ctx: ctx, id: id, name: *pieces, size: size, want: uint32(crc), loaded: -1,
	}, nil
}

// inlineBody reads a small body.
type inlineBody struct {
	*bytes.Reader
	content []byte
	crc     uint32
}

// Read implements io.Reader. The check comes with the end.
func (b *inlineBody) Read(p []byte) (int, error) {
	n, err := b.Reader.Read(p)
	if err == io.EOF && crc32.Checksum(b.content, castagnoli) != b.crc {
		err = spool.ErrDamaged
	}
	return n, err
}

// WriteTo implements io.WriterTo, which bytes.Reader would without the check.
func (b *inlineBody) WriteTo(w io.Writer) (int64, error) {
	if crc32.Checksum(b.content, castagnoli) != b.crc {
		return 0, spool.ErrDamaged
	}
	return b.Reader.WriteTo(w)
}

// Close implements io.Closer.
func (*inlineBody) Close() error { return nil }

// piecedBody reads a large body, a piece at a time.
type piecedBody struct {
	s    *Store
	ctx  context.Context
	id   spool.ID
	name [16]byte
	size int64
	want uint32

	offset  int64
	piece   []byte
	loaded  int64 // which piece that is
	crc     uint32
	checked int64 // up to where crc goes
}

// Size returns the size of the body.
func (b *piecedBody) Size() int64 { return b.size }

// Read implements io.Reader.
func (b *piecedBody) Read(p []byte) (int, error) {
	if b.offset == b.size {
		if b.checked == b.size && b.crc != b.want {
			return 0, spool.ErrDamaged
		}
		return 0, io.EOF
	}
	if n := b.offset / pieceSize; n != b.loaded {
		if err := b.load(n); err != nil {
			return 0, err
		}
	}
	n := copy(p, b.piece[b.offset%pieceSize:])
	if b.checked == b.offset {
		b.crc = crc32.Update(b.crc, castagnoli, p[:n])
		b.checked += int64(n)
	}
	b.offset += int64(n)
	return n, nil
}

func (b *piecedBody) load(n int64) error {
	if b.s.closed.Load() {
		return spool.ErrClosed
	}
	b.loaded = -1
	found := false
	piece := database.SQL(readPieceSQL, b.name, n)
	err := b.s.db.Query(b.ctx, database.Quick, piece.Each(func(rows pgx.Rows) error {
		found = true
		return rows.Scan(&b.piece)
	}))
	if err != nil {
		return err
	}
	if !found || int64(len(b.piece)) != min(pieceSize, b.size-n*pieceSize) {
		if _, err := b.s.Get(b.ctx, b.id); errors.Is(err, spool.ErrNotFound) {
			return err
		}
		return fmt.Errorf("message %s, piece %d: %w", b.id, n, spool.ErrDamaged)
	}
	b.loaded = n
	return nil
}

// Seek implements io.Seeker.
func (b *piecedBody) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += b.offset
	case io.SeekEnd:
		offset += b.size
	}
	if offset < 0 || offset > b.size {
		return 0, fmt.Errorf("seek to %d in a body of %d bytes", offset, b.size)
	}
	b.offset = offset
	return offset, nil
}

// Close implements io.Closer.
func (b *piecedBody) Close() error {
	b.piece, b.loaded = nil, -1
	return nil
}

var (
	_ spool.Body = (*inlineBody)(nil)
	_ spool.Body = (*piecedBody)(nil)
)

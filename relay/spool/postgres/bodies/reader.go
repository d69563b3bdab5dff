// Bodies that are read.

package bodies

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io"

	"github.com/jackc/pgx/v5"

	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/postgres/database"
)

const (
	bodySQL      = `SELECT size, crc, pieces, body FROM @schema@.messages WHERE id = $1`
	readPieceSQL = `SELECT data FROM @schema@.pieces WHERE body = $1 AND n = $2`
)

// Open returns the body of a message, for as long as ctx lasts.
func (b *Bodies) Open(ctx context.Context, id spool.ID) (spool.Body, error) {
	found, err := b.find(ctx, id)
	switch {
	case err != nil:
		return nil, err
	case found.pieces == nil && int64(len(found.content)) != found.size:
		return nil, fmt.Errorf("message %s: %w", id, spool.ErrDamaged)
	case found.pieces == nil:
		return Inline(found.content, uint32(found.crc)), nil
	}
	return &piecedBody{
		bodies: b, ctx: ctx, id: id, name: *found.pieces, size: found.size,
		want: uint32(found.crc), loaded: -1,
	}, nil
}

// found is what the row of a message says of its body.
type found struct {
	size, crc int64
	pieces    *[16]byte
	content   []byte
}

func (b *Bodies) find(ctx context.Context, id spool.ID) (f found, err error) {
	err = spool.ErrNotFound
	body := database.SQL(bodySQL, [16]byte(id))
	asked := b.DB.Query(ctx, database.Quick, body.Each(func(rows pgx.Rows) error {
		err = nil
		return rows.Scan(&f.size, &f.crc, &f.pieces, &f.content)
	}))
	if asked != nil {
		err = asked
	}
	return f, err
}

// Inline returns a small body of which the content is known.
func Inline(content []byte, crc uint32) spool.Body {
	return &inlineBody{Reader: bytes.NewReader(content), content: content, crc: crc}
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
	bodies *Bodies
	ctx    context.Context
	id     spool.ID
	name   [16]byte
	size   int64
	want   uint32

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
	if n := b.offset / PieceSize; n != b.loaded {
		if err := b.load(n); err != nil {
			return 0, err
		}
	}
	n := copy(p, b.piece[b.offset%PieceSize:])
	if b.checked == b.offset {
		b.crc = crc32.Update(b.crc, castagnoli, p[:n])
		b.checked += int64(n)
	}
	b.offset += int64(n)
	return n, nil
}

func (b *piecedBody) load(n int64) error {
	if b.bodies.Closed() {
		return spool.ErrClosed
	}
	b.loaded = -1
	found := false
	piece := database.SQL(readPieceSQL, b.name, n)
	err := b.bodies.DB.Query(b.ctx, database.Quick, piece.Each(func(rows pgx.Rows) error {
		found = true
		return rows.Scan(&b.piece)
	}))
	if err != nil {
		return err
	}
	if !found || int64(len(b.piece)) != min(PieceSize, b.size-n*PieceSize) {
		if _, err := b.bodies.find(b.ctx, b.id); errors.Is(err, spool.ErrNotFound) {
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

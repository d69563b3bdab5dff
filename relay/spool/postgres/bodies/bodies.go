// Package bodies keeps the bodies of messages: small ones in the row of their message, large ones
// in pieces that go to the database while they arrive, and come from there while they are read.
//
// A body that arrives is in writer.go, one that is read in reader.go.
package bodies

import (
	"context"
	"hash/crc32"

	"github.com/caddy-deepgram/deepgram-callback/relay/spool/postgres/database"
)

const (
	// maxInline is the size above which a body is in pieces.
	maxInline = 64 << 10

	// PieceSize is the size of every piece but the last.
	PieceSize = 256 << 10
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Bodies are those of one store.
type Bodies struct {
	DB      *database.DB
	Gateway [16]byte        // whose uploads they are
	Context context.Context // ends when the store is closed
	Room    Room
	Closed  func() bool // whether nothing may be read any more
}

// Room is how much may arrive.
type Room interface {
	// Expect refuses so many bytes more if there will be no room for them.
	Expect(size int64) error

	// Arrive takes note of bytes that are in pieces of bodies on their way in, or, where they are
	// negative, not any more.
	Arrive(size int64)
}

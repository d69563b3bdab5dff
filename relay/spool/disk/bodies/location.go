// Where a body is, and how one is opened.

package bodies

import (
	"encoding/binary"
	"hash/crc32"

	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
)

// Open opens a body, wherever it is.
func Open(s *Segments, b *Large, where Location) (spool.Body, error) {
	switch {
	case where.Segment == 0:
		return b.open(where)
	case where.Size > MaxSmall:
		return nil, spool.ErrDamaged
	}
	body, err := s.Read(where)
	if err != nil {
		return nil, err
	}
	return body, nil
}

// Location is where the body of a message is.
type Location struct {
	// segment is the number of the segment file, or 0 for a body in a file of its own, whose
	// name is in file.
	Segment uint32
	Offset  int64
	File    [16]byte
	Size    int64
	CRC     uint32 // CRC-32C of the body
}

const LocationSize = 4 + 8 + 16 + 8 + 4

func (l Location) Append(b []byte) []byte {
	b = binary.BigEndian.AppendUint32(b, l.Segment)
	b = binary.BigEndian.AppendUint64(b, uint64(l.Offset))
	b = append(b, l.File[:]...)
	b = binary.BigEndian.AppendUint64(b, uint64(l.Size))
	return binary.BigEndian.AppendUint32(b, l.CRC)
}

func ParseLocation(b []byte) Location {
	l := Location{
		Segment: binary.BigEndian.Uint32(b),
		Offset:  int64(binary.BigEndian.Uint64(b[4:])),
		Size:    int64(binary.BigEndian.Uint64(b[28:])),
		CRC:     binary.BigEndian.Uint32(b[36:]),
	}
	copy(l.File[:], b[12:28])
	return l
}

// castagnoli is the polynomial of the checksums of bodies.
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

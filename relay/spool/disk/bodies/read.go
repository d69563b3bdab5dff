// Segments: how a body is read, and what is in a segment without an index.

package bodies

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"

	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
)

// Read returns a body from a segment, after checking it, in a buffer of the pool.
func (s *Segments) Read(where Location) (*SmallBody, error) {
	segment, err := s.acquire(where.Segment)
	if err != nil {
		return nil, err
	}
	defer s.release(segment)

	buffer := getBuffer(int(where.Size))
	b := buffer.b[:where.Size]
	_, err = segment.f.ReadAt(b, where.Offset)
	switch {
	case errors.Is(err, io.EOF):
		err = fmt.Errorf(
			"%s: %w: it ends at the wrong place",
			SegmentName(where.Segment),
			spool.ErrDamaged,
		)
	case err == nil && crc32.Checksum(b, castagnoli) != where.CRC:
		err = fmt.Errorf("%s: %w: wrong checksum", SegmentName(where.Segment), spool.ErrDamaged)
	}
	if err != nil {
		buffer.free()
		return nil, err
	}
	return &SmallBody{Reader: bytes.NewReader(b), b: b, buffer: buffer}, nil
}

// Owner returns the id in the header before a body. It is not ok if there is no such header.
func (s *Segments) Owner(where Location) (id [16]byte, ok bool) {
	segment, err := s.acquire(where.Segment)
	if err != nil {
		return id, false
	}
	defer s.release(segment)

	var header [segmentHeader]byte
	if _, err := segment.f.ReadAt(header[:], where.Offset-segmentHeader); err != nil {
		return id, false
	}
	return [16]byte(header[16:]), binary.BigEndian.Uint32(header[:]) == segmentMark &&
		binary.BigEndian.Uint32(header[4:]) == where.CRC
}

// Walk calls fn for every body in a segment, in order, until fn returns an
// error. A header that is not one ends the walk with ErrDamaged.
func (s *Segments) Walk(
	number uint32,
	size int64,
	fn func(route uint32, id [16]byte, where Location) error,
) error {
	segment, err := s.acquire(number)
	if err != nil {
		return err
	}
	defer s.release(segment)

	for offset := int64(0); offset < size; {
		var header [segmentHeader]byte
		if _, err := segment.f.ReadAt(header[:], offset); err != nil {
			return err
		}
		if binary.BigEndian.Uint32(header[:]) != segmentMark {
			return fmt.Errorf("%s: %w: no header at %d", SegmentName(number), spool.ErrDamaged, offset)
		}
		where := Location{
			Segment: number,
			Offset:  offset + segmentHeader,
			Size:    int64(binary.BigEndian.Uint32(header[8:])),
			CRC:     binary.BigEndian.Uint32(header[4:]),
		}
		if err := fn(binary.BigEndian.Uint32(header[12:]), [16]byte(header[16:]), where); err != nil {
			return err
		}
		offset = where.Offset + where.Size
	}
	return nil
}

// SearchSegment calls fn for every whole body in the bytes of a segment, wherever it begins,
// until fn returns an error.
func SearchSegment(f File, fn func(route uint32, id [16]byte, body []byte) error) error {
	size, err := f.Size()
	if err != nil {
		return err
	}
	mark := binary.BigEndian.AppendUint32(nil, segmentMark)
	return EachWindow(
		f,
		0,
		size,
		segmentHeader+MaxSmall,
		func(b []byte, _ int64, enough int) (int, error) {
			at := 0
			for at < enough {
				next := bytes.Index(b[at:], mark)
				if next < 0 {
					return max(at, len(b)-len(mark)+1), nil
				}
				at += next
				if at >= enough {
					break
				}
				body, ok := segmentBodyAt(b[at:])
				if !ok {
					at++
					continue
				}
				if err := fn(binary.BigEndian.Uint32(b[at+12:]), [16]byte(b[at+16:]), body); err != nil {
					return 0, err
				}
				at += segmentHeader + len(body)
			}
			return at, nil
		},
	)
}

// segmentBodyAt returns the body whose header is at the beginning of b, if it is whole.
func segmentBodyAt(b []byte) (body []byte, ok bool) {
	if len(b) < segmentHeader || binary.BigEndian.Uint32(b) != segmentMark {
		return nil, false
	}
	size := int64(binary.BigEndian.Uint32(b[8:]))
	if size > MaxSmall || segmentHeader+size > int64(len(b)) {
		return nil, false
	}
	body = b[segmentHeader : segmentHeader+size]
	return body, crc32.Checksum(body, castagnoli) == binary.BigEndian.Uint32(b[4:])
}

// acquire opens a segment for reading and keeps it open until release.
func (s *Segments) acquire(number uint32) (*segmentFile, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	segment := s.files[number]
	if segment == nil {
		path := filepath.Join(s.dir, SegmentName(number))
		f, err := s.fsys.OpenFile(path, os.O_RDONLY)
		if err != nil {
			return nil, err
		}
		segment = &segmentFile{number: number, f: f}
		s.files[number] = segment
	}
	segment.readers++
	return segment, nil
}

func (s *Segments) release(segment *segmentFile) {
	s.mu.Lock()
	defer s.mu.Unlock()
	segment.readers--
	if !segment.removed && segment != s.active && len(s.files) > maxOpenSegments &&
		segment.readers == 0 {
		delete(s.files, segment.number)
		segment.removed = true
	}
	s.closeUnused(segment)
}

func (s *Segments) closeUnused(segment *segmentFile) {
	if segment.removed && segment.readers == 0 {
		_ = segment.f.Close() // everything in it was synced or given up
	}
}

func (s *Segments) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.active = nil
	for number, segment := range s.files {
		delete(s.files, number)
		segment.removed = true
		s.closeUnused(segment)
	}
}

// SmallBody is a body that was read from a segment as a whole.
type SmallBody struct {
	*bytes.Reader
	b      []byte
	buffer *buffer // that b is in
}

// Bytes returns the whole body, which is valid until it is closed.
func (b *SmallBody) Bytes() []byte { return b.b }

// Size returns the size of the body.
func (b *SmallBody) Size() int64 { return b.Reader.Size() }

// Close gives the memory back.
func (b *SmallBody) Close() error {
	if b.buffer != nil {
		b.Reset(nil)
		b.buffer.free()
		b.b, b.buffer = nil, nil
	}
	return nil
}

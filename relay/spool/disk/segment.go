// Segments: append-only files that hold the bodies of ordinary size, many in each.

package disk

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
)

const (
	segmentDir    = "segments"
	segmentSuffix = ".segment"

	// Every body in a segment follows a header: a mark, the CRC-32C of the body, its size, its
	// route's number and its id. The index points to the body itself; the header is there to find
	// what else is in a segment when it is to be cleared.
	segmentHeader = 4 + 4 + 4 + routeKeySize + 16
	segmentMark   = 0xdb0d1e55

	maxOpenSegments = 128 // file descriptors kept open for reading
	maxSegmentWrite = 1 << 20
)

// segments is the set of segment files. Only the writer appends; anybody reads.
//
// The writer never appends to a segment of an earlier run, nor to one on which
// a write or a sync has failed, so a torn end of a segment is never pointed to by anything.
type segments struct {
	fsys   fileSystem
	dir    string
	limit  int64 // size at which a new one is started
	buffer []byte

	mu     sync.Mutex
	stats  map[uint32]segmentStats // by number: those that the index knows
	files  map[uint32]*segmentFile // open ones
	active *segmentFile            // nil until the next append
	last   uint32                  // the highest number given out
}

// segmentStats is what the index knows of a segment.
type segmentStats struct {
	size      int64
	live      int64 // bodies that some message still needs
	liveBytes int64
}

// segmentFile is an open segment.
type segmentFile struct {
	number  uint32
	f       file
	size    int64 // up to where the writer wrote; for the active one
	readers int
	removed bool
}

// segmentEntry is a body to be appended; append fills in where it went.
type segmentEntry struct {
	route uint32
	id    spool.ID
	body  []byte
	crc   uint32
	where location

	buffer *buffer // that body is in, where it is the entry's
}

func segmentName(number uint32) string { return fmt.Sprintf("%08x%s", number, segmentSuffix) }

func segmentNumber(name string) (uint32, bool) {
	digits, ok := strings.CutSuffix(name, segmentSuffix)
	number, err := strconv.ParseUint(digits, 16, 32)
	return uint32(number), ok && err == nil && segmentName(uint32(number)) == name
}

func newSegments(fsys fileSystem, dir string, limit int64) *segments {
	return &segments{
		fsys:  fsys,
		dir:   filepath.Join(dir, segmentDir),
		limit: limit,
		stats: make(map[uint32]segmentStats),
		files: make(map[uint32]*segmentFile),
	}
}

// sweep removes the files that no record points to: those that the index does not know.
func (s *segments) sweep() error {
	entries, err := s.fsys.ReadDir(s.dir)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		number, ok := segmentNumber(entry.Name())
		if !ok {
			continue
		}
		s.last = max(s.last, number)
		if _, known := s.stats[number]; known {
			continue
		}
		if err := s.fsys.Remove(filepath.Join(s.dir, entry.Name())); err != nil {
			return err
		}
	}
	return nil
}

// append writes bodies to the active segment and makes them durable. After an error
// the segment is not used for writing again.
func (s *segments) append(entries []*segmentEntry) error {
	active, err := s.writable()
	if err != nil {
		return err
	}
	if err := s.write(active, entries); err != nil {
		s.abandon()
		return err
	}
	return nil
}

// writable returns the segment to append to, and starts one if need be.
func (s *segments) writable() (*segmentFile, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.active != nil && s.active.size < s.limit {
		return s.active, nil
	}
	s.active = nil

	s.last++
	path := filepath.Join(s.dir, segmentName(s.last))
	f, err := s.fsys.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL)
	if err != nil {
		return nil, pathError("create", path, err)
	}
	if err := s.fsys.SyncDir(s.dir); err != nil {
		return nil, errors.Join(err, f.Close(), removeIfExists(s.fsys, path))
	}
	s.active = &segmentFile{number: s.last, f: f}
	s.files[s.last] = s.active
	return s.active, nil
}

func (s *segments) write(active *segmentFile, entries []*segmentEntry) error {
	buffer := s.buffer[:0]
	start, end := active.size, active.size
	for _, e := range entries {
		if len(buffer) > 0 && len(buffer)+segmentHeader+len(e.body) > maxSegmentWrite {
			if err := writeFull(active.f, buffer, start); err != nil {
				return pathError("write", segmentName(active.number), err)
			}
			start, buffer = end, buffer[:0]
		}
		buffer = binary.BigEndian.AppendUint32(buffer, segmentMark)
		buffer = binary.BigEndian.AppendUint32(buffer, e.crc)
		buffer = binary.BigEndian.AppendUint32(buffer, uint32(len(e.body)))
		buffer = binary.BigEndian.AppendUint32(buffer, e.route)
		buffer = append(buffer, e.id[:]...)
		buffer = append(buffer, e.body...)
		e.where = location{segment: active.number, offset: end + segmentHeader, size: int64(len(e.body)), crc: e.crc}
		end += segmentHeader + int64(len(e.body))
	}
	s.buffer = buffer
	if err := writeFull(active.f, buffer, start); err != nil {
		return pathError("write", segmentName(active.number), err)
	}
	if err := active.f.Sync(); err != nil {
		return err
	}
	s.mu.Lock()
	active.size = end
	s.mu.Unlock()
	return nil
}

// abandon stops writing to the active segment, and gives back the room that
// the failed write may have taken.
func (s *segments) abandon() {
	s.mu.Lock()
	defer s.mu.Unlock()
	failed := s.active
	if failed == nil {
		return
	}
	s.active = nil
	delete(s.files, failed.number)
	if failed.size > 0 {
		_ = failed.f.Truncate(failed.size)
	} else {
		_ = removeIfExists(s.fsys, filepath.Join(s.dir, segmentName(failed.number)))
	}
	failed.removed = true // the handle, not the file: who reads it still closes it
	s.closeUnused(failed)
}

// seal stops writing to the active segment. It reports whether there was one.
func (s *segments) seal() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	sealed := s.active != nil
	s.active = nil
	return sealed
}

// activeNumber returns the number of the segment being written, or 0.
func (s *segments) activeNumber() (number uint32, size int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.active == nil {
		return 0, 0
	}
	return s.active.number, s.active.size
}

// publish takes over what the index now says, and removes the files of segments that it no longer knows.
func (s *segments) publish(changed map[uint32]segmentStats, removed []uint32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for number, stats := range changed {
		s.stats[number] = stats
	}
	for _, number := range removed {
		delete(s.stats, number)
		_ = s.fsys.Remove(filepath.Join(s.dir, segmentName(number))) // if it stays, the next open sweeps it
		if open := s.files[number]; open != nil {
			delete(s.files, number)
			open.removed = true
			s.closeUnused(open)
		}
	}
}

// bytes returns how much all segments take up.
func (s *segments) bytes() (total int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for number, stats := range s.stats {
		if s.active == nil || s.active.number != number {
			total += stats.size
		}
	}
	if s.active != nil {
		total += s.active.size
	}
	return total
}

// sparse returns a full segment of which less than the given share is needed, or 0.
func (s *segments) sparse(share float64, except map[uint32]bool) (number uint32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for candidate, stats := range s.stats {
		if s.active != nil && s.active.number == candidate || except[candidate] {
			continue
		}
		if float64(stats.liveBytes) < share*float64(stats.size) {
			return candidate
		}
	}
	return 0
}

// read returns a body from a segment, after checking it, in a buffer of the pool.
func (s *segments) read(where location) (*segmentBody, error) {
	segment, err := s.acquire(where.segment)
	if err != nil {
		return nil, err
	}
	defer s.release(segment)

	buffer := getBuffer(int(where.size))
	b := buffer.b[:where.size]
	_, err = segment.f.ReadAt(b, where.offset)
	switch {
	case errors.Is(err, io.EOF):
		err = fmt.Errorf("%s: %w: it ends at the wrong place", segmentName(where.segment), spool.ErrDamaged)
	case err == nil && crc32.Checksum(b, castagnoli) != where.crc:
		err = fmt.Errorf("%s: %w: wrong checksum", segmentName(where.segment), spool.ErrDamaged)
	}
	if err != nil {
		buffer.free()
		return nil, err
	}
	return &segmentBody{Reader: bytes.NewReader(b), buffer: buffer}, nil
}

// owner returns the id in the header before a body. It is not ok if there is no such header.
func (s *segments) owner(where location) (id spool.ID, ok bool) {
	segment, err := s.acquire(where.segment)
	if err != nil {
		return id, false
	}
	defer s.release(segment)

	var header [segmentHeader]byte
	if _, err := segment.f.ReadAt(header[:], where.offset-segmentHeader); err != nil {
		return id, false
	}
	return spool.ID(header[16:]), binary.BigEndian.Uint32(header[:]) == segmentMark &&
		binary.BigEndian.Uint32(header[4:]) == where.crc
}

// walk calls fn for every body in a segment, in order, until fn returns an
// error. A header that is not one ends the walk with ErrDamaged.
func (s *segments) walk(number uint32, size int64, fn func(route uint32, id spool.ID, where location) error) error {
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
			return fmt.Errorf("%s: %w: no header at %d", segmentName(number), spool.ErrDamaged, offset)
		}
		where := location{
			segment: number,
			offset:  offset + segmentHeader,
			size:    int64(binary.BigEndian.Uint32(header[8:])),
			crc:     binary.BigEndian.Uint32(header[4:]),
		}
		if err := fn(binary.BigEndian.Uint32(header[12:]), spool.ID(header[16:]), where); err != nil {
			return err
		}
		offset = where.offset + where.size
	}
	return nil
}

// segmentBodyAt returns the body whose header is at the beginning of b, if it is whole.
func segmentBodyAt(b []byte) (body []byte, ok bool) {
	if len(b) < segmentHeader || binary.BigEndian.Uint32(b) != segmentMark {
		return nil, false
	}
	size := int64(binary.BigEndian.Uint32(b[8:]))
	if size > maxSegmentBody || segmentHeader+size > int64(len(b)) {
		return nil, false
	}
	body = b[segmentHeader : segmentHeader+size]
	return body, crc32.Checksum(body, castagnoli) == binary.BigEndian.Uint32(b[4:])
}

// acquire opens a segment for reading and keeps it open until release.
func (s *segments) acquire(number uint32) (*segmentFile, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	segment := s.files[number]
	if segment == nil {
		path := filepath.Join(s.dir, segmentName(number))
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

func (s *segments) release(segment *segmentFile) {
	s.mu.Lock()
	defer s.mu.Unlock()
	segment.readers--
	if !segment.removed && segment != s.active && len(s.files) > maxOpenSegments && segment.readers == 0 {
		delete(s.files, segment.number)
		segment.removed = true
	}
	s.closeUnused(segment)
}

func (s *segments) closeUnused(segment *segmentFile) {
	if segment.removed && segment.readers == 0 {
		_ = segment.f.Close() // everything in it was synced or given up
	}
}

func (s *segments) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.active = nil
	for number, segment := range s.files {
		delete(s.files, number)
		segment.removed = true
		s.closeUnused(segment)
	}
}

// segmentBody is a body that was read from a segment as a whole.
type segmentBody struct {
	*bytes.Reader
	buffer *buffer
}

// Size returns the size of the body.
func (b *segmentBody) Size() int64 { return b.Reader.Size() }

// Close gives the memory back.
func (b *segmentBody) Close() error {
	if b.buffer != nil {
		b.Reset(nil)
		b.buffer.free()
		b.buffer = nil
	}
	return nil
}

var _ spool.Body = (*segmentBody)(nil)

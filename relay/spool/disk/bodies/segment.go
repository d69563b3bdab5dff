// Segments: append-only files that hold the bodies of ordinary size, many in each.

package bodies

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
)

const (
	SegmentDir    = "segments"
	SegmentSuffix = ".segment"

	// Every body in a segment follows a header: a mark, the CRC-32C of the body, its size, its
	// route's number and its id. The index points to the body itself; the header is there to find
	// what else is in a segment when it is to be cleared.
	segmentHeader = 4 + 4 + 4 + 4 + 16
	segmentMark   = 0xdb0d1e55

	maxOpenSegments = 128 // file descriptors kept open for reading
	maxSegmentWrite = 1 << 20
)

// Segments is the set of segment files. Only the writer appends; anybody reads.
//
// The writer never appends to a segment of an earlier run, nor to one on which
// a write or a sync has failed, so a torn end of a segment is never pointed to by anything.
type Segments struct {
	fsys   FileSystem
	dir    string
	limit  int64 // size at which a new one is started
	buffer []byte

	mu     sync.Mutex
	stats  map[uint32]Stats        // by number: those that the index knows
	files  map[uint32]*segmentFile // open ones
	active *segmentFile            // nil until the next append
	last   uint32                  // the highest number given out
}

// segmentFile is an open segment.
type segmentFile struct {
	number  uint32
	f       File
	size    int64 // up to where the writer wrote; for the active one
	readers int
	removed bool
}

// Small is a body to be appended; append fills in where it went.
type Small struct {
	Route uint32
	ID    [16]byte
	Body  []byte
	CRC   uint32
	Where Location
}

func SegmentName(number uint32) string { return fmt.Sprintf("%08x%s", number, SegmentSuffix) }

func SegmentNumber(name string) (uint32, bool) {
	digits, ok := strings.CutSuffix(name, SegmentSuffix)
	number, err := strconv.ParseUint(digits, 16, 32)
	return uint32(number), ok && err == nil && SegmentName(uint32(number)) == name
}

func NewSegments(fsys FileSystem, dir string, limit int64) *Segments {
	return &Segments{
		fsys:  fsys,
		dir:   filepath.Join(dir, SegmentDir),
		limit: limit,
		stats: make(map[uint32]Stats),
		files: make(map[uint32]*segmentFile),
	}
}

// Adopt takes over what the index says of all segments.
func (s *Segments) Adopt(stats map[uint32]Stats) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stats = stats
}

// Stat returns what the index says of a segment.
func (s *Segments) Stat(number uint32) Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stats[number]
}

// Sweep removes the files that no record points to: those that the index does not know.
func (s *Segments) Sweep() error {
	entries, err := s.fsys.ReadDir(s.dir)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		number, ok := SegmentNumber(entry.Name())
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

// Append writes bodies to the active segment and makes them durable. After an error
// the segment is not used for writing again.
func (s *Segments) Append(entries []*Small) error {
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
func (s *Segments) writable() (*segmentFile, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.active != nil && s.active.size < s.limit {
		return s.active, nil
	}
	s.active = nil

	s.last++
	path := filepath.Join(s.dir, SegmentName(s.last))
	f, err := s.fsys.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL)
	if err != nil {
		return nil, PathError("create", path, err)
	}
	if err := s.fsys.SyncDir(s.dir); err != nil {
		return nil, errors.Join(err, f.Close(), RemoveIfExists(s.fsys, path))
	}
	s.active = &segmentFile{number: s.last, f: f}
	s.files[s.last] = s.active
	return s.active, nil
}

func (s *Segments) write(active *segmentFile, entries []*Small) error {
	buffer := s.buffer[:0]
	start, end := active.size, active.size
	for _, e := range entries {
		if len(buffer) > 0 && len(buffer)+segmentHeader+len(e.Body) > maxSegmentWrite {
			if err := WriteFull(active.f, buffer, start); err != nil {
				return PathError("write", SegmentName(active.number), err)
			}
			start, buffer = end, buffer[:0]
		}
		buffer = binary.BigEndian.AppendUint32(buffer, segmentMark)
		buffer = binary.BigEndian.AppendUint32(buffer, e.CRC)
		buffer = binary.BigEndian.AppendUint32(buffer, uint32(len(e.Body)))
		buffer = binary.BigEndian.AppendUint32(buffer, e.Route)
		buffer = append(buffer, e.ID[:]...)
		buffer = append(buffer, e.Body...)
		e.Where = Location{
			Segment: active.number,
			Offset:  end + segmentHeader,
			Size:    int64(len(e.Body)),
			CRC:     e.CRC,
		}
		end += segmentHeader + int64(len(e.Body))
	}
	s.buffer = buffer
	if err := WriteFull(active.f, buffer, start); err != nil {
		return PathError("write", SegmentName(active.number), err)
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
func (s *Segments) abandon() {
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
		_ = RemoveIfExists(s.fsys, filepath.Join(s.dir, SegmentName(failed.number)))
	}
	failed.removed = true // the handle, not the file: who reads it still closes it
	s.closeUnused(failed)
}

// Seal stops writing to the active segment. It reports whether there was one.
func (s *Segments) Seal() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	sealed := s.active != nil
	s.active = nil
	return sealed
}

// Active returns the number of the segment being written, or 0.
func (s *Segments) Active() (number uint32, size int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.active == nil {
		return 0, 0
	}
	return s.active.number, s.active.size
}

// Publish takes over what the index now says, and removes the files of segments that it no longer
// knows.
func (s *Segments) Publish(changed map[uint32]Stats, removed []uint32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for number, stats := range changed {
		s.stats[number] = stats
	}
	for _, number := range removed {
		delete(s.stats, number)
		_ = s.fsys.Remove(
			filepath.Join(s.dir, SegmentName(number)),
		) // if it stays, the next open sweeps it
		if open := s.files[number]; open != nil {
			delete(s.files, number)
			open.removed = true
			s.closeUnused(open)
		}
	}
}

// Bytes returns how much all segments take up.
func (s *Segments) Bytes() (total int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for number, stats := range s.stats {
		if s.active == nil || s.active.number != number {
			total += stats.Size
		}
	}
	if s.active != nil {
		total += s.active.size
	}
	return total
}

// Sparse returns a full segment of which less than the given share is needed, or 0.
func (s *Segments) Sparse(share float64, except map[uint32]bool) (number uint32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for candidate, stats := range s.stats {
		if s.active != nil && s.active.number == candidate || except[candidate] {
			continue
		}
		if float64(stats.LiveBytes) < share*float64(stats.Size) {
			return candidate
		}
	}
	return 0
}

var _ spool.Body = (*SmallBody)(nil)

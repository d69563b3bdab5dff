// How a message is written in the index.

package index

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"net/http"
	"slices"
	"time"

	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/disk/bodies"
)

// A record is, in this order: a version byte, a CRC-32C of all that follows,
// then fixed-width fields, then texts and the header, each with its length
// before it. The id, the route and the state are not in it: they are its place in the index.
//
// Version 2 has the destination behind the other fixed-width fields, and the user behind the
// header. Version 3 has a byte of flags behind the destination, and the attempts behind the user.
// The earlier ones are still read: what they do not have is not known of their messages.
const (
	recordVersion  = 3
	recordVersion2 = 2
	recordVersion1 = 1

	recordFixed1 = recordWhere + bodies.LocationSize
	recordFixed2 = recordFixed1 + 8
	recordFixed  = recordFixed2 + 1

	// Where the fields are.
	recordReceived  = 5
	recordScheduled = 13
	recordNext      = 21
	recordEnded     = 29 // death, or delivery
	recordOrder     = 37
	recordTries     = 45
	recordWhere     = 49
	recordDest      = recordFixed1
	recordFlags     = recordFixed2
)

// The flags of a record.
const (
	flagReplayed = 1 << iota
	flagDelivered
)

// recordSums is the polynomial of the checksums of records.
var recordSums = crc32.MakeTable(crc32.Castagnoli)

var errRecord = errors.New("unreadable record")

// Entry is a message as the index has it: with where its body is.
type Entry struct {
	spool.Message
	Where bodies.Location
}

// Shown is a copy for those who ask: what the index has is changed by the store alone.
func (m *Entry) Shown() *spool.Message {
	message := m.Message
	return &message
}

// Record is a message as it is written. It comes from a disk, so any bytes may be in it: its
// methods read single fields without decoding the rest.
type Record []byte

// AppendRecord encodes a message behind b.
func AppendRecord(b []byte, m *Entry) []byte {
	start := len(b)
	b = append(b, recordVersion, 0, 0, 0, 0)
	for _, t := range [...]time.Time{m.ReceivedAt, m.ScheduledFrom, m.NextAttemptAt, m.ended()} {
		b = binary.BigEndian.AppendUint64(b, uint64(UnixNano(t)))
	}
	b = binary.BigEndian.AppendUint64(b, m.OrderKey)
	b = binary.BigEndian.AppendUint32(b, uint32(m.Tries))
	b = m.Where.Append(b)
	b = binary.BigEndian.AppendUint64(b, uint64(m.Destination))
	b = append(b, flagsOf(m))
	b = appendText(b, m.Method)
	b = appendText(b, m.URI)
	b = appendText(b, m.RequestID)
	b = appendText(b, spool.ClipError(m.LastError))

	names := make([]string, 0, 16)
	for name := range m.Header {
		names = append(names, name)
	}
	slices.Sort(names)
	b = binary.AppendUvarint(b, uint64(len(names)))
	for _, name := range names {
		b = appendText(b, name)
		b = binary.AppendUvarint(b, uint64(len(m.Header[name])))
		for _, value := range m.Header[name] {
			b = appendText(b, value)
		}
	}
	b = appendText(b, m.User)
	b = appendAttempts(b, m.Attempts)

	sealRecord(b[start:])
	return b
}

func flagsOf(m *Entry) (flags byte) {
	if m.Replayed {
		flags |= flagReplayed
	}
	if m.DiedAt.IsZero() && !m.DeliveredAt.IsZero() {
		flags |= flagDelivered
	}
	return flags
}

// ended is when the message died or was delivered.
func (m *Entry) ended() time.Time {
	if m.DiedAt.IsZero() {
		return m.DeliveredAt
	}
	return m.DiedAt
}

// sealRecord sets the checksum of an encoded record.
func sealRecord(record []byte) {
	binary.BigEndian.PutUint32(record[1:], crc32.Checksum(record[5:], recordSums))
}

// SetRecordLocation writes another location into an encoded record.
func SetRecordLocation(record []byte, l bodies.Location) {
	l.Append(record[:recordWhere])
	sealRecord(record)
}

func appendText(b []byte, text string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(text))), text...)
}

// ParseRecord decodes what AppendRecord made. The bytes come from a disk, so
// it counts with anything. Nothing of b is kept.
func ParseRecord(b []byte) (*Entry, error) {
	texts := recordTexts(b)
	if texts == 0 {
		return nil, fmt.Errorf("%w: %d bytes of version %d", errRecord, len(b), b[:min(len(b), 1)])
	}
	if !Record(b).Intact() {
		return nil, fmt.Errorf("%w: wrong checksum", errRecord)
	}

	m := &Entry{Message: spool.Message{
		ReceivedAt:    timeAt(b[recordReceived:]),
		ScheduledFrom: timeAt(b[recordScheduled:]),
		NextAttemptAt: timeAt(b[recordNext:]),
		OrderKey:      binary.BigEndian.Uint64(b[recordOrder:]),
		Tries:         int(binary.BigEndian.Uint32(b[recordTries:])),
		Destination:   Record(b).Destination(),
		Replayed:      Record(b).Replayed(),
	}, Where: bodies.ParseLocation(b[recordWhere:])}
	if Record(b).delivered() {
		m.DeliveredAt = Record(b).EndedAt()
	} else {
		m.DiedAt = Record(b).EndedAt()
	}
	m.Size = m.Where.Size
	if m.Size < 0 || m.Where.Offset < 0 {
		return nil, fmt.Errorf("%w: negative size", errRecord)
	}

	r := textReader{rest: string(b[texts:])}
	r.message(m, b[0])
	if r.bad || r.rest != "" {
		return nil, fmt.Errorf("%w: lengths do not add up", errRecord)
	}
	return m, nil
}

// recordTexts returns where the texts of a record begin, or 0 if it is none.
func recordTexts(b []byte) int {
	switch {
	case len(b) >= recordFixed && b[0] == recordVersion:
		return recordFixed
	case len(b) >= recordFixed2 && b[0] == recordVersion2:
		return recordFixed2
	case len(b) >= recordFixed1 && b[0] == recordVersion1:
		return recordFixed1
	}
	return 0
}

// Intact reports whether a record is one, and is what was written.
func (b Record) Intact() bool {
	return recordTexts(b) > 0 && b.Location().Size >= 0 &&
		binary.BigEndian.Uint32(b[1:]) == crc32.Checksum(b[5:], recordSums)
}

// The following read one field of a record without decoding the rest. Of a record that is
// too short they make zeros.

func (b Record) field(offset int) int64 {
	if len(b) < recordFixed1 {
		return 0
	}
	return int64(binary.BigEndian.Uint64(b[offset:]))
}

func (b Record) ReceivedAt() int64 { return b.field(recordReceived) }

func (b Record) ScheduledFrom() int64 { return b.field(recordScheduled) }

func (b Record) nextAttempt() int64 { return b.field(recordNext) }

// EndedAt is when the message died or was delivered, zero if it did neither.
func (b Record) EndedAt() time.Time { return FromUnixNano(b.field(recordEnded)) }

func (b Record) flag(flag byte) bool {
	return len(b) >= recordFixed && b[0] == recordVersion && b[recordFlags]&flag != 0
}

// Replayed reports whether the message was sent again by somebody.
func (b Record) Replayed() bool { return b.flag(flagReplayed) }

func (b Record) delivered() bool { return b.flag(flagDelivered) }

// RequestID is empty for a record that has none, or that cannot be read.
func (b Record) RequestID() string {
	texts := recordTexts(b)
	if texts == 0 {
		return ""
	}
	rest := b[texts:]
	for range 2 { // method and URI
		if rest = rest.skipText(); rest == nil {
			return ""
		}
	}
	n, length := binary.Uvarint(rest)
	if length <= 0 || n > uint64(len(rest)-length) {
		return ""
	}
	return string(rest[length : length+int(n)])
}

// skipText returns what is behind a text, nil if that is cut off.
func (b Record) skipText() Record {
	n, length := binary.Uvarint(b)
	if length <= 0 || n > uint64(len(b)-length) {
		return nil
	}
	return b[length+int(n):]
}

func (b Record) OrderKey() uint64 { return uint64(b.field(recordOrder)) }

// User is empty for a record that has none, or that cannot be read.
func (b Record) User() string {
	m, err := ParseRecord(b)
	if err != nil {
		return ""
	}
	return m.User
}

// Destination is zero for a record that has none.
func (b Record) Destination() spool.Destination {
	if len(b) < recordFixed || b[0] == recordVersion1 {
		return 0
	}
	return spool.Destination(binary.BigEndian.Uint64(b[recordDest:]))
}

func (b Record) Location() bodies.Location {
	if len(b) < recordFixed1 {
		return bodies.Location{}
	}
	return bodies.ParseLocation(b[recordWhere:])
}

// textReader takes a record's texts apart. They share one allocation.
type textReader struct {
	rest string
	bad  bool
}

func (r *textReader) number() int {
	var n uint64
	for i := 0; i < len(r.rest) && i < 4; i++ { // 28 bits are more than any length here
		c := r.rest[i]
		n |= uint64(c&0x7f) << (7 * i)
		if c < 0x80 {
			r.rest = r.rest[i+1:]
			return int(n)
		}
	}
	r.bad, r.rest = true, ""
	return 0
}

func (r *textReader) text() string {
	n := r.number()
	if n > len(r.rest) {
		r.bad, r.rest = true, ""
		return ""
	}
	text := r.rest[:n]
	r.rest = r.rest[n:]
	return text
}

// message reads all texts of a record.
func (r *textReader) message(m *Entry, version byte) {
	m.Method = r.text()
	m.URI = r.text()
	m.RequestID = r.text()
	m.LastError = r.text()
	m.Header = r.header()
	if version != recordVersion1 {
		m.User = r.text()
	}
	if version == recordVersion {
		m.Attempts = r.attempts()
	}
}

func (r *textReader) header() http.Header {
	fields := r.number()
	if fields > len(r.rest) { // each takes a byte at least
		r.bad = true
		return nil
	}
	header := make(http.Header, fields)
	for range fields {
		name := r.text()
		count := r.number()
		if r.bad || count > len(r.rest) {
			r.bad = true
			return nil
		}
		values := make([]string, count)
		for i := range values {
			values[i] = r.text()
		}
		header[name] = values
	}
	return header
}

// UnixNano writes the zero time as 0.
func UnixNano(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixNano()
}

func timeAt(b []byte) time.Time { return FromUnixNano(int64(binary.BigEndian.Uint64(b))) }

func FromUnixNano(nanos int64) time.Time {
	if nanos == 0 {
		return time.Time{}
	}
	return time.Unix(0, nanos)
}

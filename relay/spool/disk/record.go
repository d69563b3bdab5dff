// How a message is written in the index.

package disk

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"net/http"
	"slices"
	"time"

	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
)

// A record is, in this order: a version byte, a CRC-32C of all that follows,
// then fixed-width fields, then texts and the header, each with its length
// before it. The id, the route and the state are not in it: they are its place in the index.
//
// Version 2 has the destination behind the other fixed-width fields, and the user behind the
// header. Version 1 is still read: its messages have no user, and are of no known destination.
const (
	recordVersion  = 2
	recordVersion1 = 1

	recordFixed1 = recordWhere + locationSize
	recordFixed  = recordFixed1 + 8

	// Where the fields are.
	recordReceived  = 5
	recordScheduled = 13
	recordNext      = 21
	recordDied      = 29
	recordOrder     = 37
	recordAttempts  = 45
	recordWhere     = 49
	recordDest      = recordFixed1
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

var errRecord = errors.New("unreadable record")

// location is where the body of a message is.
type location struct {
	// segment is the number of the segment file, or 0 for a body in a file of its own, whose
	// name is in file.
	segment uint32
	offset  int64
	file    [16]byte
	size    int64
	crc     uint32 // CRC-32C of the body
}

const locationSize = 4 + 8 + 16 + 8 + 4

func (l location) append(b []byte) []byte {
	b = binary.BigEndian.AppendUint32(b, l.segment)
	b = binary.BigEndian.AppendUint64(b, uint64(l.offset))
	b = append(b, l.file[:]...)
	b = binary.BigEndian.AppendUint64(b, uint64(l.size))
	return binary.BigEndian.AppendUint32(b, l.crc)
}

func parseLocation(b []byte) location {
	l := location{
		segment: binary.BigEndian.Uint32(b),
		offset:  int64(binary.BigEndian.Uint64(b[4:])),
		size:    int64(binary.BigEndian.Uint64(b[28:])),
		crc:     binary.BigEndian.Uint32(b[36:]),
	}
	copy(l.file[:], b[12:28])
	return l
}

// entry is a message as the index has it: with where its body is.
type entry struct {
	spool.Message
	where location
}

// shown is a copy for those who ask: what the index has is changed by the store alone.
func (m *entry) shown() *spool.Message {
	message := m.Message
	return &message
}

// appendRecord encodes a message behind b.
func appendRecord(b []byte, m *entry) []byte {
	start := len(b)
	b = append(b, recordVersion, 0, 0, 0, 0)
	for _, t := range [...]time.Time{m.ReceivedAt, m.ScheduledFrom, m.NextAttemptAt, m.DiedAt} {
		b = binary.BigEndian.AppendUint64(b, uint64(unixNano(t)))
	}
	b = binary.BigEndian.AppendUint64(b, m.OrderKey)
	b = binary.BigEndian.AppendUint32(b, uint32(m.Attempts))
	b = m.where.append(b)
	b = binary.BigEndian.AppendUint64(b, uint64(m.Destination))
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

	sealRecord(b[start:])
	return b
}

// sealRecord sets the checksum of an encoded record.
func sealRecord(record []byte) {
	binary.BigEndian.PutUint32(record[1:], crc32.Checksum(record[5:], castagnoli))
}

// setRecordLocation writes another location into an encoded record.
func setRecordLocation(record []byte, l location) {
	l.append(record[:recordWhere])
	sealRecord(record)
}

func appendText(b []byte, text string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(text))), text...)
}

// parseRecord decodes what appendRecord made. The bytes come from a disk, so
// it counts with anything. Nothing of b is kept.
func parseRecord(b []byte) (*entry, error) {
	texts := recordTexts(b)
	if texts == 0 {
		return nil, fmt.Errorf("%w: %d bytes of version %d", errRecord, len(b), b[:min(len(b), 1)])
	}
	if !recordIntact(b) {
		return nil, fmt.Errorf("%w: wrong checksum", errRecord)
	}

	m := &entry{Message: spool.Message{
		ReceivedAt:    timeAt(b[recordReceived:]),
		ScheduledFrom: timeAt(b[recordScheduled:]),
		NextAttemptAt: timeAt(b[recordNext:]),
		DiedAt:        timeAt(b[recordDied:]),
		OrderKey:      binary.BigEndian.Uint64(b[recordOrder:]),
		Attempts:      int(binary.BigEndian.Uint32(b[recordAttempts:])),
		Destination:   recordDestination(b),
	}, where: parseLocation(b[recordWhere:])}
	m.Size = m.where.size
	if m.Size < 0 || m.where.offset < 0 {
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
	case len(b) >= recordFixed1 && b[0] == recordVersion1:
		return recordFixed1
	}
	return 0
}

// recordIntact reports whether a record is one, and is what was written.
func recordIntact(b []byte) bool {
	return recordTexts(b) > 0 && recordLocation(b).size >= 0 && binary.BigEndian.Uint32(b[1:]) == crc32.Checksum(b[5:], castagnoli)
}

// The following read one field of a record without decoding the rest. Of a record that is
// too short they make zeros.

func recordField(b []byte, offset int) int64 {
	if len(b) < recordFixed1 {
		return 0
	}
	return int64(binary.BigEndian.Uint64(b[offset:]))
}

func recordReceivedAt(b []byte) int64    { return recordField(b, recordReceived) }
func recordScheduledFrom(b []byte) int64 { return recordField(b, recordScheduled) }
func recordNextAttempt(b []byte) int64   { return recordField(b, recordNext) }
func recordDiedAt(b []byte) int64        { return recordField(b, recordDied) }
func recordOrderKey(b []byte) uint64     { return uint64(recordField(b, recordOrder)) }

// recordUser is empty for a record that has none, or that cannot be read.
func recordUser(b []byte) string {
	m, err := parseRecord(b)
	if err != nil {
		return ""
	}
	return m.User
}

// recordDestination is zero for a record that has none.
func recordDestination(b []byte) spool.Destination {
	if len(b) < recordFixed || b[0] == recordVersion1 {
		return 0
	}
	return spool.Destination(binary.BigEndian.Uint64(b[recordDest:]))
}

func recordLocation(b []byte) location {
	if len(b) < recordFixed1 {
		return location{}
	}
	return parseLocation(b[recordWhere:])
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
func (r *textReader) message(m *entry, version byte) {
	m.Method = r.text()
	m.URI = r.text()
	m.RequestID = r.text()
	m.LastError = r.text()
	m.Header = r.header()
	if version != recordVersion1 {
		m.User = r.text()
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

// unixNano writes the zero time as 0.
func unixNano(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixNano()
}

func timeAt(b []byte) time.Time { return fromUnixNano(int64(binary.BigEndian.Uint64(b))) }

func fromUnixNano(nanos int64) time.Time {
	if nanos == 0 {
		return time.Time{}
	}
	return time.Unix(0, nanos)
}

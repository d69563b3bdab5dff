package index

import (
	"encoding/base64"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/disk/bodies"
)

func sampleMessage() *Entry {
	at := time.Unix(1_800_000_000, 123).Local()
	return &Entry{Message: spool.Message{
		Method: "POST", URI: "/hook?a=b", RequestID: "äbc", ReceivedAt: at, ScheduledFrom: at.Add(time.Second),
		NextAttemptAt: at.Add(
			time.Minute,
		), DiedAt: at.Add(time.Hour), Tries: 7, LastError: "no", Size: 1 << 33,
		OrderKey: 1<<63 + 5, Destination: 1<<40 + 7, User: "dégé", Replayed: true,
		Attempts: []spool.Attempt{
			{
				At:       at,
				Took:     3 * time.Second,
				Status:   500,
				Error:    "no",
				Upstream: "10.0.0.1:80",
				Gateway:  "gw",
			},
			{At: at.Add(time.Second), Status: 200},
		},
		Header: http.Header{"Content-Type": {"application/json"}, "X-Many": {"a", "", "c"}, "X-None": {}},
	}, Where: bodies.Location{
		Segment: 9, Offset: 1 << 40, File: [16]byte{1, 2, 3}, Size: 1 << 33, CRC: 77,
	}}
}

func TestRecordsComeBackAsTheyWere(t *testing.T) {
	delivered := sampleMessage()
	delivered.DiedAt, delivered.DeliveredAt = time.Time{}, delivered.DiedAt
	for _, m := range []*Entry{sampleMessage(), delivered, {Message: spool.Message{Header: http.Header{}}}} {
		got, err := ParseRecord(AppendRecord([]byte("before"), m)[len("before"):])
		require.NoError(t, err)
		require.Equal(t, m, got)
	}
}

func TestRecordFieldsAreWhereTheyAreReadWithoutDecoding(t *testing.T) {
	m := sampleMessage()
	record := AppendRecord(nil, m)
	require.Equal(t, m.ReceivedAt.UnixNano(), Record(record).ReceivedAt())
	require.Equal(t, m.ScheduledFrom.UnixNano(), Record(record).ScheduledFrom())
	require.Equal(t, m.NextAttemptAt.UnixNano(), Record(record).nextAttempt())
	require.Equal(t, m.DiedAt.UnixNano(), Record(record).EndedAt().UnixNano())
	require.Equal(t, m.OrderKey, Record(record).OrderKey())
	require.Equal(t, m.Where, Record(record).Location())
	require.Equal(t, m.Destination, Record(record).Destination())
	require.Equal(t, m.RequestID, Record(record).RequestID())
	require.True(t, Record(record).Replayed())

	elsewhere := bodies.Location{Segment: 1, Offset: 2, Size: 3, CRC: 4}
	SetRecordLocation(record, elsewhere)
	got, err := ParseRecord(record)
	require.NoError(t, err)
	require.Equal(t, elsewhere, got.Where)
	require.Equal(t, int64(3), got.Size)
}

func TestLongErrorsAreClippedBetweenCharacters(t *testing.T) {
	m := sampleMessage()
	m.LastError = "x" + strings.Repeat("ä", spool.MaxErrorSize)
	got, err := ParseRecord(AppendRecord(nil, m))
	require.NoError(t, err)
	require.Equal(t, "x"+strings.Repeat("ä", (spool.MaxErrorSize-1)/2), got.LastError)
}

func FuzzParseRecord(f *testing.F) {
	whole := AppendRecord(nil, sampleMessage())
	f.Add(whole, true)
	f.Add(whole[:len(whole)-1], true)
	f.Add(whole[:recordFixed], false)
	f.Add([]byte{}, false)
	f.Fuzz(func(t *testing.T, b []byte, seal bool) {
		if seal && len(b) >= recordFixed { // let damage through that a checksum would find
			b = append([]byte(nil), b...)
			b[0] = recordVersion
			sealRecord(b)
		}
		_, _, _, _ = Record(
			b,
		).OrderKey(),
			Record(
				b,
			).Location(),
			Record(
				b,
			).nextAttempt(),
			Record(
				b,
			).EndedAt()
		_, _ = Record(b).RequestID(), Record(b).Replayed()
		m, err := ParseRecord(b)
		if err != nil {
			require.ErrorIs(t, err, errRecord)
			return
		}
		again, err := ParseRecord(AppendRecord(nil, m))
		require.NoError(t, err)
		require.Equal(t, spool.ClipError(m.LastError), again.LastError)
		again.LastError = m.LastError
		require.Equal(t, m, again)
	})
}

func TestADamagedRecordIsFound(t *testing.T) {
	whole := AppendRecord(nil, sampleMessage())
	for i := range whole {
		damaged := append([]byte(nil), whole...)
		damaged[i] ^= 1 << (i % 8)
		_, err := ParseRecord(damaged)
		require.ErrorIs(t, err, errRecord)
		_, err = ParseRecord(whole[:i])
		require.ErrorIs(t, err, errRecord)
	}
}

// An inbox that was written before messages had a user, or attempts, is read on.
func TestRecordsOfEarlierVersionsAreRead(t *testing.T) {
	record, err := base64.StdEncoding.DecodeString(
		"AvsFnXEY+uJ2k7QAexj64nbPTsp7GPrihIv7WHsY+uW8xGyge4AAAAAAAAAFAAAABwAAAAkAAAEAAAAAAAECAwAAAAAAAAAAAAAAAAAAAAACAAAAAAAAAE0AAAEAAAAABwRQT1NUCS9ob29rP2E9YgTDpGJjAm5vAwxDb250ZW50LVR5cGUBEGFwcGxpY2F0aW9uL2pzb24GWC1NYW55AwFhAAFjBlgtTm9uZQAGZMOpZ8Op",
	)
	require.NoError(t, err)
	m := sampleMessage()
	m.Attempts, m.Replayed = nil, false
	require.Equal(t, m.RequestID, Record(record).RequestID())
	got, err := ParseRecord(record)
	require.NoError(t, err)
	require.Equal(t, m, got)

	record, err = base64.StdEncoding.DecodeString(
		"AVm5Hk8Y+uJ2k7QAexj64nbPTsp7GPrihIv7WHsY+uW8xGyge4AAAAAAAAAFAAAABwAAAAkAAAEAAAAAAAECAwAAAAAAAAAAAAAAAAAAAAACAAAAAAAAAE0EUE9TVAkvaG9vaz9hPWIEw6RiYwJubwMMQ29udGVudC1UeXBlARBhcHBsaWNhdGlvbi9qc29uBlgtTWFueQMBYQABYwZYLU5vbmUA",
	)
	require.NoError(t, err)
	m.User, m.Destination = "", 0
	require.Equal(t, m.RequestID, Record(record).RequestID())
	require.Zero(t, Record(record).Destination())
	require.Equal(t, m.Where, Record(record).Location())
	got, err = ParseRecord(record)
	require.NoError(t, err)
	require.Equal(t, m, got)
}

package disk

import (
	"encoding/base64"
	"encoding/binary"
	"math/rand/v2"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
)

func sampleMessage() *entry {
	at := time.Unix(1_800_000_000, 123).Local()
	return &entry{Message: spool.Message{
		Method: "POST", URI: "/hook?a=b", RequestID: "äbc", ReceivedAt: at, ScheduledFrom: at.Add(time.Second),
		NextAttemptAt: at.Add(time.Minute), DiedAt: at.Add(time.Hour), Attempts: 7, LastError: "no", Size: 1 << 33,
		OrderKey: 1<<63 + 5, Destination: 1<<40 + 7, User: "dégé",
		Header: http.Header{"Content-Type": {"application/json"}, "X-Many": {"a", "", "c"}, "X-None": {}},
	}, where: location{segment: 9, offset: 1 << 40, file: [16]byte{1, 2, 3}, size: 1 << 33, crc: 77}}
}

func TestRecordsComeBackAsTheyWere(t *testing.T) {
	for _, m := range []*entry{sampleMessage(), {Message: spool.Message{Header: http.Header{}}}} {
		got, err := parseRecord(appendRecord([]byte("before"), m)[len("before"):])
		require.NoError(t, err)
		require.Equal(t, m, got)
	}
}

func TestRecordFieldsAreWhereTheyAreReadWithoutDecoding(t *testing.T) {
	m := sampleMessage()
	record := appendRecord(nil, m)
	require.Equal(t, m.ReceivedAt.UnixNano(), recordReceivedAt(record))
	require.Equal(t, m.ScheduledFrom.UnixNano(), recordScheduledFrom(record))
	require.Equal(t, m.NextAttemptAt.UnixNano(), recordNextAttempt(record))
	require.Equal(t, m.DiedAt.UnixNano(), recordDiedAt(record))
	require.Equal(t, m.OrderKey, recordOrderKey(record))
	require.Equal(t, m.where, recordLocation(record))
	require.Equal(t, m.Destination, recordDestination(record))

	elsewhere := location{segment: 1, offset: 2, size: 3, crc: 4}
	setRecordLocation(record, elsewhere)
	got, err := parseRecord(record)
	require.NoError(t, err)
	require.Equal(t, elsewhere, got.where)
	require.Equal(t, int64(3), got.Size)
}

func TestLongErrorsAreClippedBetweenCharacters(t *testing.T) {
	m := sampleMessage()
	m.LastError = "x" + strings.Repeat("ä", spool.MaxErrorSize)
	got, err := parseRecord(appendRecord(nil, m))
	require.NoError(t, err)
	require.Equal(t, "x"+strings.Repeat("ä", (spool.MaxErrorSize-1)/2), got.LastError)
}

func FuzzParseRecord(f *testing.F) {
	whole := appendRecord(nil, sampleMessage())
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
		_, _, _, _ = recordOrderKey(b), recordLocation(b), recordNextAttempt(b), recordDiedAt(b)
		m, err := parseRecord(b)
		if err != nil {
			require.ErrorIs(t, err, errRecord)
			return
		}
		again, err := parseRecord(appendRecord(nil, m))
		require.NoError(t, err)
		require.Equal(t, spool.ClipError(m.LastError), again.LastError)
		again.LastError = m.LastError
		require.Equal(t, m, again)
	})
}

func TestADamagedRecordIsFound(t *testing.T) {
	whole := appendRecord(nil, sampleMessage())
	for i := range whole {
		damaged := append([]byte(nil), whole...)
		damaged[i] ^= 1 << (i % 8)
		_, err := parseRecord(damaged)
		require.ErrorIs(t, err, errRecord)
		_, err = parseRecord(whole[:i])
		require.ErrorIs(t, err, errRecord)
	}
}

// The table is compared with a map, with fingerprints that collide a lot.
func TestPrintTableAgainstAMap(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	var table printTable
	model := make(map[uint32]spool.Fingerprint)
	print := func() (f spool.Fingerprint) {
		f[0] = byte(rng.IntN(2))
		binary.BigEndian.PutUint32(f[1:], uint32(rng.IntN(50))<<rng.IntN(3)*16)
		return f
	}
	for sequence := uint32(1); sequence < 20_000; sequence++ {
		f := print()
		if rng.IntN(2) == 0 {
			table.add(&f, sequence)
			model[sequence] = f
		} else {
			for old, f := range model {
				table.remove(&f, old)
				delete(model, old)
				break
			}
		}
		table.remove(&f, 1<<31) // is not there
		require.Equal(t, len(model), table.count)
		if sequence%100 > 0 {
			continue
		}
		for sequence, f := range model {
			require.True(t, table.find(&f, func(s uint32) bool { return s == sequence }))
		}
		require.False(t, table.find(&f, func(s uint32) bool { return s == 1<<31 }))
	}
}

func TestIDsRiseWhateverTheClockDoes(t *testing.T) {
	var source spool.IDSource
	now := time.UnixMilli(1_800_000_000_000)
	last := source.Next(now)
	require.Equal(t, now, last.Time())
	for i := range 20_000 {
		if i%5000 == 0 {
			now = now.Add(-time.Hour)
		}
		id := source.Next(now)
		require.Negative(t, last.Compare(id))
		require.Less(t, last.String(), id.String())
		require.Equal(t, byte(7), id[6]>>4)
		require.Equal(t, byte(2), id[8]>>6)
		last = id
	}
	var resumed spool.IDSource
	resumed.Resume(last)
	require.Negative(t, last.Compare(resumed.Next(now)))

	parsed, err := spool.ParseID(last.String())
	require.NoError(t, err)
	require.Equal(t, last, parsed)
	var unmarshalled spool.ID
	require.NoError(t, unmarshalled.UnmarshalText([]byte(last.String())))
	require.Equal(t, last, unmarshalled)
	_, err = spool.ParseID("nothing")
	require.Error(t, err)
}

// An inbox that was written before messages had a user is read on.
func TestARecordOfTheFirstVersionIsRead(t *testing.T) {
	record, err := base64.StdEncoding.DecodeString("AVm5Hk8Y+uJ2k7QAexj64nbPTsp7GPrihIv7WHsY+uW8xGyge4AAAAAAAAAFAAAABwAAAAkAAAEAAAAAAAECAwAAAAAAAAAAAAAAAAAAAAACAAAAAAAAAE0EUE9TVAkvaG9vaz9hPWIEw6RiYwJubwMMQ29udGVudC1UeXBlARBhcHBsaWNhdGlvbi9qc29uBlgtTWFueQMBYQABYwZYLU5vbmUA")
	require.NoError(t, err)
	m := sampleMessage()
	m.User, m.Destination = "", 0
	require.Zero(t, recordDestination(record))
	require.Equal(t, m.where, recordLocation(record))
	got, err := parseRecord(record)
	require.NoError(t, err)
	require.Equal(t, m, got)
}

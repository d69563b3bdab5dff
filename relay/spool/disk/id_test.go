package disk

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
)

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

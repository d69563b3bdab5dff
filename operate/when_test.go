package operate_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-deepgram/deepgram-callback/operate"
)

var now = time.Date(2026, 11, 25, 14, 0, 0, 0, time.UTC)

func TestTimesAreDatesOrHowLongAgo(t *testing.T) {
	for text, want := range map[string]time.Time{
		"2026-11-25T14:00:00Z":        now,
		"2026-11-25T15:00:00+01:00":   now,
		"2026-11-25T15:00:00 01:00":   now, // of a query that nobody escaped
		"2026-11-25T14:00:00.5Z":      now.Add(time.Second / 2),
		"2h":                          now.Add(-2 * time.Hour),
		"90s":                         now.Add(-90 * time.Second),
		"7d":                          now.Add(-7 * 24 * time.Hour),
		"1d12h":                       now.Add(-36 * time.Hour),
		"0s":                          now,
		"2027-11-25T14:00:00.000000Z": now.AddDate(1, 0, 0),
	} {
		at, err := operate.ParseTime(text, now)
		require.NoError(t, err, text)
		require.True(t, want.Equal(at), "%s is %s", text, at)
	}
	for _, text := range []string{
		"", " ", "2", "yesterday", "-2h", "2026-11-25", "14:00", "2026-11-25T14:00:00", "h",
		"2026-13-25T14:00:00Z", "99999999999999999999h", "2h ",
	} {
		_, err := operate.ParseTime(text, now)
		require.Equal(t, operate.Invalid, operate.KindOf(err), text)
		require.ErrorContains(t, err, "neither a time such as", text)
	}
}

func TestAPeriodHasItsBeginningAndNotItsEnd(t *testing.T) {
	p, err := operate.ParsePeriod("2h", "1h", now)
	require.NoError(t, err)
	for ago, included := range map[time.Duration]bool{
		3 * time.Hour: false, 2*time.Hour + 1: false, 2 * time.Hour: true, time.Hour + 1: true,
		time.Hour: false, 0: false,
	} {
		require.Equal(t, included, p.Includes(now.Add(-ago)), ago)
	}
	all, err := operate.ParsePeriod("", "", now)
	require.NoError(t, err)
	require.True(t, all.Includes(time.Unix(0, 0)))
	require.True(t, all.Includes(now.AddDate(100, 0, 0)))

	for _, bounds := range [][2]string{{"1h", "2h"}, {"1h", "1h"}} {
		_, err := operate.ParsePeriod(bounds[0], bounds[1], now)
		require.Equal(t, operate.Invalid, operate.KindOf(err))
	}
	_, err = operate.ParsePeriod("soon", "", now)
	require.ErrorContains(t, err, `since is "soon", neither`)
	_, err = operate.ParsePeriod("", "soon", now)
	require.ErrorContains(t, err, `until is "soon", neither`)
}

func FuzzTimes(f *testing.F) {
	for _, text := range []string{"2h", "7d", "2026-11-25T14:00:00Z", "-1h", "1e9d", "9999999d"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		at, err := operate.ParseTime(text, now)
		if err != nil {
			require.Equal(t, operate.Invalid, operate.KindOf(err))
			return
		}
		written, err := operate.ParseTime(at.Format(time.RFC3339Nano), now)
		if at.Year() >= 0 && at.Year() <= 9999 {
			require.NoError(t, err)
			require.True(t, at.Equal(written))
		}
	})
}

package app

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

func TestAnHourForgetsWhatIsOlder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var hour Hour[string]
		require.Equal(t, make([]int64, 60), hour.ByMinute(time.Now()))
		require.Empty(t, hour.ByName(time.Now()))

		hour.Add("a")
		hour.Add("a")
		hour.Add("b")
		time.Sleep(59 * time.Minute)
		hour.Add("a")
		now := time.Now()
		require.Equal(t, map[string]int64{"a": 3, "b": 1}, hour.ByName(now))
		minutes := hour.ByMinute(now)
		require.Len(t, minutes, 60)
		require.EqualValues(t, 3, minutes[0])
		require.EqualValues(t, 1, minutes[59])
		require.Equal(t, now.Add(-59*time.Minute).Truncate(time.Minute).UTC(), FirstMinute(now))

		time.Sleep(time.Minute)
		require.Equal(t, map[string]int64{"a": 1}, hour.ByName(time.Now()))
		require.EqualValues(t, 1, hour.ByMinute(time.Now())[58])

		time.Sleep(100 * time.Hour)
		require.Empty(t, hour.ByName(time.Now()))
		hour.Add("b") // into the place of an older minute
		require.Equal(t, map[string]int64{"b": 1}, hour.ByName(time.Now()))
	})
}

func TestWhatHappensInAMinuteSlidesOverItsBorders(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var hour Hour[string] // the clock of a bubble begins with a whole minute
		for range 60 {
			hour.Add("a")
		}
		require.EqualValues(t, 60, hour.PerMinute("a", time.Now()))
		require.Zero(t, hour.PerMinute("b", time.Now()))
		time.Sleep(75 * time.Second)
		require.EqualValues(t, 45, hour.PerMinute("a", time.Now()))
		hour.Add("a")
		require.EqualValues(t, 46, hour.PerMinute("a", time.Now()))
		time.Sleep(time.Minute)
		require.Zero(t, hour.PerMinute("a", time.Now()))
	})
}

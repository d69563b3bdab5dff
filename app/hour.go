package app

import (
	"sync"
	"time"
)

// minutesKept is how many minutes an [Hour] has, the current one included.
const minutesKept = 60

// An Hour counts what happened in the last hour, minute by minute, each thing by its name: for
// people who look, and have no metrics at hand. The zero value has counted nothing yet. Names
// come from the code and the configuration, so there are few.
type Hour[Name comparable] struct {
	mu      sync.Mutex
	minutes [minutesKept]minute[Name] // each in its place, by the number of the minute
}

type minute[Name comparable] struct {
	number int64 // of minutes since 1970
	counts map[Name]int64
}

func minuteOf(t time.Time) int64 { return t.Unix() / 60 }

// Add counts something that happens now.
func (h *Hour[Name]) Add(name Name) {
	now := minuteOf(time.Now())
	h.mu.Lock()
	defer h.mu.Unlock()
	m := &h.minutes[now%minutesKept]
	if m.number != now || m.counts == nil {
		*m = minute[Name]{number: now, counts: make(map[Name]int64)}
	}
	m.counts[name]++
}

// counted is what was counted in a minute; nil for nothing.
func (h *Hour[Name]) counted(number int64) map[Name]int64 {
	if m := h.minutes[number%minutesKept]; m.number == number {
		return m.counts
	}
	return nil
}

// ByName says how often each thing happened in the hour before now.
func (h *Hour[Name]) ByName(now time.Time) map[Name]int64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	sums := make(map[Name]int64)
	for number, last := minuteOf(now)-minutesKept+1, minuteOf(now); number <= last; number++ {
		for name, n := range h.counted(number) {
			sums[name] += n
		}
	}
	return sums
}

// ByMinute says how often anything happened in each minute of the hour before now, the oldest
// first. The last one is not over yet.
func (h *Hour[Name]) ByMinute(now time.Time) []int64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	sums := make([]int64, minutesKept)
	for i := range sums {
		for _, n := range h.counted(minuteOf(now) - minutesKept + 1 + int64(i)) {
			sums[i] += n
		}
	}
	return sums
}

// FirstMinute is when the first minute of [Hour.ByMinute] began.
func FirstMinute(now time.Time) time.Time {
	return time.Unix((minuteOf(now)-minutesKept+1)*60, 0).UTC()
}

// PerMinute says how often a thing happened in the 60 seconds before now, of which the part that
// lies in the minute before is taken to have been like all of that minute.
func (h *Hour[Name]) PerMinute(name Name, now time.Time) int64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	current := minuteOf(now)
	left := 60 - now.Unix()%60 // seconds of the minute before
	return h.counted(current)[name] + h.counted(current - 1)[name]*left/60
}

package operate

import (
	"fmt"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
)

// A Period is from one time on, and before another. A zero time is no bound.
type Period struct{ Since, Until time.Time }

// Includes reports whether a time is in the period.
func (p Period) Includes(at time.Time) bool {
	return (p.Since.IsZero() || !at.Before(p.Since)) && (p.Until.IsZero() || at.Before(p.Until))
}

// ParsePeriod reads the bounds of a period, either of which may be empty, see [ParseTime].
func ParsePeriod(since, until string, now time.Time) (p Period, err error) {
	if since != "" {
		if p.Since, err = ParseTime(since, now); err != nil {
			return Period{}, fmt.Errorf("since %w", err)
		}
	}
	if until != "" {
		if p.Until, err = ParseTime(until, now); err != nil {
			return Period{}, fmt.Errorf("until %w", err)
		}
	}
	if !p.Since.IsZero() && !p.Until.IsZero() && !p.Since.Before(p.Until) {
		return Period{}, invalid(fmt.Errorf("since %s is not before until %s", since, until))
	}
	return p, nil
}

// ParseTime reads a time as people write it: in RFC 3339, or as how long before now it is,
// such as 90s, 2h or 7d.
func ParseTime(text string, now time.Time) (time.Time, error) {
	// In a query that nobody escaped, the plus sign of a zone is a space.
	if at, err := time.Parse(time.RFC3339, strings.ReplaceAll(text, " ", "+")); err == nil {
		return at, nil
	}
	ago, err := caddy.ParseDuration(text)
	if err != nil || ago < 0 {
		return time.Time{}, invalid(fmt.Errorf(
			"is %q, neither a time such as 2026-11-25T14:00:00Z nor a duration such as 2h", text))
	}
	return now.Add(-ago), nil
}

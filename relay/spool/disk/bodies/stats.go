// What is known of a segment.

package bodies

// Stats is what the index knows of a segment.
type Stats struct {
	Size      int64
	Live      int64 // bodies that some message still needs
	LiveBytes int64
}

// With returns the statistics with one more body that is needed.
func (s Stats) With(where Location) Stats {
	s.Live++
	s.LiveBytes += segmentHeader + where.Size
	return s
}

// Without returns the statistics with one body less that is needed.
func (s Stats) Without(where Location) Stats {
	s.Live--
	s.LiveBytes -= segmentHeader + where.Size
	return s
}

// Corrected returns the statistics with what was counted. Where there are records that cannot be
// read, their bodies may be more than that.
func (s Stats) Corrected(counted Stats, atLeast bool) Stats {
	if atLeast && s.Live > counted.Live && s.LiveBytes > counted.LiveBytes && s.LiveBytes <= s.Size {
		return s
	}
	s.Live, s.LiveBytes = counted.Live, counted.LiveBytes
	return s
}

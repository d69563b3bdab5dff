package audio

import (
	"bytes"
	"math"
)

// SilentMP3 returns empty frames of MPEG-1 Layer III (ISO/IEC 11172-3), which are played as
// silence: 32 kbit/s, 44.1 kHz, mono.
func SilentMP3(seconds float64) []byte {
	const (
		samplesPerFrame = 1152
		frameSize       = 144 * 32000 / 44100 // without padding
	)
	frame := make([]byte, frameSize)
	copy(frame, []byte{0xff, 0xfb, 0x10, 0xc0})
	frames := int(math.Ceil(seconds * 44100 / samplesPerFrame))
	return bytes.Repeat(frame, frames)
}

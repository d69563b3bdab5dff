package simulator

// How much was heard. Audio is counted and hashed as it comes. Only its beginning
// is kept, where a header may be.

import (
	"crypto/sha256"
	"encoding/hex"
	"hash"
	"math"
	"net/http"
	"net/url"
	"strconv"
)

const (
	// maxHeader is how many bytes of the beginning are searched for a header.
	maxHeader = 64 << 10

	// unknownBytesPerSec is the rate by which the duration of a format is
	// estimated that the simulator does not read: 128 kbit/s, a usual rate of MP3
	// and AAC files.
	unknownBytesPerSec = 16000

	// maxChannels is how many channels a result can have, as with the vendor.
	maxChannels = 20
)

// sampleBytes is the size of a sample in the encodings that have a fixed one.
var sampleBytes = map[string]float64{"linear16": 2, "linear32": 4, "mulaw": 1, "alaw": 1}

// compressedBytesPerSec are usual rates of the other encodings that a request
// can name. Durations by these are estimates.
var compressedBytesPerSec = map[string]float64{
	"amr-nb": 1525, "amr-wb": 2981, "g729": 1000, "opus": 4000, "ogg-opus": 4000, "speex": 3000,
	"flac": 64000,
}

// audioMeter measures the audio that is written to it.
type audioMeter struct {
	hash  hash.Hash
	size  int64
	first byte
	begin []byte
	// bytesPerSec is zero until the format is known.
	bytesPerSec float64
	wav         *wavHeader
	channels    int
}

// audio is the result of measuring.
type audio struct {
	sha256   string
	seconds  float64
	channels int
}

// newAudioMeter prepares for the audio of a request. Where the request names
// an encoding the audio is raw, otherwise its format shows in its beginning.
func newAudioMeter(query url.Values) (*audioMeter, error) {
	m := &audioMeter{hash: sha256.New(), channels: 1}
	if value := query.Get("channels"); value != "" {
		channels, err := strconv.Atoi(value)
		if err != nil || channels < 1 || channels > maxChannels {
			return nil, refusal(http.StatusBadRequest,
				"Invalid channels: it must be a number from 1 to %d.", maxChannels)
		}
		m.channels = channels
	}
	encoding := query.Get("encoding")
	if encoding == "" {
		return m, nil
	}
	if m.bytesPerSec = compressedBytesPerSec[encoding]; m.bytesPerSec > 0 {
		return m, nil
	}
	bytes, ok := sampleBytes[encoding]
	if !ok {
		return nil, refusal(http.StatusBadRequest, "Invalid encoding.")
	}
	rate := 16000
	if encoding == "mulaw" || encoding == "alaw" {
		rate = 8000 // telephony, ITU-T G.711
	}
	if value := query.Get("sample_rate"); value != "" {
		var err error
		if rate, err = strconv.Atoi(value); err != nil || rate < 1000 || rate > 384000 {
			return nil, refusal(http.StatusBadRequest,
				"Invalid sample_rate: it must be a number from 1000 to 384000.")
		}
	}
	m.bytesPerSec = bytes * float64(rate) * float64(m.channels)
	return m, nil
}

// Write measures some more audio. It never fails.
func (m *audioMeter) Write(b []byte) (int, error) {
	if m.size == 0 && len(b) > 0 {
		m.first = b[0]
	}
	m.hash.Write(b)
	m.size += int64(len(b))
	if m.bytesPerSec == 0 {
		m.begin = append(m.begin, b[:min(len(b), maxHeader-len(m.begin))]...)
		m.recognise()
	}
	return len(b), nil
}

// recognise finds out the format, if enough of the beginning has come.
func (m *audioMeter) recognise() {
	header, ok, more := parseWAV(m.begin)
	if more && len(m.begin) < maxHeader {
		return
	}
	m.bytesPerSec = unknownBytesPerSec
	if ok {
		m.wav = &header
		m.bytesPerSec = float64(header.bytesPerSec)
		m.channels = min(header.channels, maxChannels)
	}
	m.begin = nil
}

// seconds is the duration of the audio so far.
func (m *audioMeter) seconds() float64 {
	switch {
	case m.bytesPerSec == 0:
		return 0
	case m.wav != nil:
		return roundTo(m.wav.seconds(m.size), 1e6)
	default:
		return roundTo(float64(m.size)/m.bytesPerSec, 1e6)
	}
}

// finish returns the result after all audio was written. If that was too short to
// recognise its format, the duration is estimated from the size.
func (m *audioMeter) finish() audio {
	if m.bytesPerSec == 0 {
		m.bytesPerSec = unknownBytesPerSec
	}
	return audio{
		sha256:   hex.EncodeToString(m.hash.Sum(nil)),
		seconds:  m.seconds(),
		channels: m.channels,
	}
}

// roundTo rounds to a fraction of one, so that sums of decimal fractions do not
// show that they are binary ones.
func roundTo(value, fraction float64) float64 { return math.Round(value*fraction) / fraction }

// Package audio is what the simulator knows of audio: how long it is that somebody sends, and how a
// file of silence begins. Nothing is decoded or encoded.
//
//	meter.go  measuring: audio is counted and hashed as it comes; only its beginning is kept,
//	          where a header may be
//	wav.go    the header of a WAV file
//	mp3.go    silence as MP3
package audio

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"math"
	"net/url"
	"strconv"
)

// MaxChannels is how many channels a result can have, as with the vendor.
const MaxChannels = 20

const (
	// maxHeader is how many bytes of the beginning are searched for a header.
	maxHeader = 64 << 10

	// unknownBytesPerSec is the rate by which the duration of a format is
	// estimated that the simulator does not read: 128 kbit/s, a usual rate of MP3
	// and AAC files.
	unknownBytesPerSec = 16000
)

// sampleBytes is the size of a sample in the encodings that have a fixed one.
var sampleBytes = map[string]float64{"linear16": 2, "linear32": 4, "mulaw": 1, "alaw": 1}

// compressedBytesPerSec are usual rates of the other encodings that a request
// can name. Durations by these are estimates.
var compressedBytesPerSec = map[string]float64{
	"amr-nb": 1525, "amr-wb": 2981, "g729": 1000, "opus": 4000, "ogg-opus": 4000, "speex": 3000,
	"flac": 64000,
}

// Meter measures the audio that is written to it.
type Meter struct {
	hash  hash.Hash
	size  int64
	first byte
	begin []byte
	// bytesPerSec is zero until the format is known.
	bytesPerSec float64
	wav         *wavHeader
	channels    int
}

// Heard is the result of measuring.
type Heard struct {
	SHA256   string // of all bytes, in hexadecimal
	Seconds  float64
	Channels int
}

// ParameterError says what is wrong with a parameter of a request, in words for who has sent it.
type ParameterError string

// Error implements error.
func (e ParameterError) Error() string { return string(e) }

// NewMeter prepares for the audio of a request, of which it reads the parameters channels, encoding
// and sample_rate. It fails with a [ParameterError]. Where the request names an encoding the audio is
// raw, otherwise its format shows in its beginning.
func NewMeter(query url.Values) (*Meter, error) {
	m := &Meter{hash: sha256.New(), channels: 1}
	if value := query.Get("channels"); value != "" {
		channels, err := strconv.Atoi(value)
		if err != nil || channels < 1 || channels > MaxChannels {
			return nil, ParameterError(
				fmt.Sprintf("Invalid channels: it must be a number from 1 to %d.", MaxChannels))
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
		return nil, ParameterError("Invalid encoding.")
	}
	rate := 16000
	if encoding == "mulaw" || encoding == "alaw" {
		rate = 8000 // telephony, ITU-T G.711
	}
	if value := query.Get("sample_rate"); value != "" {
		var err error
		if rate, err = strconv.Atoi(value); err != nil || rate < 1000 || rate > 384000 {
			return nil, ParameterError("Invalid sample_rate: it must be a number from 1000 to 384000.")
		}
	}
	m.bytesPerSec = bytes * float64(rate) * float64(m.channels)
	return m, nil
}

// Write measures some more audio. It never fails.
func (m *Meter) Write(b []byte) (int, error) {
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
func (m *Meter) recognise() {
	header, ok, more := parseWAV(m.begin)
	if more && len(m.begin) < maxHeader {
		return
	}
	m.bytesPerSec = unknownBytesPerSec
	if ok {
		m.wav = &header
		m.bytesPerSec = float64(header.bytesPerSec)
		m.channels = min(header.channels, MaxChannels)
	}
	m.begin = nil
}

// First returns the first byte, if any has come.
func (m *Meter) First() (first byte, ok bool) { return m.first, m.size > 0 }

// Channels is how many channels the audio has, as far as that is known: one where nothing says more.
func (m *Meter) Channels() int { return m.channels }

// Seconds is the duration of the audio so far. It is rounded, so that sums of decimal fractions do not
// show that they are binary ones.
func (m *Meter) Seconds() float64 {
	seconds := 0.0
	switch {
	case m.bytesPerSec == 0:
	case m.wav != nil:
		seconds = m.wav.seconds(m.size)
	default:
		seconds = float64(m.size) / m.bytesPerSec
	}
	return math.Round(seconds*1e6) / 1e6
}

// Finish returns the result after all audio was written. If that was too short to
// recognise its format, the duration is estimated from the size.
func (m *Meter) Finish() Heard {
	if m.bytesPerSec == 0 {
		m.bytesPerSec = unknownBytesPerSec
	}
	return Heard{
		SHA256:   hex.EncodeToString(m.hash.Sum(nil)),
		Seconds:  m.Seconds(),
		Channels: m.channels,
	}
}

package audio

import (
	"encoding/binary"
	"math"
	"net/url"
	"testing"

	"github.com/stretchr/testify/require"
)

// wav returns a WAV file of silence, with 16 bits per sample and so many channels and seconds.
func wav(channels, sampleRate int, seconds float64) []byte {
	size := int(seconds*float64(sampleRate)) * channels * 2
	return append(AppendWAVHeader(nil, 1, channels, sampleRate, 16, size), make([]byte, size)...)
}

// chunk is a RIFF chunk with its padding.
func chunk(id string, content []byte) []byte {
	b := binary.LittleEndian.AppendUint32([]byte(id), uint32(len(content)))
	b = append(b, content...)
	if len(content)%2 == 1 {
		b = append(b, 0)
	}
	return b
}

func riff(id string, chunks ...[]byte) []byte {
	b := append([]byte(id), 0, 0, 0, 0)
	b = append(b, "WAVE"...)
	for _, c := range chunks {
		b = append(b, c...)
	}
	return b
}

// format is a format chunk's content.
func format(code, channels uint16, rate, bytesPerSec uint32, align, bits uint16) []byte {
	b := binary.LittleEndian.AppendUint16(nil, code)
	b = binary.LittleEndian.AppendUint16(b, channels)
	b = binary.LittleEndian.AppendUint32(b, rate)
	b = binary.LittleEndian.AppendUint32(b, bytesPerSec)
	b = binary.LittleEndian.AppendUint16(b, align)
	return binary.LittleEndian.AppendUint16(b, bits)
}

func TestDurationOfAudio(t *testing.T) {
	stereo := chunk("fmt ", format(1, 2, 8000, 32000, 4, 16))
	sound := make([]byte, 48000) // 1.5 s of it
	streamed := riff("RIFF", stereo, []byte("data\xff\xff\xff\xff"), sound)
	tests := map[string]struct {
		file     []byte
		query    string
		seconds  float64
		channels int
	}{
		"wav":                 {wav(1, 44100, 2), "", 2, 1},
		"wav of two channels": {riff("RIFF", stereo, chunk("data", sound)), "", 1.5, 2},
		"chunks around the sound": {riff("RIFF", chunk("LIST", []byte("odd")), stereo,
			chunk("fact", make([]byte, 4)), chunk("data", sound), chunk("LIST", make([]byte, 5000))),
			"", 1.5, 2},
		"a header before the sound": {riff("RIFF", chunk("JUNK", make([]byte, 20000)), stereo,
			chunk("data", sound)), "", 1.5, 2},
		"size unknown when written": {streamed, "", 1.5, 2},
		"size zero when written": {riff("RIFF", stereo, []byte("data\x00\x00\x00\x00"), sound),
			"", 1.5, 2},
		"RF64": {riff("RF64", chunk("ds64", make([]byte, 28)), stereo,
			[]byte("data\xff\xff\xff\xff"), sound), "", 1.5, 2},
		"declares more than there is": {riff("RIFF", stereo, []byte("data\x00\x00\xff\x7f"), sound),
			"", 1.5, 2},
		"no byte rate in the header": {riff("RIFF", chunk("fmt ", format(1, 1, 16000, 0, 2, 16)),
			chunk("data", sound)), "", 1.5, 1},
		"long format chunk": {riff("RIFF",
			chunk("fmt ", append(format(0xfffe, 2, 8000, 32000, 4, 16), make([]byte, 24)...)),
			chunk("data", sound)), "", 1.5, 2},
		"no sound":                {wav(1, 8000, 0), "", 0, 1},
		"not wav":                 {append([]byte("ID3\x04"), make([]byte, 31996)...), "", 2, 1},
		"shorter than a header":   {[]byte("RIFF"), "", 0.00025, 1},
		"wav without sound chunk": {riff("RIFF", stereo), "", 36.0 / 16000, 1},
		"wav with a broken format": {riff("RIFF", chunk("fmt ", make([]byte, 16)),
			chunk("data", make([]byte, 15956))), "", 1, 1},
		"raw linear16": {make([]byte, 64000),
			"encoding=linear16&sample_rate=16000&channels=2", 1, 2},
		"raw mulaw, rate by default": {make([]byte, 8000), "encoding=mulaw", 1, 1},
		"raw audio that looks like wav": {wav(1, 8000, 1), "encoding=linear16&sample_rate=8000",
			1 + 44/16000.0, 1},
		"raw opus, estimated": {make([]byte, 8000), "encoding=opus&sample_rate=48000", 2, 1},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			for _, piece := range []int{1, 13, len(test.file)} {
				query, err := url.ParseQuery(test.query)
				require.NoError(t, err)
				meter, err := NewMeter(query)
				require.NoError(t, err)
				for rest := test.file; len(rest) > 0; {
					n := min(piece, len(rest))
					_, _ = meter.Write(rest[:n])
					rest = rest[n:]
				}
				heard := meter.Finish()
				require.InDelta(t, test.seconds, heard.Seconds, 1e-6)
				require.Equal(t, test.channels, heard.Channels)
			}
		})
	}
}

func TestMeterKeepsNoAudio(t *testing.T) {
	meter, err := NewMeter(nil)
	require.NoError(t, err)
	// This header never ends, so the meter keeps searching.
	endless := binary.LittleEndian.AppendUint32(riff("RIFF", []byte("JUNK")), math.MaxUint32)
	_, _ = meter.Write(endless)
	piece := make([]byte, 1000)
	for range 1000 {
		_, _ = meter.Write(piece)
		require.LessOrEqual(t, cap(meter.begin), 2*maxHeader)
	}
	require.Nil(t, meter.begin, "given up looking")
	require.EqualValues(t, len(endless)+1000*len(piece), meter.size)
}

func TestRefusesAudioParametersThatCannotBe(t *testing.T) {
	for _, query := range []string{
		"channels=0", "channels=21", "channels=two", "encoding=morse",
		"encoding=linear16&sample_rate=0", "encoding=linear16&sample_rate=fast",
	} {
		values, err := url.ParseQuery(query)
		require.NoError(t, err)
		_, err = NewMeter(values)
		require.ErrorAs(t, err, new(ParameterError), query)
	}
}

// No header makes the parser panic, or makes the duration longer than the bytes that there are.
func FuzzParseWAV(f *testing.F) {
	f.Add(wav(1, 8000, 0.01), int64(204))
	f.Add(riff("RF64", chunk("ds64", make([]byte, 28)),
		chunk("fmt ", format(1, 2, 8000, 32000, 4, 16)),
		[]byte("data\xff\xff\xff\xff")), int64(1<<40))
	f.Add(riff("RIFF", []byte("LIST\xff\xff\xff\xff")), int64(100))
	f.Add([]byte("RIFF\x00\x00\x00\x00WAVEfmt "), int64(20))
	f.Fuzz(func(t *testing.T, b []byte, size int64) {
		header, ok, more := parseWAV(b)
		require.False(t, ok && more)
		if !ok {
			return
		}
		require.Positive(t, header.channels)
		require.Positive(t, header.bytesPerSec)
		size = max(size, int64(len(b)))
		seconds := header.seconds(size)
		require.False(t, math.IsNaN(seconds) || math.IsInf(seconds, 0))
		require.GreaterOrEqual(t, seconds, 0.0)
		require.LessOrEqual(t, seconds, float64(size))
	})
}

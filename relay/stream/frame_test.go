package stream

import (
	"bytes"
	"encoding/binary"
	"math"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
)

func TestGrammarRefusesWhatRFC6455Forbids(t *testing.T) {
	long := func(second byte, length uint64) []byte {
		return binary.BigEndian.AppendUint64([]byte{0x81, second}, length)
	}
	cases := map[string]struct {
		earlier []frame // of the same direction, allowed
		raw     []byte  // unmasked
		code    CloseCode
		text    string
	}{
		"reserved bit 1":            {raw: []byte{0xC1, 0}, code: 1002, text: "reserved bits"},
		"reserved bit 2":            {raw: []byte{0xA1, 0}, code: 1002, text: "reserved bits"},
		"reserved bit 3":            {raw: []byte{0x91, 0}, code: 1002, text: "reserved bits"},
		"reserved bit on control":   {raw: []byte{0xC9, 0}, code: 1002, text: "reserved bits"},
		"reserved data opcode":      {raw: []byte{0x83, 0}, code: 1002, text: "opcode 0x3"},
		"last reserved data opcode": {raw: []byte{0x87, 0}, code: 1002, text: "opcode 0x7"},
		"reserved control opcode":   {raw: []byte{0x8B, 0}, code: 1002, text: "opcode 0xB"},
		"last reserved opcode":      {raw: []byte{0x8F, 0}, code: 1002, text: "opcode 0xF"},
		"fragmented ping":           {raw: []byte{0x09, 0}, code: 1002, text: "fragmented control"},
		"fragmented pong":           {raw: []byte{0x0A, 0}, code: 1002, text: "fragmented control"},
		"fragmented Close":          {raw: []byte{0x08, 0}, code: 1002, text: "fragmented control"},
		"ping of 126 bytes":         {raw: []byte{0x89, 126, 0, 126}, code: 1002, text: "over 125"},
		"Close of 126 bytes":        {raw: []byte{0x88, 126, 0, 126}, code: 1002, text: "over 125"},
		"125 in two bytes":          {raw: []byte{0x81, 126, 0, 125}, code: 1002, text: "minimally"},
		"0 in two bytes":            {raw: []byte{0x81, 126, 0, 0}, code: 1002, text: "minimally"},
		"65535 in eight bytes":      {raw: long(127, 65535), code: 1002, text: "minimally"},
		"highest bit of the length": {raw: long(127, 1<<63), code: 1002, text: "minimally"},
		"all bits of the length":    {raw: long(127, math.MaxUint64), code: 1002, text: "minimally"},
		"continuation of nothing":   {raw: []byte{0x80, 0}, code: 1002, text: "to continue"},
		"first part of nothing":     {raw: []byte{0x00, 0}, code: 1002, text: "to continue"},
		"continuation after the end": {earlier: []frame{{opcode: 1}, {fin: true}},
			raw: []byte{0x80, 0}, code: 1002, text: "to continue"},
		"text inside a message": {earlier: []frame{{opcode: 1}}, raw: []byte{0x81, 0}, code: 1002,
			text: "inside a fragmented"},
		"binary inside a message": {earlier: []frame{{opcode: 1}}, raw: []byte{0x82, 0}, code: 1002,
			text: "inside a fragmented"},
		"binary":               {raw: []byte{0x82, 0}, code: 1003, text: "only text"},
		"first part of binary": {raw: []byte{0x02, 0}, code: 1003, text: "only text"},
		"one byte too many":    {raw: []byte{0x81, 126, 0x03, 0xE9}, code: 1009, text: "over 1000"},
		"far too many bytes":   {raw: long(127, math.MaxInt64), code: 1009, text: "over 1000"},
		"one too many in fragments": {earlier: []frame{{opcode: 1, payload: make([]byte, 600)},
			{payload: make([]byte, 400)}}, raw: []byte{0x80, 1}, code: 1009, text: "over 1000"},
		"overflow over two fragments": {earlier: []frame{{opcode: 1, payload: make([]byte, 600)}},
			raw: append([]byte{0x80}, long(127, math.MaxInt64)[1:]...), code: 1009, text: "over 1000"},
	}
	for name, c := range cases {
		for _, masked := range []bool{false, true} {
			t.Run(name+map[bool]string{false: " from a server", true: " from a client"}[masked],
				func(t *testing.T) {
					g := grammar{wantMasked: masked, maxMessage: 1000}
					var key []byte
					raw := bytes.Clone(c.raw)
					if masked {
						key = testKey
						raw[1] |= 0x80
						raw = append(raw, key...)
					}
					for _, f := range c.earlier {
						h, ok := parseHeader(f.encode(key))
						require.True(t, ok)
						require.Nil(t, g.check(h))
						g.accept(h)
					}
					h, ok := parseHeader(raw)
					require.True(t, ok)
					bad := g.check(h)
					require.NotNil(t, bad)
					require.Equal(t, c.code, bad.code)
					require.ErrorContains(t, bad, c.text)
				})
		}
	}
}

func TestGrammarRefusesWrongMasking(t *testing.T) {
	for _, opcode := range []byte{opText, opPing, opPong, opClose} {
		f := frame{fin: true, opcode: opcode, payload: []byte("hello")}

		h, _ := parseHeader(f.encode(nil))
		bad := (&grammar{wantMasked: true, maxMessage: 10}).check(h)
		require.NotNil(t, bad)
		require.Equal(t, CloseProtocolError, bad.code)
		require.ErrorContains(t, bad, "without masking")

		h, _ = parseHeader(f.encode(testKey))
		bad = (&grammar{maxMessage: 10}).check(h)
		require.NotNil(t, bad)
		require.Equal(t, CloseProtocolError, bad.code)
		require.ErrorContains(t, bad, "from a server")
	}
}

func TestGrammarAllowsWhatRFC6455Allows(t *testing.T) {
	sequences := map[string][]frame{
		"text":            {text("hello"), text("")},
		"longest message": {{fin: true, opcode: 1, payload: make([]byte, 70000)}},
		"fragments to the limit, control frames between, then another": {
			{opcode: 1, payload: make([]byte, 35000)}, {fin: true, opcode: 9, payload: make([]byte, 125)},
			{payload: nil}, {fin: true, opcode: 10}, {fin: true, payload: make([]byte, 35000)}, text("next"),
		},
		"lengths at the edges of their encodings": {
			{fin: true, opcode: 1, payload: make([]byte, 125)},
			{fin: true, opcode: 1, payload: make([]byte, 126)},
			{fin: true, opcode: 1, payload: make([]byte, 65535)},
			{fin: true, opcode: 1, payload: make([]byte, 65536)},
		},
		"binary": {{fin: true, opcode: 2, payload: []byte{0}}, {opcode: 2}, {fin: true}},
	}
	for name, frames := range sequences {
		for _, key := range [][]byte{nil, testKey} {
			t.Run(name, func(t *testing.T) {
				g := grammar{wantMasked: key != nil, allowBinary: true, maxMessage: 70000}
				for _, f := range frames {
					raw := f.encode(key)
					h, ok := parseHeader(raw)
					require.True(t, ok)
					require.Nil(t, g.check(h))
					require.EqualValues(t, len(f.payload), h.length)
					require.Equal(t, len(raw)-len(f.payload), h.size)
					if !h.control() {
						require.Equal(t, f.fin, g.accept(h))
					}
				}
			})
		}
	}
}

func TestHeaderIsReadOnlyWhenWhole(t *testing.T) {
	for _, size := range []int{0, 125, 126, 65535, 65536} {
		for _, key := range [][]byte{nil, testKey} {
			raw := frame{fin: true, opcode: 1, payload: make([]byte, size)}.encode(key)
			whole := len(raw) - size
			for n := range whole {
				_, ok := parseHeader(raw[:n])
				require.False(t, ok, "%d of %d bytes", n, whole)
			}
			h, ok := parseHeader(raw[:whole])
			require.True(t, ok)
			require.Equal(t, whole, h.size)
			require.EqualValues(t, size, h.length)
		}
	}
}

func TestCloseCodesThatMayBeSent(t *testing.T) {
	legal := map[CloseCode]bool{1000: true, 1001: true, 1002: true, 1003: true, 1007: true,
		1008: true, 1009: true,
		1010: true, 1011: true, 1012: true, 1013: true, 1014: true, 3000: true, 3999: true,
		4000: true, 4999: true}
	for _, code := range []CloseCode{0, 1, 999, 1000, 1001, 1002, 1003, 1004, 1005, 1006, 1007, 1008,
		1009, 1010, 1011,
		1012, 1013, 1014, 1015, 1016, 2000, 2999, 3000, 3999, 4000, 4999, 5000, 65535} {
		got, reason, bad := parseClose(closing(code, "why").payload)
		if legal[code] {
			require.Nil(t, bad, code)
			require.Equal(t, code, got)
			require.Equal(t, "why", reason)
			continue
		}
		require.NotNil(t, bad, code)
		require.Equal(t, CloseProtocolError, bad.code)
	}
}

func TestClosePayloads(t *testing.T) {
	code, reason, bad := parseClose(nil)
	require.Nil(t, bad)
	require.Equal(t, CloseNoStatus, code, "an empty Close stands for 1005")
	require.Empty(t, reason)

	_, _, bad = parseClose([]byte{3})
	require.NotNil(t, bad)
	require.Equal(t, CloseProtocolError, bad.code)

	_, _, bad = parseClose([]byte{3, 232, 0xFF})
	require.NotNil(t, bad)
	require.Equal(t, CloseInvalidPayload, bad.code)
}

func TestCloseReasonIsCutBetweenCharacters(t *testing.T) {
	for _, reason := range []string{"", "short", strings.Repeat("x", 123), strings.Repeat("x", 124),
		strings.Repeat("é", 100), strings.Repeat("日本", 50),
		"bad \xff\xfe utf8" + strings.Repeat("\xff", 200)} {
		payload := closePayload(1001, reason)
		require.LessOrEqual(t, len(payload), maxControlPayload)
		require.True(t, utf8.Valid(payload[2:]), "%q", payload)
		switch {
		case !utf8.ValidString(reason):
		case len(reason) <= maxControlPayload-2:
			require.Equal(t, reason, string(payload[2:]))
		default:
			require.True(t, strings.HasPrefix(reason, string(payload[2:])))
			require.Greater(t, len(payload), maxControlPayload-3, "no more cut than needed")
		}
	}
}

func TestOwnControlFramesAreWellFormed(t *testing.T) {
	payload := []byte("12345678")
	f, err := readFrame(bytes.NewReader(appendControl(nil, opPing, payload, true,
		[4]byte{1, 2, 3, 4})),
		true)
	require.NoError(t, err)
	require.Equal(t, frame{fin: true, opcode: 9, payload: payload}, f)
	require.Equal(t, "12345678", string(payload), "the payload given is not masked in place")

	f, err = readFrame(bytes.NewReader(appendControl(nil, opClose, nil, false, [4]byte{})), false)
	require.NoError(t, err)
	require.Equal(t, frame{fin: true, opcode: 8, payload: []byte{}}, f)
}

// FuzzHeader compares the grammar with the tests' own strict reader of frames:
// what the grammar lets through is legal, and what it refuses is not.
func FuzzHeader(f *testing.F) {
	for _, seed := range [][]byte{
		text("hello").encode(nil), text("hello").encode(testKey), {0x81},
		{0x81, 0xFE, 0, 125, 1, 2, 3, 4},
		{0x81, 127, 0, 0, 0, 0, 0, 1, 0, 0}, {0x81, 127, 255, 255, 255, 255, 255, 255, 255, 255},
		{0x88, 2, 3, 232}, {0xF1, 0}, {0x09, 0}, {0x8B, 0},
	} {
		f.Add(seed, true)
		f.Add(seed, false)
	}
	f.Fuzz(func(t *testing.T, raw []byte, masked bool) {
		h, ok := parseHeader(raw)
		if !ok {
			require.Less(t, len(raw), maxHeader)
			return
		}
		require.LessOrEqual(t, h.size, len(raw))
		require.LessOrEqual(t, h.size, maxHeader)
		g := grammar{
			wantMasked:  masked,
			allowBinary: true,
			maxMessage:  1 << 16,
			inMessage:   raw[0]&0xF == 0,
		}
		bad := g.check(h)
		if bad != nil && bad.code == CloseMessageTooBig {
			require.Greater(t, h.length, int64(1<<16))
			return
		}
		whole := append(bytes.Clone(raw[:h.size]), make([]byte, max(0, min(h.length, 1<<16)))...)
		got, err := readFrame(bytes.NewReader(whole), masked)
		if got.opcode == opClose && err == nil || bad == nil && h.opcode == opClose {
			return // its payload is judged by parseClose
		}
		require.Equal(t, bad == nil, err == nil, "%v, but %v", bad, err)
	})
}

func FuzzParseClose(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte{3})
	f.Add(closing(1000, "bye").payload)
	f.Add(closing(1005, "").payload)
	f.Add([]byte{3, 232, 0xC3, 0x28})
	f.Fuzz(func(t *testing.T, payload []byte) {
		payload = payload[:min(len(payload), maxControlPayload)]
		code, reason, bad := parseClose(payload)
		_, err := readFrame(bytes.NewReader(frame{
			fin:     true,
			opcode:  opClose,
			payload: payload,
		}.encode(nil)), false)
		require.Equal(t, bad == nil, err == nil, "%v, but %v", bad, err)
		if bad == nil && len(payload) > 0 {
			require.Equal(t, payload, closePayload(code, reason), "goes on as it came")
		}
	})
}

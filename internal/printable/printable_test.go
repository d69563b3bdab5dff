package printable

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"unicode"

	"github.com/stretchr/testify/require"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

func TestEscapeLeavesWhatIsPrintedAndEscapesTheRest(t *testing.T) {
	for text, want := range map[string]string{
		"":                          "",
		"/live?a=b c~":              "/live?a=b c~",
		"é 日本 😀":                    "é 日本 😀",
		"\x1b[2J":                   `\x1b[2J`,
		"a\u009b31mb":               `a\u009b31mb`,
		"\x7f\t\r\n\x00":            `\x7f\t\r\n\x00`,
		"\u202eleft":                `\u202eleft`,
		"\u00a0\u2028\ufeff\u200b":  `\u00a0\u2028\ufeff\u200b`,
		"\xff\xc2":                  `\xff\xc2`,
		"\U000e0001":                `\U000e0001`,
		"replacement \ufffd itself": "replacement \ufffd itself",
	} {
		require.Equal(t, want, Escape(text), "%q", text)
	}
}

func TestJSONSaysTheSameWithoutSteering(t *testing.T) {
	for _, value := range []string{"plain", "é\u009b31m\x7f\u202e😀\U000e0001\u00a0",
		strings.Repeat("\u0085", 100)} {
		text, err := json.MarshalIndent(map[string]string{value: value}, "", "\t")
		require.NoError(t, err)
		requireHarmless(t, string(JSON(text)))
		var got map[string]string
		require.NoError(t, json.Unmarshal(JSON(text), &got))
		require.Equal(t, map[string]string{value: value}, got)
	}
}

func requireHarmless(t testing.TB, text string) {
	t.Helper()
	for _, r := range text {
		require.True(t, strings.ContainsRune("\n\r\t", r) || unicode.IsPrint(r), "%U in %q", r, text)
	}
}

// However a value with control characters is logged, they are escaped.
type steering string

func (s steering) String() string { return string(s) }

func TestLoggerEscapesFields(t *testing.T) {
	const evil = "\u009b2J"
	var out bytes.Buffer
	encoder := zapcore.NewConsoleEncoder(zapcore.EncoderConfig{MessageKey: "msg", LineEnding: "\n"})
	quiet := zapcore.NewCore(encoder, zapcore.AddSync(&bytes.Buffer{}), zap.ErrorLevel)
	logger := Logger(zap.New(zapcore.NewTee(quiet,
		zapcore.NewCore(encoder, zapcore.AddSync(&out), zap.InfoLevel))))

	fields := []zap.Field{
		zap.String("a", evil), zap.Error(errors.New(evil)), zap.NamedError("b", nil),
		zap.Stringer("c", steering(evil)), zap.Int("n", 1), zap.Any("d", evil),
	}
	logger.With(zap.String("with", evil)).Info("line", fields...)
	logger.Debug("line that nobody wants", fields...)
	logger.WithOptions(zap.WrapCore(func(core zapcore.Core) zapcore.Core {
		return zapcore.NewSamplerWithOptions(core, 1e9, 1, 0)
	})).Info("sampled", fields...)

	require.Equal(t, 9, strings.Count(out.String(), `\\u009b2J`), out.String())
	require.NotContains(t, out.String(), "nobody wants")
	requireHarmless(t, out.String())
	require.Equal(t, evil, fields[0].String, "the caller's own fields were changed")
}

func FuzzEscape(f *testing.F) {
	f.Add([]byte("\x1b[2J\u009b é\xff\u202e"))
	f.Fuzz(func(t *testing.T, text []byte) {
		requireHarmless(t, strings.ReplaceAll(Escape(string(text)), "\n", "no line break"))
		escaped := JSON(text)
		requireHarmless(t, string(escaped))
		if json.Valid(text) {
			require.Equal(t, decode(t, text), decode(t, escaped))
		}
	})
}

// decode keeps numbers as they are written: valid ones may be too large for any type.
func decode(t *testing.T, text []byte) (value any) {
	t.Helper()
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.UseNumber()
	require.NoError(t, decoder.Decode(&value))
	return value
}

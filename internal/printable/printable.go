// Package printable makes text of strangers safe to show in logs and on terminals. A
// terminal takes ESC and the C1 control characters (U+0080 to U+009F) for commands,
// and other characters of Unicode hide text or reverse its order.
package printable

import (
	"fmt"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

// Escape returns text in which what is not printable is escaped as in a Go string:
// control characters, invisible characters, any space but the ASCII one, and bytes
// that are not UTF-8.
func Escape(text string) string {
	if isPlain(text) {
		return text
	}
	var b strings.Builder
	for len(text) > 0 {
		r, size := utf8.DecodeRuneInString(text)
		switch {
		case r == utf8.RuneError && size == 1:
			fmt.Fprintf(&b, `\x%02x`, text[0])
		case unicode.IsPrint(r):
			b.WriteRune(r)
		default:
			quoted := strconv.QuoteRuneToASCII(r)
			b.WriteString(quoted[1 : len(quoted)-1])
		}
		text = text[size:]
	}
	return b.String()
}

// isPlain reports whether text is printable ASCII and nothing else.
func isPlain(text string) bool {
	for i := range len(text) {
		if text[i] < ' ' || text[i] >= 0x7f {
			return false
		}
	}
	return true
}

// JSON returns a JSON text with the same meaning, in whose strings everything that is
// not printable is escaped. Whitespace between them stays.
func JSON(text []byte) []byte {
	var b []byte
	kept := 0 // how much of text is in b, once there is anything to escape
	for i := 0; i < len(text); {
		r, size := utf8.DecodeRune(text[i:])
		if r == '\n' || r == '\r' || r == '\t' ||
			unicode.IsPrint(r) && (r != utf8.RuneError || size > 1) {
			i += size
			continue
		}
		b = append(b, text[kept:i]...)
		for _, unit := range utf16.Encode([]rune{r}) {
			b = fmt.Appendf(b, `\u%04x`, unit)
		}
		i += size
		kept = i
	}
	if kept == 0 {
		return text
	}
	return append(b, text[kept:]...)
}

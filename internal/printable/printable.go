// Package printable shows what strangers wrote, in logs and on terminals, such
// that it cannot steer them: a terminal takes ESC and the C1 control characters
// (U+0080 to U+009F) for commands, and others of Unicode's characters hide text or
// turn it around.
package printable

import (
	"fmt"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

// Escape gives text with what is not printed escaped as in a Go string: control
// characters, invisible ones, any space but the ASCII one, and bytes that are no
// UTF-8.
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

// JSON gives a JSON text that says the same with what is not printed escaped.
// Outside of strings JSON has no such characters but whitespace, which stays.
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

// The search for metadata.extra.callback_secret in JSON that arrives in pieces.

package auth

import (
	"bytes"
	"unicode/utf16"
	"unicode/utf8"
)

// secretPath leads from the top-level object to the secret.
var secretPath = [...]string{"metadata", "extra", "callback_secret"}

// maxSkippedDepth bounds how deep what is skipped may nest. It is what
// encoding/json bounds it to.
const maxSkippedDepth = 10_000

// finding is what a secretScanner has found out.
type finding int

const (
	searching      finding = iota // give it more
	secretFound                   // value holds the string
	secretMissing                 // the object has no such member
	secretUnusable                // it is no string, or too long a one
	malformed                     // this is not a JSON object
)

// secretScanner follows the path to the secret and skips everything else. It
// takes JSON in pieces of any size and keeps nothing of them but the name or the
// value that it is reading, of bounded length.
//
// The first member of a name decides: once it has ended without the secret, the
// answer is known. Around the path the grammar (RFC 8259) is enforced; of what
// is skipped, only the nesting is counted and strings are recognised, since all
// that matters there is where it ends.
type secretScanner struct {
	state scanState
	level int // how many objects of the path are open
	depth int // how many brackets of what is skipped are open

	// the string that is read: a name, or the secret
	value     []byte
	escape    int    // of \uXXXX: how many digits are still to come
	unit      uint16 // and the digits so far
	surrogate rune   // the first half of a surrogate pair, or 0
	tooLong   bool
}

type scanState uint8

const (
	atBegin        scanState = iota
	atFirstName              // after an opening brace
	atName                   // after a comma
	inName                   // in the name of a member
	inNameEscape             // after a backslash in it
	atColon                  // after a name
	atValue                  // after a colon
	inSecret                 // in the string that was searched
	inSecretEscape           // after a backslash in it
	inScalar                 // in a number, true, false, null
	inSkipped                // between brackets
	inString                 // in a string that is skipped
	inStringEscape           // after a backslash in it
	atEnd                    // after a value
)

// scan reads the next piece. Once it has answered anything but searching, it must
// not be called again.
func (s *secretScanner) scan(piece []byte) finding {
	for i := 0; i < len(piece); {
		switch s.state {
		case inString:
			i = s.skipString(piece, i)
			continue
		case inStringEscape:
			// the four digits of \u are skipped like any other characters
			s.state = inString
			i++
			continue
		case inSkipped:
			i = s.skipNested(piece, i)
			if s.depth > maxSkippedDepth {
				return malformed
			}
			continue
		case inName, inNameEscape, inSecret, inSecretEscape:
			ended, ok := s.readString(piece[i])
			if !ok {
				return malformed
			}
			i++
			if s.tooLong && s.state == inSecret {
				return secretUnusable
			}
			if !ended {
				continue
			}
			if s.state == inSecret {
				return secretFound
			}
			s.state = atColon
			continue
		case inScalar:
			if isScalar(piece[i]) {
				i++
				continue
			}
			s.state = atEnd
			continue
		}
		c := piece[i]
		i++
		if c == ' ' || c == '\n' || c == '\t' || c == '\r' {
			continue
		}
		if result := s.step(c); result != searching {
			return result
		}
	}
	return searching
}

// step takes a character that is not whitespace, outside of strings and of what
// is skipped.
func (s *secretScanner) step(c byte) finding {
	switch s.state {
	case atBegin:
		if c != '{' {
			return malformed
		}
		s.open()
	case atFirstName, atName:
		switch {
		case c == '"':
			s.beginString(inName)
		case c == '}' && s.state == atFirstName:
			return secretMissing
		default:
			return malformed
		}
	case atColon:
		if c != ':' {
			return malformed
		}
		s.state = atValue
	case atValue:
		return s.beginValue(c)
	case atEnd:
		switch c {
		case ',':
			s.state = atName
		case '}':
			// the innermost object of the path, the first of its name: no other counts
			return secretMissing
		default:
			return malformed
		}
	}
	return searching
}

func (s *secretScanner) open() {
	s.level++
	s.state = atFirstName
}

func (s *secretScanner) beginValue(c byte) finding {
	scalar := isScalar(c)
	if !scalar && c != '"' && c != '{' && c != '[' {
		return malformed
	}
	if !s.tooLong && string(s.value) == secretPath[s.level-1] {
		return s.beginValueOnPath(c)
	}
	switch {
	case scalar:
		s.state = inScalar
	case c == '"':
		s.state = inString
	default:
		s.depth = 1
		s.state = inSkipped
	}
	return searching
}

func (s *secretScanner) beginValueOnPath(c byte) finding {
	last := s.level == len(secretPath)
	switch {
	case last && c == '"':
		s.beginString(inSecret)
	case last:
		return secretUnusable
	case c == '{':
		s.open()
	default:
		return secretMissing
	}
	return searching
}

// isScalar says whether c can be a part of a number, true, false or null.
func isScalar(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || c == '-' || c == '+' || c == '.' || c == 'E'
}

// skipNested goes to the end of what is skipped, or to the next string in it.
func (s *secretScanner) skipNested(piece []byte, i int) int {
	for ; i < len(piece); i++ {
		switch piece[i] {
		case '"':
			s.state = inString
			return i + 1
		case '{', '[':
			if s.depth++; s.depth > maxSkippedDepth {
				return i
			}
		case '}', ']':
			if s.depth--; s.depth == 0 {
				s.state = atEnd
				return i + 1
			}
		}
	}
	return i
}

// skipString goes to the end of a string that is skipped. Each byte is looked at
// a bounded number of times, whatever the string has in it: the next quote is
// searched again only once it has been passed.
func (s *secretScanner) skipString(piece []byte, i int) int {
	// most strings are short: the search by words only pays beyond that
	for short := min(i+16, len(piece)); i < short; i++ {
		switch piece[i] {
		case '"':
			s.endSkippedString()
			return i + 1
		case '\\':
			s.state = inStringEscape
			return i + 1
		}
	}
	quote := -1
	for i < len(piece) {
		if quote < i {
			if quote = bytes.IndexByte(piece[i:], '"'); quote < 0 {
				quote = len(piece)
			} else {
				quote += i
			}
		}
		backslash := bytes.IndexByte(piece[i:quote], '\\')
		if backslash < 0 {
			if quote < len(piece) {
				s.endSkippedString()
				return quote + 1
			}
			return quote
		}
		i += backslash + 2
	}
	if i > len(piece) {
		s.state = inStringEscape
		return len(piece)
	}
	return i
}

func (s *secretScanner) endSkippedString() {
	s.state = atEnd
	if s.depth > 0 {
		s.state = inSkipped
	}
}

func (s *secretScanner) beginString(state scanState) {
	s.state = state
	s.value = s.value[:0]
	s.escape, s.surrogate, s.tooLong = 0, 0, false
}

// readString takes one byte of a name or of the secret, and says whether the
// string has ended. It decodes as encoding/json does; ok is false for what may
// not stand in a string.
func (s *secretScanner) readString(c byte) (ended, ok bool) {
	switch {
	case s.escape > 0:
		return false, s.readHexDigit(c)
	case s.state == inNameEscape || s.state == inSecretEscape:
		s.state-- // the escape's state follows the string's
		return false, s.readEscape(c)
	case c < ' ':
		return false, false
	case c == '\\':
		s.state++
	case c == '"':
		s.flushSurrogate()
		return true, true
	default:
		s.flushSurrogate()
		s.keep(c)
	}
	return false, true
}

// escapes are the two-character escapes of RFC 8259, section 7.
var escapes = map[byte]byte{
	'"': '"', '\\': '\\', '/': '/', 'b': '\b', 'f': '\f', 'n': '\n', 'r': '\r', 't': '\t',
}

func (s *secretScanner) readEscape(c byte) bool {
	if c == 'u' {
		s.escape, s.unit = 4, 0
		return true
	}
	decoded, known := escapes[c]
	s.flushSurrogate()
	s.keep(decoded)
	return known
}

func (s *secretScanner) readHexDigit(c byte) bool {
	var digit byte
	switch {
	case '0' <= c && c <= '9':
		digit = c - '0'
	case 'a' <= c && c <= 'f':
		digit = c - 'a' + 10
	case 'A' <= c && c <= 'F':
		digit = c - 'A' + 10
	default:
		return false
	}
	s.unit = s.unit<<4 | uint16(digit)
	if s.escape--; s.escape == 0 {
		s.endUnit(rune(s.unit))
	}
	return true
}

// endUnit takes a UTF-16 code unit. Halves of a surrogate pair that stand alone
// become U+FFFD.
func (s *secretScanner) endUnit(unit rune) {
	if s.surrogate != 0 {
		if pair := utf16.DecodeRune(s.surrogate, unit); pair != utf8.RuneError {
			s.surrogate = 0
			s.keepRune(pair)
			return
		}
		s.flushSurrogate()
	}
	if utf16.IsSurrogate(unit) {
		s.surrogate = unit
		return
	}
	s.keepRune(unit)
}

func (s *secretScanner) flushSurrogate() {
	if s.surrogate != 0 {
		s.surrogate = 0
		s.keepRune(utf8.RuneError)
	}
}

func (s *secretScanner) keepRune(r rune) {
	var encoded [utf8.UTFMax]byte
	for _, c := range encoded[:utf8.EncodeRune(encoded[:], r)] {
		s.keep(c)
	}
}

// keep keeps no more than the longest value that could be right.
func (s *secretScanner) keep(c byte) {
	limit := maxCredential
	if s.state == inName || s.state == inNameEscape {
		limit = len(secretPath[len(secretPath)-1]) // the longest name of the path
	}
	if len(s.value) >= limit {
		s.tooLong = true
		return
	}
	s.value = append(s.value, c)
}

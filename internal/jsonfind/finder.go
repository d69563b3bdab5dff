// The search through one document.

package jsonfind

import (
	"bytes"
	"encoding/json"
	"unicode/utf8"
)

// maxDepth is how deep objects and arrays may nest in what is skipped, as in
// encoding/json.
const maxDepth = 10_000

// maxPath is how many names a path may have.
const maxPath = 4

// An Event is why Scan stopped.
type Event uint8

// The events. After End or Malformed, the rest of the document is not looked at.
const (
	More      Event = iota // the piece ends
	Found                  // there is a string at a place
	TooLong                // there is a string at a place, longer than the place's limit
	NotString              // there is something else at a place
	End                    // nothing more can be found
	Malformed              // the document is not a JSON object
)

// A Finder searches one document. Its zero value is of no use: see
// [Search.Finder].
type Finder struct {
	// The place that the last event is about, counted from 0, and for Found the
	// string there. Bytes that are not UTF-8 are replaced by U+FFFD, as in
	// encoding/json.
	Place int
	Text  string

	search  *Search
	state   state
	objects [maxPath]*node // the open objects below the top-level one
	level   int            // how many objects are open, with the top-level one
	member  *node          // the node of the present member, or nil if it is on no path
	decided uint64         // the places at which nothing more can be found
	seen    uint64         // under FirstCounts, the nodes whose name has come already

	depth int // how many brackets are open in what is skipped

	text    []byte // the part of the present name or string that came in earlier pieces
	tooLong bool   // it is longer than its limit
	escaped bool   // the last byte was a backslash that begins an escape
	odd     bool   // it has to be decoded
}

// state is what the next character may be.
type state uint8

const (
	atBegin     state = iota
	atFirstName       // after an opening brace
	atName            // after a comma
	inName            // in the name of a member
	atColon           // after a name
	atValue           // after a colon
	inText            // in a string at a place
	inScalar          // in a number, true, false, null
	inSkipped         // between brackets
	inString          // in a string that is skipped
	atEnd             // after a value
	ended
	malformed
)

// Scan looks through the next piece of the document up to the next event, and
// returns how many bytes of the piece it has looked at. Unless the event is End or
// Malformed, the next call has to begin with the rest.
func (f *Finder) Scan(piece []byte) (n int, event Event) {
	for n < len(piece) {
		switch f.state {
		case inString:
			n = f.skipString(piece, n)
		case inSkipped:
			n = f.skipNested(piece, n)
		case inName:
			n = f.readName(piece, n)
		case inText:
			if n, event = f.readText(piece, n); event != More {
				return n, event
			}
		case inScalar:
			for n < len(piece) && isScalar(piece[n]) {
				n++
			}
			if n < len(piece) {
				f.endValue()
			}
		case ended:
			return n, End
		case malformed:
			return n, Malformed
		default:
			c := piece[n]
			n++
			if c == ' ' || c == '\n' || c == '\t' || c == '\r' {
				continue
			}
			if event = f.step(c); event != More {
				return n, event
			}
		}
	}
	switch f.state {
	case ended:
		return n, End
	case malformed:
		return n, Malformed
	}
	return n, More
}

// Begun reports whether anything but whitespace has come so far.
func (f *Finder) Begun() bool { return f.state != atBegin }

// step handles a character that is not whitespace, outside of strings and of what is
// skipped.
func (f *Finder) step(c byte) Event {
	next := malformed
	switch f.state {
	case atBegin:
		if c == '{' {
			f.level, next = 1, atFirstName
		}
	case atFirstName, atName:
		switch {
		case c == '"':
			f.beginText()
			next = inName
		case c == '}' && f.state == atFirstName:
			return f.close()
		}
	case atColon:
		if c == ':' {
			next = atValue
		}
	case atValue:
		return f.beginValue(c)
	case atEnd:
		switch c {
		case ',':
			next = atName
		case '}':
			return f.close()
		}
	}
	f.state = next
	return More
}

// object is the node of the innermost open object.
func (f *Finder) object() *node {
	if f.level == 1 {
		return &f.search.root
	}
	return f.objects[f.level-2]
}

// close handles the end of the innermost open object.
func (f *Finder) close() Event {
	if f.level == 1 {
		f.state = ended
		return End
	}
	f.member = f.object()
	f.level--
	f.endValue()
	return More
}

// endValue handles the end of a value. Under FirstCounts, what was not found in a
// member will not be found in another of that name.
func (f *Finder) endValue() {
	f.state = atEnd
	if f.member == nil || f.search.repeated == AllCount {
		return
	}
	f.decided |= f.member.leaves
	if f.decided == f.search.root.leaves {
		f.state = ended
	}
}

// beginValue handles the first character of a value. A value at a place that is no
// string is skipped, like those at no place.
func (f *Finder) beginValue(c byte) Event {
	switch {
	case c == '"' && f.member != nil && f.member.leaf():
		f.beginText()
		f.state = inText
		return More
	case c == '"':
		f.escaped = false
		f.state = inString
	case c == '{' && f.member != nil && !f.member.leaf():
		f.objects[f.level-1] = f.member
		f.level++
		f.state = atFirstName
		return More
	case c == '{' || c == '[':
		f.depth = 1
		f.state = inSkipped
	case isScalar(c):
		f.state = inScalar
	default:
		f.state = malformed
		return More
	}
	if f.member != nil && f.member.leaf() {
		f.Place, f.Text = f.member.place, ""
		return NotString
	}
	return More
}

// isScalar reports whether c can be a part of a number, true, false or null.
func isScalar(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || c == '-' || c == '+' || c == '.' || c == 'E'
}

// readName reads a name, or its next part, and finds the node of that name.
func (f *Finder) readName(piece []byte, i int) int {
	next, name, ended := f.collect(piece, i, escapedLength(f.search.longest))
	if !ended {
		return next
	}
	f.state, f.member = atColon, nil
	if f.tooLong {
		return next
	}
	if f.odd {
		decoded, ok := decode(name)
		if !ok {
			f.state = malformed
			return next
		}
		name = []byte(decoded)
	}
	for _, child := range f.object().children {
		if string(name) == child.name && f.counts(child) {
			f.member = child
		}
	}
	return next
}

// counts reports whether this member counts in its object.
func (f *Finder) counts(member *node) bool {
	if f.search.repeated == AllCount {
		return true
	}
	first := f.seen&member.bit == 0
	f.seen |= member.bit
	return first
}

// readText reads a string at a place, or its next part. It looks at no more of it than shows that
// it is too long, however much the piece has: what follows is skipped, with less care.
func (f *Finder) readText(piece []byte, i int) (int, Event) {
	limit := f.member.limit
	piece = piece[:min(len(piece), i+limit-len(f.text)+1)]
	next, text, ended := f.collect(piece, i, limit)
	switch {
	case f.state == malformed:
		return next, More
	case f.tooLong:
		f.Place, f.Text = f.member.place, ""
		f.state = inString
		return next, TooLong
	case !ended:
		return next, More
	}
	f.Place, f.Text = f.member.place, string(text)
	if f.odd {
		decoded, ok := decode(text)
		if !ok {
			f.state = malformed
			return next, More
		}
		f.Text = decoded
	}
	f.endValue()
	return next, Found
}

func (f *Finder) beginText() {
	f.text = f.text[:0]
	f.tooLong, f.escaped, f.odd = false, false, false
}

// collect reads a string up to its end, or to the end of the piece. The text, still
// with its escapes, is valid until the next call. No more than limit bytes are kept.
func (f *Finder) collect(piece []byte, start, limit int) (next int, text []byte, ended bool) {
	for i := start; i < len(piece); i++ {
		c := piece[i]
		switch {
		case c < ' ':
			f.state = malformed
			return i, nil, false
		case f.escaped:
			f.escaped = false
		case c == '\\':
			f.escaped, f.odd = true, true
		case c == '"' && len(f.text) == 0 && !f.tooLong:
			f.tooLong = i-start > limit
			return i + 1, piece[start:i], true
		case c == '"':
			f.keep(piece[start:i], limit)
			return i + 1, f.text, true
		case c >= utf8.RuneSelf:
			f.odd = true
		}
	}
	f.keep(piece[start:], limit)
	return len(piece), nil, false
}

func (f *Finder) keep(part []byte, limit int) {
	if f.tooLong || len(f.text)+len(part) > limit {
		f.tooLong = true
		return
	}
	f.text = append(f.text, part...)
}

// escapedLength is how many bytes a text of n bytes can take in JSON, where each may
// be spelt \u00XX.
func escapedLength(n int) int { return 6 * n }

// decode returns the text of a string without its escapes.
func decode(spelt []byte) (text string, ok bool) {
	quoted := make([]byte, 0, len(spelt)+2)
	quoted = append(append(append(quoted, '"'), spelt...), '"')
	ok = json.Unmarshal(quoted, &text) == nil
	return text, ok
}

// structural marks the characters that matter in what is skipped.
var structural = [256]bool{'"': true, '{': true, '[': true, '}': true, ']': true}

// skipNested goes to the end of what is skipped. It stops earlier at a string that is
// long, has a backslash, or does not end in the piece: skipString handles these.
func (f *Finder) skipNested(piece []byte, i int) int {
	for ; i < len(piece); i++ {
		if !structural[piece[i]] {
			continue
		}
		switch piece[i] {
		case '"':
			end := i + 1
			for end < len(piece) && piece[end] != '"' && piece[end] != '\\' && end-i < shortString {
				end++
			}
			if end == len(piece) || piece[end] != '"' {
				f.escaped = false
				f.state = inString
				return i + 1
			}
			i = end
		case '{', '[':
			if f.depth++; f.depth > maxDepth {
				f.state = malformed
				return i
			}
		default:
			if f.depth--; f.depth == 0 {
				f.endValue()
				return i + 1
			}
		}
	}
	return i
}

// shortString is longer than most strings. For those, looking at each byte is faster
// than the search of skipString.
const shortString = 16

// skipString goes to the end of a string that is skipped. Whatever is in the string, no byte is
// looked at more than a few times: the next quote is searched again only after it has been passed.
func (f *Finder) skipString(piece []byte, i int) int {
	if f.escaped {
		// The four digits behind \u are skipped like any other characters.
		f.escaped = false
		i++
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
				f.endSkippedString()
				return quote + 1
			}
			return quote
		}
		i += backslash + 2
	}
	f.escaped = i > len(piece)
	return len(piece)
}

func (f *Finder) endSkippedString() {
	if f.depth > 0 {
		f.state = inSkipped
		return
	}
	f.endValue()
}

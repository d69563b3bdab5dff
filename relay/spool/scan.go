// Finding the request id in a body that streams by.

package spool

import (
	"encoding/json"
	"slices"
	"unicode/utf8"
)

const (
	maxKeyLength       = 64  // more than any key looked for, escapes included
	maxRequestIDLength = 256 // in the body's own spelling; what is longer is no request id
)

// requestIDScanner finds the request id of a callback while its body streams
// by: metadata.request_id of results, or request_id at the top of an error
// report, whichever comes first. It understands just enough of JSON (RFC 8259) to tell these
// from the same words elsewhere, keeps no more than one short key or
// id, and stops looking once it found one or the body turns out not to be a
// JSON object. It does not validate what it need not.
type requestIDScanner struct {
	state scanState
	id    string

	depth      int  // objects and arrays that are open, counted from 1 for the body itself
	inMetadata bool // the object at depth 2 is the value of "metadata"
	resume     scanState

	token    []byte // the string being collected, without its quotes
	tooLong  bool   // it does not fit, so it is none of ours
	limit    int
	key      string // the last key at an interesting depth
	collects bool   // the value that comes is the request id, if it is a string
	hasType  bool
}

type scanState int

const (
	scanStart   scanState = iota // before the body's opening brace
	scanKey                      // before a key or the end of an object
	scanColon                    // between key and value
	scanValue                    // before a value
	scanAfter                    // after a value
	scanScalar                   // in a number or literal
	scanSkip                     // in a container that holds nothing of interest
	scanKeyText                  // in a key
	scanIDText                   // in the request id
	scanText                     // in any other string
	scanEscape                   // after a backslash in a string
	scanEnd                      // found, or not to be found
)

// Done reports whether the rest of the body makes no difference.
func (s *requestIDScanner) Done() bool { return s.state == scanEnd }

// RequestID returns the id found, or the empty string.
func (s *requestIDScanner) RequestID() string { return s.id }

// HasType reports whether a string called "type" stands at the top of the body, as in every message
// of a live stream. It is not looked for any more once there is a request id.
func (s *requestIDScanner) HasType() bool { return s.hasType }

// Write looks through the next part of the body. It never fails.
func (s *requestIDScanner) Write(part []byte) (int, error) {
	for i := 0; i < len(part) && s.state != scanEnd; {
		i += s.step(part[i:])
	}
	return len(part), nil
}

// step looks at the beginning of p and returns how much of it was dealt with.
func (s *requestIDScanner) step(p []byte) int {
	switch s.state {
	case scanSkip:
		return s.skip(p)
	case scanText, scanKeyText, scanIDText:
		return s.text(p)
	case scanEscape:
		s.collect(p[:1])
		s.state = s.resume
		return 1
	}

	c := p[0]
	if c == ' ' || c == '\t' || c == '\n' || c == '\r' {
		if s.state == scanScalar {
			s.state = scanAfter
		}
		return 1
	}

	switch s.state {
	case scanStart:
		if c != '{' {
			s.state = scanEnd
			break
		}
		s.depth, s.state = 1, scanKey
	case scanKey:
		switch c {
		case '"':
			s.begin(scanKeyText, maxKeyLength)
		case '}':
			s.leave()
		default:
			s.state = scanEnd
		}
	case scanColon:
		s.state = scanValue
		if c != ':' {
			s.state = scanEnd
		}
	case scanValue:
		s.value(c)
	case scanScalar, scanAfter:
		switch c {
		case ',':
			s.state = scanKey
		case '}':
			s.leave()
		case '"', '{', '[', ']', ':':
			s.state = scanEnd
		default:
			if s.state == scanAfter {
				s.state = scanEnd
			}
		}
	}
	return 1
}

// value acts on the first character of a value at an interesting depth.
func (s *requestIDScanner) value(c byte) {
	switch c {
	case '"':
		s.hasType = s.hasType || s.depth == 1 && s.key == "type"
		if s.collects {
			s.begin(scanIDText, maxRequestIDLength)
		} else {
			s.begin(scanText, 0)
		}
	case '{':
		s.depth++
		if s.depth == 2 && s.key == "metadata" {
			s.inMetadata, s.state = true, scanKey
		} else {
			s.state = scanSkip
		}
	case '[':
		s.depth++
		s.state = scanSkip
	case ',', '}', ']', ':':
		s.state = scanEnd
	default:
		s.state = scanScalar
	}
}

// leave closes an interesting object.
func (s *requestIDScanner) leave() {
	s.depth--
	s.inMetadata = false
	s.state = scanAfter
	if s.depth == 0 {
		s.state = scanEnd
	}
}

// structural marks the characters that matter in a container of no interest.
var structural = [256]bool{'"': true, '{': true, '[': true, '}': true, ']': true}

// skip passes over a container without looking at what is in it.
func (s *requestIDScanner) skip(p []byte) int {
	for i := 0; i < len(p); i++ {
		if !structural[p[i]] {
			continue
		}
		switch p[i] {
		case '"':
			end := i + 1
			for end < len(p) && p[end] != '"' && p[end] != '\\' {
				end++
			}
			if end == len(p) || p[end] != '"' {
				s.begin(scanText, 0) // it goes on in the next part, or is not that simple
				return i + 1
			}
			i = end
		case '{', '[':
			s.depth++
		case '}', ']':
			s.depth--
			if s.interesting() {
				s.state = scanAfter
				return i + 1
			}
		}
	}
	return len(p)
}

// interesting reports whether the current depth is one where keys matter.
func (s *requestIDScanner) interesting() bool {
	return s.depth == 1 || s.depth == 2 && s.inMetadata
}

func (s *requestIDScanner) begin(state scanState, limit int) {
	s.state, s.limit, s.tooLong, s.token = state, limit, false, s.token[:0]
}

func (s *requestIDScanner) collect(p []byte) {
	if s.tooLong || len(s.token)+len(p) > s.limit {
		s.tooLong = true
		return
	}
	s.token = append(s.token, p...)
}

// text passes over a string up to its end or the next escape.
func (s *requestIDScanner) text(p []byte) int {
	end := 0
	for end < len(p) && p[end] != '"' && p[end] != '\\' {
		end++
	}
	s.collect(p[:end])
	if end == len(p) {
		return end
	}
	if p[end] == '\\' {
		s.collect(p[end : end+1])
		s.resume, s.state = s.state, scanEscape
		return end + 1
	}

	switch s.state {
	case scanKeyText:
		s.key = s.unquote()
		s.collects = s.key == "request_id"
		s.state = scanColon
	case scanIDText:
		s.state = scanAfter
		if s.id = s.unquote(); s.id != "" {
			s.state = scanEnd
		}
	default:
		s.state = scanAfter
		if !s.interesting() {
			s.state = scanSkip
		}
	}
	return end + 1
}

// unquote returns the string collected, or nothing where it is not one of ours.
func (s *requestIDScanner) unquote() string {
	if s.tooLong {
		return ""
	}
	if !slices.ContainsFunc(s.token, needsUnquoting) {
		return string(s.token)
	}
	var text string
	quoted := append(append([]byte{'"'}, s.token...), '"')
	if json.Unmarshal(quoted, &text) != nil {
		return ""
	}
	return text
}

// needsUnquoting reports whether a byte is more than itself in a string, or not allowed in one.
func needsUnquoting(c byte) bool { return c < ' ' || c == '\\' || c >= utf8.RuneSelf }

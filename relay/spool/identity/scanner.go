package identity

import "github.com/caddy-deepgram/deepgram-callback/internal/jsonfind"

// maxRequestIDLength is in the body's own spelling; what is longer is no request id.
const maxRequestIDLength = 256

// The places that are searched. Of a type it only matters that there is one, so none of it is
// kept.
const (
	placeOfResults = iota // where results have their request id
	placeOfErrors         // where error reports have it
	placeOfType           // where every message of a live stream says what it is
)

var identityPlaces = jsonfind.New(jsonfind.AllCount,
	jsonfind.Place{Path: []string{"metadata", "request_id"}, Limit: maxRequestIDLength},
	jsonfind.Place{Path: []string{"request_id"}, Limit: maxRequestIDLength},
	jsonfind.Place{Path: []string{"type"}, Limit: 0},
)

// Scanner finds the request id of a callback while its body streams by: that of results or that of an
// error report, whichever comes first and is not empty. It stops looking once it found one or the body
// turns out not to be a JSON object.
type Scanner struct {
	finder  jsonfind.Finder
	id      string
	hasType bool
	done    bool
}

// NewScanner makes one, to which a body is to be written.
func NewScanner() *Scanner {
	return &Scanner{finder: identityPlaces.Finder()}
}

// Done reports whether the rest of the body makes no difference.
func (s *Scanner) Done() bool { return s.done }

// RequestID returns the id found, or the empty string.
func (s *Scanner) RequestID() string { return s.id }

// HasType reports whether a string called "type" stands at the top of the body, as in every message
// of a live stream. It is not looked for any more once there is a request id.
func (s *Scanner) HasType() bool { return s.hasType }

// Write looks through the next part of the body. It never fails.
func (s *Scanner) Write(part []byte) (int, error) {
	size := len(part)
	for !s.done {
		n, event := s.finder.Scan(part)
		part = part[n:]
		switch event {
		case jsonfind.More:
			return size, nil
		case jsonfind.Found, jsonfind.TooLong:
			s.found(event)
		case jsonfind.End, jsonfind.Malformed:
			s.done = true
		}
	}
	return size, nil
}

// found takes a string at one of the places.
func (s *Scanner) found(event jsonfind.Event) {
	if s.finder.Place == placeOfType {
		s.hasType = true
		return
	}
	if event == jsonfind.Found && s.finder.Text != "" {
		s.id, s.done = s.finder.Text, true
	}
}

package app

import (
	"strings"
	"sync"
	"time"

	"github.com/caddy-deepgram/deepgram-callback/internal/printable"
)

// RefusalList remembers the last refusals, in a memory that does not grow,
// whatever strangers send.
type RefusalList struct {
	// Hour counts those of the last hour by their reasons.
	Hour Hour[string]

	mu   sync.Mutex
	last ring[Refusal]
}

// A Refusal is a callback that was refused. Strangers write most of it.
type Refusal struct {
	At       time.Time
	Reason   string // one of Reasons
	Status   int    // of the answer
	Kind     string // batch or stream
	Method   string
	Host     string
	Path     string
	ClientIP string
	Size     int64 // of the body, as it was declared; less than zero where it was not
}

// Note counts a refusal and remembers it. It returns what is remembered: texts that are not too
// long, and hold no credentials.
func (l *RefusalList) Note(r Refusal) Refusal {
	CountRequest(r.Kind, r.Reason)
	l.Hour.Add(r.Reason)
	r.Method = clip(r.Method, maxMethod)
	r.Host = clip(withoutUserinfo(r.Host), maxHost)
	r.Path = clip(withoutQuery(r.Path), maxPath)
	r.ClientIP = clip(r.ClientIP, maxClientIP)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.last.add(r)
	return r
}

// List returns the last refusals, the newest first, with their texts made printable: here and not
// before, as that takes longer than to refuse.
func (l *RefusalList) List() []Refusal {
	l.mu.Lock()
	list := l.last.newestFirst()
	l.mu.Unlock()
	for i := range list {
		r := &list[i]
		r.Method, r.Host = printable.Escape(r.Method), printable.Escape(r.Host)
		r.Path, r.ClientIP = printable.Escape(r.Path), printable.Escape(r.ClientIP)
	}
	return list
}

// How many bytes are kept of what can be longer only where somebody plays with it: the longest
// registered method has 17, a host's name 253 (RFC 1035, section 2.3.4) and its port 6.
const (
	maxMethod   = 32
	maxHost     = 260
	maxClientIP = 64
)

// withoutUserinfo takes off what net/http tolerates in a Host field.
func withoutUserinfo(host string) string { return host[strings.LastIndexByte(host, '@')+1:] }

// withoutQuery cuts a path where a query begins whose question mark was escaped, once or more
// often: who escapes a callback URL too often has the secret of its query in the path.
func withoutQuery(path string) string {
	for i := range len(path) {
		if path[i] == '?' || path[i] == '%' && isQuestionMark(path[i+1:]) {
			return path[:i]
		}
	}
	return path
}

// isQuestionMark reports whether what follows a percent sign makes it an escaped question mark.
func isQuestionMark(digits string) bool {
	for strings.HasPrefix(digits, "25") { // the percent sign itself was escaped
		digits = digits[2:]
	}
	return strings.HasPrefix(digits, "3F") || strings.HasPrefix(digits, "3f")
}

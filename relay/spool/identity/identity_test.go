package identity

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func orderOf(o OrderBy, c Callback, body string) uint64 {
	scanner := NewScanner()
	_, _ = scanner.Write([]byte(body))
	return o.Key(c, scanner)
}

func TestWhichMessagesAreOneSequence(t *testing.T) {
	const (
		id    = `{"metadata":{"request_id":"r"}}`
		event = `{"type":"UtteranceEnd","channel":[0,1]}`
		audio = "RIFF"
	)
	a := Callback{Host: "h", User: "u", URI: "/c?x=1"}
	elsewhere, other, stranger := a, a, a
	elsewhere.URI, other.Host, stranger.User = "/c?x=2", "other", "stranger"
	type message struct {
		Callback
		body string
	}
	for _, c := range []struct {
		order OrderBy
		a, b  message
		same  bool
	}{
		{OrderByRequestID, message{a, id}, message{a, id}, true},
		{OrderByRequestID, message{a, id}, message{elsewhere, id}, true},
		{OrderByRequestID, message{a, id}, message{other, id}, false},
		{OrderByRequestID, message{a, id}, message{stranger, id}, false},
		{OrderByRequestID, message{a, id}, message{a, `{"request_id":"s"}`}, false},
		{OrderByRequestID, message{a, id}, message{a, event}, false},
		{OrderByRequestID, message{a, event}, message{a, event}, true},
		{OrderByRequestID, message{a, event}, message{a, `{"channel":{},"type":"SpeechStarted"}`}, true},
		{OrderByRequestID, message{a, event}, message{elsewhere, event}, false},
		{OrderByRequestID, message{a, event}, message{other, event}, false},
		{OrderByRequestID, message{a, event}, message{stranger, event}, false},
		{OrderByRequestID, message{a, audio}, message{a, audio}, false},
		{OrderByRequestID, message{a, ""}, message{a, ""}, false},
		{OrderByRequestID, message{a, `{"type":7}`}, message{a, `{"type":7}`}, false},
		{OrderByRequestID, message{a, `{"x":{"type":"y"}}`}, message{a, `{"x":{"type":"y"}}`}, false},
		{OrderByRequestID, message{a, `[{"type":"y"}]`}, message{a, `[{"type":"y"}]`}, false},
		{OrderByURI, message{a, id}, message{a, event}, true},
		{OrderByURI, message{a, audio}, message{a, event}, true},
		{OrderByURI, message{a, id}, message{elsewhere, id}, false},
		{OrderByURI, message{a, id}, message{other, id}, false},
		{OrderByURI, message{a, id}, message{stranger, id}, false},
		{OrderByNone, message{a, id}, message{a, id}, false},
		{OrderByNone, message{a, event}, message{a, event}, false},
	} {
		key := orderOf(c.order, c.a.Callback, c.a.body)
		same := key == orderOf(c.order, c.b.Callback, c.b.body)
		require.Equal(t, c.same, same && key != 0, "%s: %v and %v", c.order, c.a, c.b)
	}
}

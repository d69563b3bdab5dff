package spool

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func orderOf(o OrderBy, e Envelope, body string) uint64 {
	scanner := newRequestIDScanner()
	_, _ = scanner.Write([]byte(body))
	return o.key(e, scanner)
}

func TestWhichMessagesAreOneSequence(t *testing.T) {
	const (
		id    = `{"metadata":{"request_id":"r"}}`
		event = `{"type":"UtteranceEnd","channel":[0,1]}`
		audio = "RIFF"
	)
	a := Envelope{Host: "h", User: "u", URI: "/c?x=1"}
	elsewhere, other, stranger := a, a, a
	elsewhere.URI, other.Host, stranger.User = "/c?x=2", "other", "stranger"
	type message struct {
		Envelope
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
		key := orderOf(c.order, c.a.Envelope, c.a.body)
		same := key == orderOf(c.order, c.b.Envelope, c.b.body)
		require.Equal(t, c.same, same && key != 0, "%s: %v and %v", c.order, c.a, c.b)
	}
}

func TestDestinationsAreOfAHostAndAPath(t *testing.T) {
	d := destinationOf("h", "/c?x")
	require.Equal(t, d, destinationOf("H", "/c?y"))
	require.NotEqual(t, d, destinationOf("h", "/d"))
	require.NotEqual(t, d, destinationOf("i", "/c"))
	require.Equal(t, d.Host(), destinationOf("h", "/d").Host())
	require.NotEqual(t, d.Host(), destinationOf("i", "/c").Host())
}

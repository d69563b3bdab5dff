package storetest

import (
	"bytes"
	"cmp"
	"slices"

	"github.com/stretchr/testify/require"

	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
)

var streams = map[string]func(*harness){
	"a stream is lost when its store was closed":   closedLosesStreams,
	"a stream is lost when its process died":       deadLoseStreams,
	"of a stream that was forgotten nothing stays": forgottenStreams,
}

// sampleStreams have in them what could be mistaken for something else.
func sampleStreams() []spool.OpenStream {
	return []spool.OpenStream{
		{ID: "0d5c", Route: route, Data: []byte("{}")},
		{ID: "1f2a", Route: "127.0.0.1:9000,[::1]:9000", Data: bytes.Repeat([]byte("\x00\xff\x80"), 20_000)},
		{ID: "2b", Route: "", Data: []byte{0}},
	}
}

func (h *harness) note(streams []spool.OpenStream) {
	h.Helper()
	for _, stream := range streams {
		require.NoError(h, h.NoteStream(h.background(), stream))
	}
}

// requireLost waits until these streams are lost.
func (h *harness) requireLost(want []spool.OpenStream) {
	h.Helper()
	var got []spool.OpenStream
	eventually(h, func() bool {
		var err error
		got, err = h.LostStreams(h.background())
		require.NoError(h, err)
		return len(got) >= len(want)
	})
	slices.SortFunc(got, func(a, b spool.OpenStream) int { return cmp.Compare(a.ID, b.ID) })
	require.Equal(h, want, got)
}

func (h *harness) requireNoneLost() {
	h.Helper()
	lost, err := h.LostStreams(h.background())
	require.NoError(h, err)
	require.Empty(h, lost)
}

func closedLosesStreams(h *harness) {
	h.note(sampleStreams())
	h.requireNoneLost()
	h.reopen()
	h.note([]spool.OpenStream{{ID: "of this process", Data: []byte("a")}})
	h.requireLost(sampleStreams())
	h.requireLost(sampleStreams()) // until they are forgotten
}

func deadLoseStreams(h *harness) {
	if h.factory.Abandon == nil {
		h.Skip("this store cannot be abandoned")
	}
	h.note(sampleStreams())
	h.factory.Abandon(h.Store)
	h.start()
	h.requireLost(sampleStreams())
	h.acceptMany(2, 1)
	h.requireLost(sampleStreams())
}

func forgottenStreams(h *harness) {
	all := sampleStreams()
	h.note(all)
	require.NoError(h, h.ForgetStream(h.background(), all[0].ID))
	require.NoError(h, h.ForgetStream(h.background(), all[0].ID), "once more does nothing")
	h.reopen()
	h.requireLost(all[1:])
	for _, stream := range all {
		require.NoError(h, h.ForgetStream(h.background(), stream.ID))
	}
	h.requireNoneLost()
	h.reopen()
	h.accept(sample{text: "a"})
	h.requireNoneLost()
}

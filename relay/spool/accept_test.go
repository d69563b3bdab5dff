package spool_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/storetest/memory"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var errConnect = errors.New("connection refused")

// newInbox makes an inbox that is closed with the test.
func newInbox(t testing.TB, store spool.Store) *spool.Inbox {
	t.Helper()
	in := spool.New(store, spool.Hooks{})
	t.Cleanup(func() { require.NoError(t, in.Close(context.Background())) })
	return in
}

func accept(t testing.TB, in *spool.Inbox, body string) spool.Receipt {
	t.Helper()
	envelope := spool.Envelope{Route: "r", Method: "POST", URI: "/hook", ContentLength: -1}
	receipt, err := in.Accept(context.Background(), envelope, strings.NewReader(body))
	require.NoError(t, err)
	return receipt
}

// result is a body with a request id.
func result(id, text string) string {
	return fmt.Sprintf(`{"metadata":{"request_id":%q},"text":%q}`, id, text)
}

func stats(t testing.TB, in *spool.Inbox) spool.Stats {
	t.Helper()
	stats, err := in.Stats(context.Background())
	require.NoError(t, err)
	return stats
}

// What has no request id is an event of its own, however equal its bytes.
func TestWhatDoesNotSayWhoItIsIsNoDuplicate(t *testing.T) {
	in := newInbox(t, memory.NewPlace().Open())
	for body, duplicate := range map[string]bool{
		`{"type":"UtteranceEnd","last_word_end":1.175}`: false,
		"RIFF":                              false,
		"":                                  false,
		`{"err_code":"E","request_id":"r"}`: true,
	} {
		first, second := accept(t, in, body), accept(t, in, body)
		require.Equal(t, duplicate, second.Duplicate, body)
		require.Equal(t, duplicate, first.ID == second.ID, body)
	}
	require.EqualValues(t, 1, stats(t, in).Fingerprints, "nothing is kept for what is never compared")
}

// atEnd is an empty reader that does something when it is read.
type atEnd func()

func (f atEnd) Read([]byte) (int, error) {
	f()
	return 0, io.EOF
}

// The message is on its way to the disk, so it would be wrong to say that it was refused.
func TestTheEndOfItsContextDoesNotUndoAMessageThatCameWhole(t *testing.T) {
	in := newInbox(t, memory.NewPlace().Open())
	for range 50 {
		ctx, cancel := context.WithCancel(t.Context())
		body := io.MultiReader(strings.NewReader("x"), atEnd(cancel))
		_, err := in.Accept(ctx, spool.Envelope{Route: "r", Method: "POST", URI: "/"}, body)
		require.NoError(t, err)
	}
	require.Equal(t, int64(50), stats(t, in).Pending)
}

func TestTheUserIsKept(t *testing.T) {
	in := newInbox(t, memory.NewPlace().Open())
	receipt, err := in.Accept(
		t.Context(),
		spool.Envelope{Route: "r", Method: "POST", URI: "/", User: "deepgram"},
		strings.NewReader("x"),
	)
	require.NoError(t, err)
	msg, err := in.Get(context.Background(), receipt.ID)
	require.NoError(t, err)
	require.Equal(t, "deepgram", msg.User)
}

package record

import (
	"bytes"
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
)

func FuzzMeta(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte{metaVersion})
	f.Add([]byte{metaVersion, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1})
	message := spool.Message{
		Method: "POST", URI: "/a?b", RequestID: "id", User: "u", ReceivedAt: time.Unix(1, 2),
		Header: http.Header{"A": {"1", ""}, "": nil},
	}
	f.Add(EncodeMeta(&message))
	f.Add(EncodeImportedMeta(&message))
	f.Fuzz(func(t *testing.T, b []byte) {
		var m spool.Message
		if err := decodeMeta(b, &m); err != nil {
			require.ErrorIs(t, err, errMeta)
			return
		}
		// What can be read is written again as what reads the same.
		encode := EncodeMeta
		if b[0] == metaVersionImported {
			encode = EncodeImportedMeta
		}
		var again spool.Message
		require.NoError(t, decodeMeta(encode(&m), &again))
		require.Equal(t, m, again)
		if len(m.Header) < 2 && bytes.Equal(b, encode(&m)) {
			require.Error(t, decodeMeta(append(b, 0), &again), "nothing is left over")
		}
	})
}

func FuzzAttempts(f *testing.F) {
	f.Add(`null`)
	f.Add(`[]`)
	f.Add(`{"at":1}`)
	f.Add(`[{"at":"2026-01-02T03:04:05Z","took":5,"status":500,"error":"no","gateway":"g"}]`)
	f.Add(`[{"took":1e99}]`)
	f.Add("[" + strings.Repeat(`{"status":1},`, 30) + `{}]`)
	f.Fuzz(func(t *testing.T, text string) {
		at := time.Unix(1, 0).UTC()
		attempts := decodeAttempts(text, at)
		require.LessOrEqual(t, len(attempts), spool.MaxAttempts)
		if !json.Valid([]byte(text)) {
			require.Equal(t, []spool.Attempt{{At: at, Error: errHistory}}, attempts)
		}
		encoded, err := EncodeAttempts(attempts)
		if err != nil { // a time that JSON does not take
			return
		}
		if encoded != nil {
			require.Len(t, decodeAttempts(*encoded, at), len(attempts))
		}
	})
}

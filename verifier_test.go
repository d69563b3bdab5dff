package callback_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-deepgram/deepgram-callback/relay/spool/webhook"
)

// verifierCall is a program that prints, for each delivery, whether the verifier in the documents
// takes it.
const verifierCall = `
import { readFileSync } from "node:fs";
const deliveries = JSON.parse(readFileSync(0, "utf8"));
const taken = (d) => verify(d.secret, d.headers, Buffer.from(d.body, "base64"));
console.log(JSON.stringify(deliveries.map(taken)));
`

// signedDelivery is a signed delivery, as a service gets it.
type signedDelivery struct {
	Secret  string            `json:"secret"`
	Headers map[string]string `json:"headers"`
	Body    []byte            `json:"body"`
}

func TestTheQuotedVerifierTakesWhatTheInboxSigns(t *testing.T) {
	node, err := exec.LookPath("node")
	if err != nil {
		t.Skip("node is not installed")
	}
	quoted := fences(documents(t)["docs/inbox.md"], "js")
	require.Len(t, quoted, 1)
	file := filepath.Join(t.TempDir(), "verifier.mjs")
	for _, script := range quoted {
		require.NoError(t, os.WriteFile(file, []byte(script+verifierCall), 0o600))
	}

	secret := func(of byte) string {
		return "whsec_" + base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{of}, 32))
	}
	signed := func(body []byte, now time.Time) signedDelivery {
		signer, err := webhook.NewSigner(secret(1), secret(2)) // a new secret and the one before
		require.NoError(t, err)
		header := make(http.Header)
		require.NoError(t, signer.Sign(header, "a message", bytes.NewReader(body), now))
		delivery := signedDelivery{Secret: secret(2), Headers: make(map[string]string), Body: body}
		for name := range header {
			delivery.Headers[strings.ToLower(name)] = header.Get(name)
		}
		return delivery
	}
	audio := []byte{0xff, 0xfb, 0x90, 0xc4, 0, 0x80} // no UTF-8
	changed := signed(audio, time.Now())
	changed.Body = append(bytes.Clone(audio), 0)
	stranger := signed(audio, time.Now())
	stranger.Secret = secret(3)
	deliveries, err := json.Marshal([]signedDelivery{
		signed(audio, time.Now()), signed([]byte(`{"a": "ü"}`), time.Now()),
		changed, stranger, signed(audio, time.Now().Add(-time.Hour)),
	})
	require.NoError(t, err)

	command := exec.CommandContext(t.Context(), node, file)
	command.Stdin = bytes.NewReader(deliveries)
	output, err := command.CombinedOutput()
	require.NoError(t, err, string(output))
	require.JSONEq(t, `[true, true, false, false, false]`, string(output))
}

package auth

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/require"

	"github.com/caddy-deepgram/deepgram-callback/internal/bodytest"
)

func bodyPolicy(t testing.TB) *Policy {
	return mustProvision(t, `{"callback_secret":["old-secret-of-2025","new \u00e9-secret-of-2026"]}`)
}

// used is how much of the room is taken, of all bodies.
func (r *room) used() int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return roomSize - r.free
}

// verifyBody is VerifyBody for a request that is nothing but its body.
func verifyBody(p *Policy, body io.ReadCloser) (io.ReadCloser, error) {
	r := request(http.MethodPost, "/")
	r.Body = body
	err := p.VerifyBody(httptest.NewRecorder(), r)
	return r.Body, err
}

// trackedBody tells whether it was closed, and how much of it was read.
type trackedBody struct {
	io.Reader
	read   int
	closed bool
}

func (b *trackedBody) Read(p []byte) (int, error) {
	n, err := b.Reader.Read(p)
	b.read += n
	return n, err
}

func (b *trackedBody) Close() error {
	b.closed = true
	return nil
}

// filler is a member of a top-level object, of about n bytes.
func filler(n int) string {
	return `"filler":"` + strings.Repeat(`0123456\"`, n/9) + `",`
}

const rightMetadata = `"metadata":{"request_id":"1",` +
	`"extra":{"callback_secret":"new é-secret-of-2026"}}`

func TestVerifyBodyYieldsEveryByte(t *testing.T) {
	p := bodyPolicy(t)
	for name, body := range map[string]string{
		"metadata first":                 `{` + rightMetadata + `,` + filler(300_000) + `"end":1}`,
		"metadata last, small":           `{` + filler(1000) + rightMetadata + `}`,
		"metadata last, as first reads":  `{` + filler(firstRead-80) + rightMetadata + `}`,
		"metadata last, as memory holds": `{` + filler(maxBodyMemory-80) + rightMetadata + `}`,
		"metadata last, one file":        `{` + filler(maxBodyMemory+1000) + rightMetadata + `}`,
		"metadata last, long":            `{` + filler(1_000_000) + rightMetadata + `}` + "\n",
		"metadata in the middle": `{` + filler(500_000) + rightMetadata + `,` +
			filler(500_000) + `"end":1}`,
	} {
		for reader, wrap := range map[string]func(io.Reader) io.Reader{
			"whole":    func(r io.Reader) io.Reader { return r },
			"halves":   iotest.HalfReader,
			"data+EOF": iotest.DataErrReader,
		} {
			t.Run(name+", "+reader, func(t *testing.T) {
				original := &trackedBody{Reader: wrap(strings.NewReader(body))}
				verified, err := verifyBody(p, original)
				require.NoError(t, err)
				require.False(t, original.closed)
				got, err := io.ReadAll(iotest.OneByteReader(io.LimitReader(verified, 10)))
				require.NoError(t, err)
				rest, err := io.ReadAll(verified)
				require.NoError(t, err)
				require.True(t, body == string(got)+string(rest), "the body was changed")
				require.NoError(t, verified.Close())
				require.True(t, original.closed)
				require.Zero(t, bodyRoom.used())
			})
		}
	}
}

func TestVerifyBodyByteByByte(t *testing.T) {
	body := `{` + filler(10_000) + rightMetadata + `}`
	verified, err := verifyBody(bodyPolicy(t),
		io.NopCloser(iotest.OneByteReader(strings.NewReader(body))))
	require.NoError(t, err)
	require.NoError(t, iotest.TestReader(verified, []byte(body)))
}

func TestVerifyBodyReadsNoFurtherThanTheSecret(t *testing.T) {
	body := `{` + rightMetadata + `,` + filler(1_000_000) + `"end":1}`
	original := &trackedBody{Reader: strings.NewReader(body)}
	verified, err := verifyBody(bodyPolicy(t), original)
	require.NoError(t, err)
	require.LessOrEqual(t, original.read, firstRead)
	got, err := io.ReadAll(verified)
	require.NoError(t, err)
	require.Equal(t, len(body), len(got))
}

func TestVerifyBodyRefuses(t *testing.T) {
	p := bodyPolicy(t)
	for name, test := range map[string]struct{ body, reason string }{
		"nothing":         {"", ReasonCallbackSecretMissing},
		"only whitespace": {" \r\n", ReasonCallbackSecretMissing},
		"no secret":       {`{"metadata":{"request_id":"1"},"results":{}}`, ReasonCallbackSecretMissing},
		"a wrong secret": {`{"metadata":{"extra":{"callback_secret":"sesame"}}}`,
			ReasonCallbackSecretWrong},
		"an empty secret": {`{"metadata":{"extra":{"callback_secret":""}}}`, ReasonCallbackSecretWrong},
		"a secret that begins so": {`{"metadata":{"extra":{"callback_secret":"old-secret-of-202"}}}`,
			ReasonCallbackSecretWrong},
		"a secret and more": {
			`{"metadata":{"extra":{"callback_secret":"old-secret-of-2025 "}}}`, ReasonCallbackSecretWrong,
		},
		"a secret that is a number": {`{"metadata":{"extra":{"callback_secret":1}}}`,
			ReasonCallbackSecretWrong},
		"not JSON": {"RIFF....WAVE", ReasonCallbackSecretNotJSON},
		"truncated": {`{"metadata":{"extra":{"callback_secret":"old-secret-of-2025`,
			ReasonCallbackSecretNotJSON},
		"a large body without":    {`{` + filler(1_000_000) + `"end":1}`, ReasonCallbackSecretMissing},
		"a large body, truncated": {`{` + filler(1_000_000), ReasonCallbackSecretNotJSON},
	} {
		t.Run(name, func(t *testing.T) {
			original := &trackedBody{Reader: strings.NewReader(test.body)}
			_, err := verifyBody(p, original)
			refused := refusal(t, err)
			require.Equal(t, http.StatusUnauthorized, refused.Status)
			require.Equal(t, test.reason, refused.Reason)
			require.Equal(t, []string{`DeepgramCallback realm="restricted"`}, refused.Challenges)
			require.NotContains(t, fmt.Sprintf("%+v %#v", err, err), "sesame")
			require.False(t, original.closed)
			require.Zero(t, bodyRoom.used())

			if test.body == " \r\n" {
				return // as a message, it is there
			}
			require.Equal(t, test.reason, refusal(t, p.VerifyMessage([]byte(test.body))).Reason)
		})
	}
}

func TestVerifyMessage(t *testing.T) {
	p := bodyPolicy(t)
	require.NoError(t, p.VerifyMessage([]byte(`{"type":"Results",`+rightMetadata+`}`)))
	require.NoError(t,
		p.VerifyMessage([]byte(`{"metadata":{"extra":{"callback_secret":"\u006fld-secret-of-2025"}}}`)))
	require.Equal(t, ReasonCallbackSecretMissing,
		refusal(t, p.VerifyMessage([]byte(`{"type":"UtteranceEnd"}`))).Reason)
}

func TestWithoutACallbackSecretBodiesAreLeftAlone(t *testing.T) {
	p := mustProvision(t, `{"anonymous":true}`)
	original := &trackedBody{Reader: strings.NewReader("RIFF")}
	verified, err := verifyBody(p, original)
	require.NoError(t, err)
	require.Same(t, original, verified)
	require.Zero(t, original.read)
	require.NoError(t, p.VerifyMessage([]byte("RIFF")))
}

func TestVerifyBodyWrapsTheErrorOfTheBody(t *testing.T) {
	p := bodyPolicy(t)
	limited := http.MaxBytesReader(httptest.NewRecorder(),
		io.NopCloser(strings.NewReader(`{`+filler(200_000)+rightMetadata+`}`)), 100_000)
	_, err := verifyBody(p, limited)
	tooLarge, ok := errors.AsType[*http.MaxBytesError](err)
	require.True(t, ok, "%v", err)
	require.EqualValues(t, 100_000, tooLarge.Limit)
	require.Zero(t, bodyRoom.used())

	broken := errors.New("broken")
	_, err = verifyBody(p,
		io.NopCloser(io.MultiReader(strings.NewReader("{"), iotest.ErrReader(broken))))
	require.ErrorIs(t, err, broken)

	_, err = verifyBody(p, io.NopCloser(noProgress{}))
	require.ErrorIs(t, err, io.ErrNoProgress)
}

type noProgress struct{}

func (noProgress) Read([]byte) (int, error) { return 0, nil }

func TestAnErrorAfterTheSecretComesWhereItCame(t *testing.T) {
	broken := errors.New("broken")
	text := `{` + rightMetadata + `,"results"`
	for name, reader := range map[string]io.Reader{
		"only once":      &onceBroken{text: text, err: broken},
		"after the data": io.MultiReader(strings.NewReader(text), iotest.ErrReader(broken)),
		"with the data": iotest.DataErrReader(io.MultiReader(strings.NewReader(text),
			iotest.ErrReader(broken))),
	} {
		t.Run(name, func(t *testing.T) {
			verified, err := verifyBody(bodyPolicy(t), io.NopCloser(reader))
			require.NoError(t, err)
			got, err := io.ReadAll(verified)
			require.Equal(t, text, string(got))
			require.ErrorIs(t, err, broken)
		})
	}
}

// onceBroken gives its text together with an error, and then ends as if there had
// been none.
type onceBroken struct {
	text string
	err  error
}

func (b *onceBroken) Read(p []byte) (int, error) {
	if b.text == "" {
		return 0, io.EOF
	}
	n := copy(p, b.text)
	b.text = b.text[n:]
	return n, b.err
}

func TestTheFileOfABodyIsReleasedOnceItIsRead(t *testing.T) {
	verified, err := verifyBody(bodyPolicy(t),
		io.NopCloser(strings.NewReader(`{`+filler(200_000)+rightMetadata+`}`)))
	require.NoError(t, err)
	require.Positive(t, bodyRoom.used())
	_, err = io.Copy(io.Discard, verified)
	require.NoError(t, err)
	require.Zero(t, bodyRoom.used())
	require.NoError(t, verified.Close())
}

// temporaryFolder is where the test's bodies are kept.
func temporaryFolder(t *testing.T) string {
	folder := t.TempDir()
	t.Setenv("TMPDIR", folder)
	if os.TempDir() != folder {
		t.Skip("the folder for temporary files cannot be set here")
	}
	return folder
}

func TestTheFileOfABodyIsGoneOnceItIsOpen(t *testing.T) {
	folder := temporaryFolder(t)
	verified, err := verifyBody(bodyPolicy(t),
		io.NopCloser(strings.NewReader(`{`+filler(200_000)+rightMetadata+`}`)))
	require.NoError(t, err)
	require.Positive(t, bodyRoom.used())
	entries, err := os.ReadDir(folder)
	require.NoError(t, err)
	require.Empty(t, entries)

	require.NoError(t, verified.Close())
	require.NoError(t, verified.Close())
	require.Zero(t, bodyRoom.used())
	_, err = verified.Read(make([]byte, 1))
	require.ErrorIs(t, err, os.ErrClosed)
}

func TestWithoutRoomForABodyTheSenderIsToldToRetry(t *testing.T) {
	body := `{` + filler(200_000) + rightMetadata + `}`
	verify := func() *Refusal {
		_, err := verifyBody(bodyPolicy(t), io.NopCloser(strings.NewReader(body)))
		refused := refusal(t, err)
		require.Equal(t, http.StatusServiceUnavailable, refused.Status)
		require.Equal(t, ReasonCallbackSecretStorage, refused.Reason)
		require.Positive(t, refused.RetryAfter)
		return refused
	}
	full := share{of: bodyRoom, address: netip.MustParsePrefix("198.51.100.1/32")}
	full.of.free -= roomSize - 100_000
	require.ErrorIs(t, verify(), errNoShare)
	full.of.free -= 70_000
	require.ErrorIs(t, verify(), errNoRoom)
	full.of.free += roomSize - 30_000
	require.Zero(t, bodyRoom.used())

	folder := temporaryFolder(t)
	require.NoError(t, os.Remove(folder))
	require.ErrorIs(t, verify(), os.ErrNotExist)
	require.NoError(t, os.Mkdir(folder, 0o700))
}

func TestVerifyBodyOfSentCallbacks(t *testing.T) {
	p := bodyPolicy(t)
	for name, body := range bodytest.Sent(t, "*.json") {
		t.Run(name, func(t *testing.T) {
			_, err := verifyBody(p, io.NopCloser(bytes.NewReader(body)))
			require.Equal(t, ReasonCallbackSecretMissing, refusal(t, err).Reason)
			start := bytes.Index(body, []byte(`"metadata"`))
			brace := start + bytes.IndexByte(body[start:], '{') + 1
			spliced := string(body[:brace]) +
				` "extra" : { "callback_secret": "old-secret-of-2025" },` + string(body[brace:])
			verified, err := verifyBody(p, io.NopCloser(strings.NewReader(spliced)))
			require.NoError(t, err)
			got, err := io.ReadAll(verified)
			require.NoError(t, err)
			require.Equal(t, spliced, string(got))
		})
	}
}

func FuzzVerifyBody(f *testing.F) {
	p := bodyPolicy(f)
	f.Add([]byte(`{`+rightMetadata+`,"results":[]}`), uint16(0))
	f.Add([]byte(`{"results":[1,{"a":"b"}],`+rightMetadata+`}`), uint16(5000))
	f.Add([]byte(`{"metadata":{"extra":{"callback_secret":"sesame"}}}`), uint16(3000))
	f.Fuzz(func(t *testing.T, document []byte, padding uint16) {
		// whitespace takes the document over every size at which memory grows
		body := append(bytes.Repeat([]byte{' '}, 2*int(padding)), document...)
		verified, err := verifyBody(p, io.NopCloser(bytes.NewReader(body)))
		inMessage := p.VerifyMessage(body)
		require.Equal(t, inMessage == nil, err == nil)
		if err != nil {
			_ = refusal(t, err)
			return
		}
		got, err := io.ReadAll(verified)
		require.NoError(t, err)
		require.True(t, bytes.Equal(body, got))
		require.NoError(t, verified.Close())
	})
}

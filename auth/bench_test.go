package auth

import (
	"io"
	"net/http"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/caddy-deepgram/deepgram-callback/internal/bodytest"
)

// benchmarkAdmit admits the same request again and again, and requires the
// reason every time.
func benchmarkAdmit(b *testing.B, p *Policy, r *http.Request, reason string) {
	admit := func() {
		_, err := p.Admit(r)
		if err == nil && reason == "" {
			return
		}
		if refused, ok := err.(*Refusal); !ok || refused.Reason != reason {
			b.Fatal(err)
		}
	}
	admit() // it is hashed and remembered here
	b.ReportAllocs()
	for b.Loop() {
		admit()
	}
}

func BenchmarkAdmitRecognised(b *testing.B) {
	p, _ := countingPolicy(b, "")
	r := request("POST", "/")
	r.SetBasicAuth("alice", "right")
	benchmarkAdmit(b, p, r, "")
}

func BenchmarkAdmitPlain(b *testing.B) {
	p := mustProvision(b, "{"+plainConfig+"}")
	r := request("POST", "/")
	r.SetBasicAuth("alice", longPassword)
	benchmarkAdmit(b, p, r, "")
}

func BenchmarkAdmitToken(b *testing.B) {
	p := mustProvision(b, `{"dg_token":{"key_ids":["8d8f1e0c-7a53-4a55-b7a9-1fd3c8a3f7b1"]}}`)
	r := request("POST", "/")
	r.Header.Set("dg-token", "8d8f1e0c-7a53-4a55-b7a9-1fd3c8a3f7b1")
	benchmarkAdmit(b, p, r, "")
}

func BenchmarkAdmitEverythingInHeaderAndQuery(b *testing.B) {
	p, _ := countingPolicy(b,
		`"dg_token":{"key_ids":["51f1ad0b-4c3f-4d0e-9f61-0123456789a1"]},`+
			`"query_secret":{"parameter":"token","secrets":["`+longPassword+`"]}`)
	r := request("POST", "/?a=b&token="+longPassword)
	r.Header.Set("dg-token", "51f1ad0b-4c3f-4d0e-9f61-0123456789a1")
	r.SetBasicAuth("alice", "right")
	benchmarkAdmit(b, p, r, "")
}

func BenchmarkAdmitRememberedWrong(b *testing.B) {
	p, _ := countingPolicy(b, "")
	r := request("POST", "/")
	r.SetBasicAuth("alice", "wrong")
	benchmarkAdmit(b, p, r, ReasonBasicAuthWrong)
}

func BenchmarkAdmitThrottled(b *testing.B) {
	p, _ := countingPolicy(b, `"guess_limit":{"guesses":20,"window":3600000000000}`)
	for guess := range 20 {
		require.Error(b, logIn(p, client, "alice", "wrong"+strconv.Itoa(guess)))
	}
	r := request("POST", "/")
	r.SetBasicAuth("alice", "never seen")
	benchmarkAdmit(b, p, r, ReasonGuessLimit)
}

func BenchmarkAdmitRecognisedInParallel(b *testing.B) {
	p, _ := countingPolicy(b, "")
	require.NoError(b, logIn(p, client, "alice", "right"))
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		r := request("POST", "/")
		r.SetBasicAuth("alice", "right")
		for pb.Next() {
			if _, err := p.Admit(r); err != nil {
				b.Error(err)
			}
		}
	})
}

// repeatedBody is read as often as it is needed, without allocating.
type repeatedBody struct {
	text []byte
	left []byte
}

func (b *repeatedBody) Read(p []byte) (int, error) {
	if len(b.left) == 0 {
		return 0, io.EOF
	}
	n := copy(p, b.left)
	b.left = b.left[n:]
	return n, nil
}

func (b *repeatedBody) Close() error { return nil }

func BenchmarkVerifyBody(b *testing.B) {
	p := mustProvision(b, `{"callback_secret":["a-secret-of-2025"]}`)
	for name, text := range map[string][]byte{
		"16KB,first": []byte(
			`{"metadata":{"request_id":"1","extra":{"callback_secret":"a-secret-of-2025"}},` +
				filler(16_000) + `"end":1}`,
		),
		"16KB,last": []byte(`{` + filler(16_000) +
			`"metadata":{"extra":{"callback_secret":"a-secret-of-2025"}}}`),
		"1MB,last": bodytest.Transcript("a-secret-of-2025"),
	} {
		b.Run(name, func(b *testing.B) {
			body := &repeatedBody{text: text}
			b.SetBytes(int64(len(text)))
			b.ReportAllocs()
			for b.Loop() {
				body.left = body.text
				verified, err := verifyBody(p, body)
				require.NoError(b, err)
				_, err = io.Copy(io.Discard, verified)
				require.NoError(b, err)
				require.NoError(b, verified.Close())
			}
		})
	}
}

package webhook

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// The key, message and signature of the specification's own example (verified with its reference
// libraries).
const (
	exampleSecret    = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
	exampleID        = "msg_p5jXN8AQM9LWM0D4loKWxJek"
	exampleTime      = 1614265330
	exampleBody      = `{"test": 2432232314}`
	exampleSignature = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
)

func TestSignaturesAreThoseOfTheSpecification(t *testing.T) {
	signer, err := NewSigner(exampleSecret)
	require.NoError(t, err)
	macs, err := signer.digest(exampleID, fmt.Sprint(exampleTime), strings.NewReader(exampleBody))
	require.NoError(t, err)
	require.Equal(t, exampleSignature, "v1,"+base64.StdEncoding.EncodeToString(macs[0].Sum(nil)))
}

// signature computes one in the plain way.
func signature(secret, id, timestamp, body string) string {
	key, _ := base64.StdEncoding.DecodeString(strings.TrimPrefix(secret, "whsec_"))
	mac := hmac.New(sha256.New, key)
	mac.Write([]byte(id + "." + timestamp + "." + body))
	return "v1," + base64.StdEncoding.EncodeToString(mac.Sum(nil))
}

func TestDeliveriesAreSignedWithEverySecret(t *testing.T) {
	other := "whsec_" + base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{7}, 64))
	signer, err := NewSigner(exampleSecret, other)
	require.NoError(t, err)
	body := strings.Repeat("0123456789", 20_000)
	reader := strings.NewReader(body)
	header := http.Header{}
	require.NoError(t, signer.Sign(header, exampleID, reader, time.Unix(exampleTime, 0)))

	require.Equal(t, exampleID, header.Get("webhook-id"))
	require.Equal(t, "1614265330", header.Get("webhook-timestamp"))
	var want []string
	for _, secret := range []string{exampleSecret, other} {
		want = append(want, signature(secret, exampleID, "1614265330", body))
	}
	require.Equal(t, strings.Join(want, " "), header.Get("webhook-signature"))
	rest, err := io.ReadAll(reader)
	require.NoError(t, err)
	require.Equal(t, body, string(rest), "the body is rewound")
}

func TestWithoutSecretsThereIsNoSignature(t *testing.T) {
	header := http.Header{HeaderSignature: {"the sender's"}}
	var signer *Signer
	require.NoError(t, signer.Sign(header, exampleID, nil, time.Unix(1, 0)))
	require.Empty(t, header.Get(HeaderSignature))
	require.NotEmpty(t, header.Get(HeaderID))
}

func TestBadSecretsAreRefusedWithoutShowingThem(t *testing.T) {
	short := "whsec_" + base64.StdEncoding.EncodeToString([]byte("tooshort"))
	long := "whsec_" + base64.StdEncoding.EncodeToString(bytes.Repeat([]byte("long"), 17))
	for _, secret := range []string{"", "whsec_", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_!!!notbase64!!!", short, long} {
		_, err := NewSigner(exampleSecret, secret)
		require.ErrorContains(t, err, "signing secret 2 of 2")
		if rest := strings.TrimPrefix(secret, "whsec_"); rest != "" {
			require.NotContains(t, err.Error(), rest)
		}
	}
	signer, err := NewSigner(exampleSecret)
	require.NoError(t, err)
	require.Equal(
		t,
		"Signer(1 secrets) Signer(1 secrets) Signer(1 secrets)",
		fmt.Sprintf("%v %+v %#v", signer, signer, signer),
	)
}

func TestABodyThatCannotBeReadIsNotSigned(t *testing.T) {
	signer, err := NewSigner(exampleSecret)
	require.NoError(t, err)
	header := http.Header{}
	require.ErrorIs(t, signer.Sign(header, exampleID, brokenBody{}, time.Unix(1, 0)), errBroken)
	require.Empty(t, header.Get(HeaderSignature))
}

var errBroken = errors.New("broken")

type brokenBody struct{}

func (brokenBody) Read([]byte) (int, error)       { return 0, errBroken }
func (brokenBody) Seek(int64, int) (int64, error) { return 0, errBroken }

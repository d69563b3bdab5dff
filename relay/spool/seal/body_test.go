package seal

import (
	"bytes"
	"io"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// encrypted returns the encrypted form of a body, and its head.
func encrypted(t testing.TB, key *Key, body string) (stored, head []byte) {
	t.Helper()
	var buffer bytes.Buffer
	w, err := key.NewWriter(&buffer)
	require.NoError(t, err)
	for part := range strings.SplitAfterSeq(body, "\n") {
		_, err = io.WriteString(w, part)
		require.NoError(t, err)
	}
	require.NoError(t, w.Close())
	return buffer.Bytes(), w.Head()
}

// decrypted reads a body to its end.
func decrypted(key *Key, stored, head []byte) (string, error) {
	r, err := key.NewReader(bytes.NewReader(stored), head)
	if err != nil {
		return "", err
	}
	body, err := io.ReadAll(r)
	return string(body), err
}

func TestABodyComesBackAndItsSizeIsKnown(t *testing.T) {
	key := keys(t, "a").First()
	for _, size := range []int{0, 1, 4000, 4040, 4096, 8192, 100_000} {
		body := strings.Repeat("the secret text\n", size/16+1)[:size]
		stored, head := encrypted(t, key, body)
		require.NotContains(t, string(stored), "secret")
		require.Equal(t, stored[:HeadSize], head)
		require.Equal(t, int64(size), PlainSize(int64(len(stored))))
		got, err := decrypted(key, stored, head)
		require.NoError(t, err)
		require.Equal(t, body, got)
	}
	require.Zero(t, PlainSize(0))
}

func TestABodyIsNotTakenForAnotherOne(t *testing.T) {
	key := keys(t, "a").First()
	body := strings.Repeat("the secret text\n", 1000)
	stored, head := encrypted(t, key, body)
	other, otherHead := encrypted(t, key, body)
	require.NotEqual(t, head, otherHead)
	for name, wrong := range map[string][]byte{"another": other, "nothing": nil, "cut off": stored[:10]} {
		_, err := decrypted(key, wrong, head)
		require.ErrorIs(t, err, errOtherBody, name)
	}
	_, err := decrypted(keys(t, "b").First(), stored, head)
	require.Error(t, err)
}

func TestAChangedBodyIsNotReadToItsEnd(t *testing.T) {
	key := keys(t, "a").First()
	stored, head := encrypted(t, key, strings.Repeat("the secret text\n", 1000))
	for name, changed := range map[string][]byte{
		"cut off":                    stored[:len(stored)-1],
		"cut off between segments":   stored[:2*segmentSize],
		"longer":                     append(bytes.Clone(stored), 0),
		"a bit in the middle":        flipped(stored, 2*segmentSize),
		"a bit at the end":           flipped(stored, len(stored)-1),
		"a segment that comes again": append(bytes.Clone(stored[:2*segmentSize]), stored[segmentSize:]...),
	} {
		_, err := decrypted(key, changed, head)
		require.Error(t, err, name)
	}
}

func flipped(b []byte, at int) []byte {
	b = bytes.Clone(b)
	b[at] ^= 1
	return b
}

package seal

import (
	"bytes"
	"encoding/base64"
	"testing"

	"github.com/stretchr/testify/require"
)

// keyText is the text form of a key that tests know by a letter.
func keyText(letter string) string {
	return base64.StdEncoding.EncodeToString([]byte("a key of tests that is known as " + letter)[1:])
}

func keys(t testing.TB, letters ...string) *Keys {
	t.Helper()
	var texts []string
	for _, letter := range letters {
		texts = append(texts, keyText(letter))
	}
	k, err := NewKeys(texts...)
	require.NoError(t, err)
	return k
}

func TestKeysThatAreNoneAreErrorsThatDoNotShowThem(t *testing.T) {
	for text, want := range map[string]string{
		"": "it is empty",
		"dGhpcyBpcyBhIHNlY3JldCBrZXkgdGhhdCBpcyBsb25n": "it has 33 bytes, not 32",
		"c2hvcnQ=":       "it has 5 bytes, not 32",
		"!! secret !!":   "it is not base64",
		keyText("a")[1:]: "it is not base64",
		base64.StdEncoding.EncodeToString(make([]byte, 32)): "all its bytes are the same",
	} {
		_, err := NewKeys(keyText("z"), text)
		require.ErrorContains(t, err, "key 2 of 2: "+want)
		if text != "" {
			require.NotContains(t, err.Error(), text)
		}
	}
	_, err := NewKeys(keyText("a"), keyText("a"))
	require.ErrorContains(t, err, "key 2 of 2: it stands there twice")
	none, err := NewKeys()
	require.NoError(t, err)
	require.Nil(t, none)
}

func TestAKeyIsFoundByItsID(t *testing.T) {
	all := keys(t, "b", "a")
	require.Equal(t, keys(t, "b").First().ID(), all.First().ID())
	require.Same(t, all.all[1], all.Find(keys(t, "a").First().ID()))
	require.Len(t, all.First().ID(), IDSize)
	require.Nil(t, all.Find(keys(t, "c").First().ID()))
	var none *Keys
	require.Nil(t, none.Find(all.First().ID()))
}

func TestATextIsOpenedWithWhatItWasSealedWithAlone(t *testing.T) {
	key := keys(t, "a").First()
	for _, text := range []string{"", "the secret text"} {
		sealed := key.Seal([]byte(text), []byte("with"))
		require.NotContains(t, string(sealed), "secret")
		opened, err := key.Open(sealed, []byte("with"))
		require.NoError(t, err)
		require.Equal(t, text, string(opened))

		_, err = key.Open(sealed, []byte("another"))
		require.ErrorIs(t, err, errChanged)
		_, err = keys(t, "b").First().Open(sealed, []byte("with"))
		require.ErrorIs(t, err, errChanged)
		for cut := range sealed {
			_, err = key.Open(sealed[:cut], []byte("with"))
			require.ErrorIs(t, err, errChanged)
			changed := bytes.Clone(sealed)
			changed[cut] ^= 1
			_, err = key.Open(changed, []byte("with"))
			require.ErrorIs(t, err, errChanged)
		}
	}
}

func TestFingerprintsAreBlindedByTheLastKey(t *testing.T) {
	plain := [32]byte{1}
	var none *Keys
	require.Equal(t, plain, none.Blind(plain))
	blind := keys(t, "a").Blind(plain)
	require.NotEqual(t, plain, blind)
	require.Equal(t, blind, keys(t, "b", "a").Blind(plain))
	require.NotEqual(t, blind, keys(t, "a", "b").Blind(plain))
}

// Package bodytest has bodies of callbacks for tests: real ones, where they are
// at hand, and a large one that is made up.
package bodytest

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// Folder is the folder of bodies that Deepgram's services have sent. It is not a
// part of the repository, but may stand beside it, as ../shared/callbacks. Where
// it does not, the test is skipped.
func Folder(t testing.TB) string {
	t.Helper()
	root, err := os.Getwd()
	require.NoError(t, err)
	for !isFile(filepath.Join(root, "go.mod")) {
		require.NotEqual(t, root, filepath.Dir(root), "the test runs outside the module")
		root = filepath.Dir(root)
	}
	folder := filepath.Join(root, "..", "shared", "callbacks")
	if _, err := os.Stat(folder); err != nil {
		t.Skip("no real bodies of callbacks are beside the repository")
	}
	return folder
}

func isFile(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular()
}

// Real are the bodies of [Folder] by the names of their files, which match a
// pattern.
func Real(t testing.TB, pattern string) map[string][]byte {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(Folder(t), pattern))
	require.NoError(t, err)
	require.NotEmpty(t, paths, "no file is called %s", pattern)
	bodies := make(map[string][]byte, len(paths))
	for _, path := range paths {
		bodies[filepath.Base(path)], err = os.ReadFile(path)
		require.NoError(t, err)
	}
	return bodies
}

// Transcript is a body of about a megabyte, as pre-recorded audio yields it, with
// the metadata and the callback secret behind the results.
func Transcript(secret string) []byte {
	var b bytes.Buffer
	b.WriteString(`{"results":{"channels":[{"alternatives":[{"transcript":"`)
	for range 10_000 {
		b.WriteString("never gonna give you up ")
	}
	b.WriteString(`","confidence":0.9987,"words":[`)
	for i := range 8_000 {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, `{"word":"never","start":%d.24,"end":%d.56,`, i, i)
		b.WriteString(`"confidence":0.998,"punctuated_word":"Never,"}`)
	}
	fmt.Fprintf(&b, `]}]}]},"metadata":{"request_id":"0c5f5c2e",`)
	fmt.Fprintf(&b, `"extra":{"callback_secret":%q}}}`, secret)
	return b.Bytes()
}

// Package bodytest has bodies of callbacks for tests: those in the folder bodies,
// which were written for it, and a large one that is made up.
package bodytest

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// Folder is a folder of bodies as Deepgram's services send them: the one beside this
// file, or one of real bodies that DEEPGRAM_CALLBACK_TEST_BODIES names.
func Folder(t testing.TB) string {
	t.Helper()
	if folder := os.Getenv("DEEPGRAM_CALLBACK_TEST_BODIES"); folder != "" {
		return folder
	}
	root, err := os.Getwd()
	require.NoError(t, err)
	for !isFile(filepath.Join(root, "go.mod")) {
		require.NotEqual(t, root, filepath.Dir(root), "the test runs outside the module")
		root = filepath.Dir(root)
	}
	return filepath.Join(root, "internal", "bodytest", "bodies")
}

func isFile(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular()
}

// Sent are the bodies of [Folder] by the names of their files, which match a
// pattern.
func Sent(t testing.TB, pattern string) map[string][]byte {
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

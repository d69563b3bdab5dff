// What Caddy logs.

package caddytest

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A Log is a file that Caddy logs to.
type Log string

// NewLog is a file for the log of one test.
func NewLog(t testing.TB) Log {
	t.Helper()
	return Log(filepath.Join(t.TempDir(), "caddy.log"))
}

// Option is the global option that makes Caddy log into this file, with more in its
// block. The file is not rotated, as that would leave a goroutine.
func (l Log) Option(more string) string {
	return "log {\noutput file " + string(l) + " {\nroll_disabled\n}\n" + more + "\n}\n"
}

// Text is what was logged so far.
func (l Log) Text(t testing.TB) string {
	t.Helper()
	content, err := os.ReadFile(string(l))
	require.NoError(t, err)
	return string(content)
}

// Lines are the lines that were logged so far, which are JSON objects.
func (l Log) Lines(t testing.TB) []map[string]any {
	t.Helper()
	var lines []map[string]any
	for line := range bytes.Lines([]byte(l.Text(t))) {
		var fields map[string]any
		if json.Unmarshal(line, &fields) == nil { // else it is still being written
			lines = append(lines, fields)
		}
	}
	return lines
}

// WaitFor waits for a line that matches.
func (l Log) WaitFor(
	t testing.TB, what string, matches func(line map[string]any) bool,
) (found map[string]any) {
	t.Helper()
	require.Eventually(t, func() bool {
		for _, found = range l.Lines(t) {
			if matches(found) {
				return true
			}
		}
		return false
	}, Patience, 5*time.Millisecond, "no log line of %s", what)
	return found
}

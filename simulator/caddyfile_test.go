package simulator

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"

	_ "github.com/caddyserver/caddy/v2/modules/standard"
)

// Each file is a Caddyfile, a line of dashes, and the JSON that it adapts to or
// a part of the error. UPDATE_GOLDENS=1 rewrites the JSON.
func TestCaddyfileAdaptsAsItsGoldenSays(t *testing.T) {
	files, err := filepath.Glob("testdata/caddyfile/*.caddyfiletest")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".caddyfiletest")
		t.Run(name, func(t *testing.T) {
			content, err := os.ReadFile(file)
			require.NoError(t, err)
			input, want, ok := strings.Cut(string(content), "----------\n")
			require.True(t, ok, "no line of dashes")
			require.Equal(t, input, string(caddyfile.Format([]byte(input))),
				"the Caddyfile is not formatted")

			adapted, warnings, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(input), nil)
			want = strings.TrimSpace(want)
			if strings.HasPrefix(name, "error-") {
				require.NotEmpty(t, want)
				require.ErrorContains(t, err, want)
				return
			}
			require.NoError(t, err)
			require.Empty(t, warnings)
			var got bytes.Buffer
			require.NoError(t, json.Indent(&got, adapted, "", "\t"))
			if os.Getenv("UPDATE_GOLDENS") != "" {
				golden := input + "----------\n" + got.String() + "\n"
				require.NoError(t, os.WriteFile(file, []byte(golden), 0o644))
				return
			}
			require.Equal(t, want, got.String())
		})
	}
}

// Whatever the tokens are, the grammar makes a configuration of them that stays the same
// through JSON, or an error that names a line.
func FuzzUnmarshalCaddyfile(f *testing.F) {
	files, err := filepath.Glob("testdata/caddyfile/*.caddyfiletest")
	require.NoError(f, err)
	for _, file := range files {
		content, err := os.ReadFile(file)
		require.NoError(f, err)
		input, _, _ := strings.Cut(string(content), "----------\n")
		_, input, _ = strings.Cut(input, "\t")
		f.Add(strings.TrimSuffix(input, "}\n"))
	}
	f.Fuzz(func(t *testing.T, input string) {
		tokens, err := caddyfile.Tokenize([]byte(input), "Caddyfile")
		if err != nil || len(tokens) == 0 {
			return
		}
		s := new(Simulator)
		if err := s.UnmarshalCaddyfile(caddyfile.NewDispenser(tokens)); err != nil {
			require.Contains(t, err.Error(), "Caddyfile:")
			return
		}
		require.NoError(t, s.check(), "the grammar lets through what provisioning refuses")
		encoded, err := json.Marshal(s)
		require.NoError(t, err)
		again := new(Simulator)
		require.NoError(t, json.Unmarshal(encoded, again))
		require.Equal(t, s.Faults, again.Faults)
	})
}

package caddyfile_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	_ "github.com/caddyserver/caddy/v2/modules/standard"
	"github.com/stretchr/testify/require"

	_ "github.com/caddy-deepgram/deepgram-callback"
	"github.com/caddy-deepgram/deepgram-callback/console"
	"github.com/caddy-deepgram/deepgram-callback/handler"
	_ "github.com/caddy-deepgram/deepgram-callback/relay/spool/postgres"
)

const goldens = "../testdata/adapt"

// A golden is a Caddyfile, a line of dashes, and the JSON that it adapts to or
// a part of the error that it fails with.
type golden struct {
	name, caddyfile, expected string
}

func readGoldens(t testing.TB) []golden {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(goldens, "*.caddyfiletest"))
	require.NoError(t, err)
	require.NotEmpty(t, files)
	all := make([]golden, 0, len(files))
	for _, file := range files {
		content, err := os.ReadFile(file)
		require.NoError(t, err)
		source, expected, found := strings.Cut(string(content), "\n----------\n")
		require.True(t, found, "%s has no line of dashes", file)
		name := strings.TrimSuffix(filepath.Base(file), ".caddyfiletest")
		all = append(all, golden{name, source + "\n", strings.TrimSpace(expected)})
	}
	return all
}

func adapt(source string) ([]byte, []caddyconfig.Warning, error) {
	return caddyconfig.GetAdapter("caddyfile").Adapt([]byte(source), nil)
}

func TestGoldensAdaptToWhatTheySay(t *testing.T) {
	for _, golden := range readGoldens(t) {
		t.Run(golden.name, func(t *testing.T) {
			result, warnings, err := adapt(golden.caddyfile)
			if !strings.HasPrefix(golden.expected, "{") {
				require.ErrorContains(t, err, golden.expected)
				return
			}
			require.NoError(t, err)
			require.Empty(t, warnings)
			require.JSONEq(t, golden.expected, string(result))
			require.NotZero(t, len(handlersIn(t, result))+len(consolesIn(t, result)))
		})
	}
}

func TestErrorGoldensNameTheLine(t *testing.T) {
	for _, golden := range readGoldens(t) {
		if strings.HasPrefix(golden.name, "error_") {
			require.Regexp(t, `, at Caddyfile:\d+$`, golden.expected, golden.name)
		}
	}
}

func TestGoldensAreFormatted(t *testing.T) {
	for _, golden := range readGoldens(t) {
		formatted := string(caddyfile.Format([]byte(golden.caddyfile)))
		require.Equal(t, formatted, golden.caddyfile, golden.name)
	}
}

// In the goldens of errors whatever could be a secret is secret-in-the-file.
func TestErrorsNeverRepeatASecret(t *testing.T) {
	checked := 0
	for _, golden := range readGoldens(t) {
		if !strings.Contains(golden.caddyfile, "secret-in-the-file") {
			continue
		}
		checked++
		_, _, err := adapt(golden.caddyfile)
		require.Error(t, err, golden.name)
		require.NotContains(t, err.Error(), "secret-in-the-file", golden.name)
	}
	require.Greater(t, checked, 5)
}

// handlersIn finds the handlers of deepgram_callback in a configuration.
func handlersIn(t testing.TB, config []byte) []*handler.Handler {
	t.Helper()
	return modulesIn[handler.Handler](t, config, "deepgram_callback")
}

// consolesIn finds those of deepgram_console.
func consolesIn(t testing.TB, config []byte) []*console.Console {
	t.Helper()
	return modulesIn[console.Console](t, config, "deepgram_console")
}

// modulesIn finds the handlers of a name in a configuration and decodes them as Caddy does,
// which fails on a field that there is not.
func modulesIn[Module any](t testing.TB, config []byte, name string) []*Module {
	t.Helper()
	var root any
	require.NoError(t, json.Unmarshal(config, &root))
	var found []*Module
	var visit func(node any)
	visit = func(node any) {
		switch node := node.(type) {
		case []any:
			for _, item := range node {
				visit(item)
			}
		case map[string]any:
			if node["handler"] == name {
				delete(node, "handler")
				encoded, err := json.Marshal(node)
				require.NoError(t, err)
				module := new(Module)
				require.NoError(t, caddy.StrictUnmarshalJSON(encoded, module))
				found = append(found, module)
				return
			}
			for _, item := range node {
				visit(item)
			}
		}
	}
	visit(root)
	return found
}

// FuzzDirective has the directive parse anything. It must not panic, and what
// it makes of it must be a configuration that can be read again, with no value
// in it that provisioning is known to refuse.
func FuzzDirective(f *testing.F) {
	for _, golden := range readGoldens(f) {
		if _, behind, found := strings.Cut(golden.caddyfile, "deepgram_callback"); found {
			f.Add(strings.TrimSuffix(strings.TrimSpace(behind), "}"))
		}
	}
	f.Add("127.0.0.1:9000 {\n\tanonymous\n\trelay {\n\t\t{\n\t}\n}")
	f.Add("127.0.0.1:9000 {\n\tdg_token <<X\n\tkey\n\tX\n}")
	f.Fuzz(func(t *testing.T, block string) {
		if strings.Contains(block, "import") { // reads files
			t.Skip()
		}
		config, _, err := adapt(":8080 {\n\tdeepgram_callback " + block + "\n}\n")
		if err != nil {
			return
		}
		for _, h := range handlersIn(t, config) {
			require.NoError(t, h.Check())
			require.GreaterOrEqual(t, h.MaxBody, int64(0))
			for _, port := range h.Ports {
				require.True(t, port > 0 && port < 65536, port)
			}
			for _, method := range h.Methods {
				require.NoError(t, handler.CheckMethod(method))
			}
			require.True(t, h.Relay != nil || h.Stream != nil && h.Stream.Proxy != nil, "no upstreams")
		}
	})
}

// FuzzConsole does the same for the console's directive.
func FuzzConsole(f *testing.F) {
	for _, golden := range readGoldens(f) {
		if _, behind, found := strings.Cut(golden.caddyfile, "deepgram_console"); found {
			f.Add(strings.TrimSuffix(strings.TrimSpace(behind), "}"))
		}
	}
	f.Fuzz(func(t *testing.T, block string) {
		if strings.Contains(block, "import") { // reads files
			t.Skip()
		}
		config, _, err := adapt(":8080 {\n\tdeepgram_console " + block + "\n}\n")
		if err != nil {
			return
		}
		for _, c := range consolesIn(t, config) {
			require.NoError(t, c.Check())
		}
	})
}

package callback_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/caddy-deepgram/deepgram-callback/app"
)

// Reasons of refusals are constants called Reason…, wherever they are: each has
// its remedy in words, and a row in the tables of operations.md.

// sources are the files of Go but the tests, by their path.
func sources(t *testing.T) map[string]*ast.File {
	t.Helper()
	files := make(map[string]*ast.File)
	err := filepath.WalkDir(".", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || filepath.Ext(path) != ".go" || strings.HasSuffix(path, "_test.go") {
			return err
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
		files[filepath.ToSlash(path)] = file
		return err
	})
	require.NoError(t, err)
	return files
}

// literal is the text of a string that stands in the source, or "".
func literal(t *testing.T, expression ast.Expr) string {
	t.Helper()
	basic, ok := expression.(*ast.BasicLit)
	if !ok || basic.Kind != token.STRING {
		return ""
	}
	text, err := strconv.Unquote(basic.Value)
	require.NoError(t, err)
	return text
}

// reasonConstants are the values of the constants called Reason….
func reasonConstants(t *testing.T) []string {
	t.Helper()
	var reasons []string
	for _, file := range sources(t) {
		ast.Inspect(file, func(node ast.Node) bool {
			spec, ok := node.(*ast.ValueSpec)
			if !ok {
				return true
			}
			for i, name := range spec.Names {
				if strings.HasPrefix(name.Name, "Reason") && i < len(spec.Values) {
					reasons = append(reasons, literal(t, spec.Values[i]))
				}
			}
			return true
		})
	}
	return reasons
}

func TestEveryReasonHasARemedyAndEveryRemedyAReason(t *testing.T) {
	require.ElementsMatch(t, reasonConstants(t), app.Reasons())
}

// What is no constant would be missing in the list.
func TestNoRefusalHasALiteralForItsReason(t *testing.T) {
	for path, file := range sources(t) {
		ast.Inspect(file, func(node ast.Node) bool {
			switch node := node.(type) {
			case *ast.KeyValueExpr:
				if key, ok := node.Key.(*ast.Ident); ok && key.Name == "Reason" {
					require.Empty(t, literal(t, node.Value), path)
				}
			case *ast.CallExpr:
				if function, ok := node.Fun.(*ast.Ident); ok && function.Name == "unavailable" {
					require.Empty(t, literal(t, node.Args[0]), path)
				}
			}
			return true
		})
	}
}

var quotedWord = regexp.MustCompile("`([a-z_…]+)`")

// documentedReasons are those of the tables of reasons, where … stands for any
// beginning.
func documentedReasons(t *testing.T) []string {
	t.Helper()
	var reasons []string
	for _, heading := range []string{"When callbacks are refused", "When the inbox refuses"} {
		_, section, found := strings.Cut(documents(t)[metricsPage], "\n## "+heading+"\n")
		require.True(t, found)
		section, _, _ = strings.Cut(section, "\n## ")
		_, table, found := strings.Cut(section, "\n| reason |")
		require.True(t, found)
		table, _, _ = strings.Cut(table, "\n\n")
		for line := range strings.Lines(table) {
			cell, _, _ := strings.Cut(strings.TrimPrefix(line, "|"), "|")
			for _, word := range quotedWord.FindAllStringSubmatch(cell, -1) {
				reasons = append(reasons, word[1])
			}
		}
	}
	return reasons
}

func TestTheTablesHaveEveryReasonAndNoOther(t *testing.T) {
	documented := documentedReasons(t)
	covers := func(pattern, reason string) bool {
		end, many := strings.CutPrefix(pattern, "…")
		return pattern == reason || many && strings.HasSuffix(reason, end)
	}
	for _, reason := range app.Reasons() {
		rows := 0
		for _, pattern := range documented {
			if covers(pattern, reason) {
				rows++
			}
		}
		require.Equal(t, 1, rows, "rows for %s", reason)
	}
	for _, pattern := range documented {
		found := false
		for _, reason := range app.Reasons() {
			found = found || covers(pattern, reason)
		}
		require.True(t, found, "no reason is %s", pattern)
	}
}

package callback_test

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"io/fs"
	"maps"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	caddyformat "github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	_ "github.com/caddyserver/caddy/v2/modules/standard"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/stretchr/testify/require"

	_ "github.com/caddy-deepgram/deepgram-callback"
	"github.com/caddy-deepgram/deepgram-callback/app"
	"github.com/caddy-deepgram/deepgram-callback/caddyfile"
	_ "github.com/caddy-deepgram/deepgram-callback/cmd/caddy/demo"
	"github.com/caddy-deepgram/deepgram-callback/handler"
	"github.com/caddy-deepgram/deepgram-callback/internal/caddytest"
	_ "github.com/caddy-deepgram/deepgram-callback/relay/spool/postgres"
	_ "github.com/caddy-deepgram/deepgram-callback/simulator"
)

// What the documents say is tested: every ```caddyfile and ```json fence is a whole configuration
// that Caddy takes, the tables of options have every option and no other, and links lead somewhere.

// The pages with a table that a test reads.
const (
	optionsPage = "docs/options.md"
	metricsPage = "docs/operations.md"
)

func TestMain(m *testing.M) { caddytest.Main(m) }

// documents are all Markdown files, by their path.
func documents(t *testing.T) map[string]string {
	t.Helper()
	texts := make(map[string]string)
	err := filepath.WalkDir(".", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || filepath.Ext(path) != ".md" {
			return err
		}
		text, err := os.ReadFile(path)
		texts[filepath.ToSlash(path)] = string(text)
		return err
	})
	require.NoError(t, err)
	for _, path := range []string{"README.md", "xcaddy.md", optionsPage, metricsPage} {
		require.Contains(t, texts, path)
	}
	return texts
}

var fence = regexp.MustCompile("(?ms)^```([a-z]+)\n(.*?)^```$")

// fences are the blocks of code in a language, by the line that they start in.
func fences(text, language string) map[int]string {
	found := make(map[int]string)
	for _, at := range fence.FindAllStringSubmatchIndex(text, -1) {
		if text[at[2]:at[3]] == language {
			found[strings.Count(text[:at[4]], "\n")+1] = text[at[4]:at[5]]
		}
	}
	return found
}

// anySecret is long enough for every kind of credential.
const anySecret = "0123456789abcdef0123456789abcdef0123456789abcdef"

var (
	fromEnvironment = regexp.MustCompile(`\{env\.(\w+)\}`)
	fromFile        = regexp.MustCompile(`\{file\.([^}]+)\}`)
	certificateFile = regexp.MustCompile(`/etc/[\w./-]+\.pem`)
)

// secretCalled is a secret of the form that its name says.
func secretCalled(name string) string {
	switch name = strings.ToLower(name); {
	case strings.HasSuffix(name, "_signing_secret"):
		return "whsec_" + base64.StdEncoding.EncodeToString([]byte(anySecret))
	case strings.HasSuffix(name, "inbox_key"):
		return base64.StdEncoding.EncodeToString([]byte(anySecret[:32]))
	}
	return anySecret + name
}

// furnish makes what a configuration expects of the machine that it is for: environment variables,
// files with secrets, certificates.
func furnish(t *testing.T, config string) string {
	t.Helper()
	for _, match := range fromEnvironment.FindAllStringSubmatch(config, -1) {
		t.Setenv(match[1], secretCalled(match[1]))
	}
	folder := filepath.ToSlash(t.TempDir())
	config = fromFile.ReplaceAllStringFunc(config, func(placeholder string) string {
		file := folder + "/" + filepath.Base(strings.Trim(placeholder, "{}"))
		secret := secretCalled(filepath.Base(file))
		require.NoError(t, os.WriteFile(file, []byte(secret+"\n"), 0o600))
		return "{file." + file + "}"
	})
	return certificateFile.ReplaceAllStringFunc(config, func(string) string {
		server := httptest.NewTLSServer(nil)
		defer server.Close()
		certificate := pem.EncodeToMemory(&pem.Block{
			Type:  "CERTIFICATE",
			Bytes: server.Certificate().Raw,
		})
		file := folder + "/certificate.pem"
		require.NoError(t, os.WriteFile(file, certificate, 0o600))
		return file
	})
}

// adapt turns a Caddyfile into JSON, and requires that there are no warnings.
func adapt(t *testing.T, config string) []byte {
	t.Helper()
	adapted, warnings, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(config),
		map[string]any{"filename": "Caddyfile"})
	require.NoError(t, err)
	require.Empty(t, warnings)
	return adapted
}

// validate provisions a configuration as `caddy validate` does.
func validate(t *testing.T, config []byte) {
	t.Helper()
	decoder := json.NewDecoder(bytes.NewReader(config))
	decoder.DisallowUnknownFields()
	var parsed caddy.Config
	require.NoError(t, decoder.Decode(&parsed))
	if parsed.Admin == nil {
		parsed.Admin = new(caddy.AdminConfig)
	}
	require.NoError(t, caddy.Validate(&parsed))
}

func requireCaddyfile(t *testing.T, text string) {
	t.Helper()
	require.Equal(t, string(caddyformat.Format([]byte(text))), text, "not as caddy fmt has it")
	validate(t, adapt(t, furnish(t, text)))
}

func TestEveryQuotedCaddyfileIsWholeAndValid(t *testing.T) {
	for file, text := range documents(t) {
		for line, config := range fences(text, "caddyfile") {
			t.Run(file+":"+strconv.Itoa(line), func(t *testing.T) { requireCaddyfile(t, config) })
		}
	}
	require.NotEmpty(t, fences(documents(t)["docs/recipes.md"], "caddyfile"))
}

func TestEveryQuotedJSONIsWholeAndValid(t *testing.T) {
	for file, text := range documents(t) {
		for line, config := range fences(text, "json") {
			t.Run(file+":"+strconv.Itoa(line), func(t *testing.T) {
				validate(t, []byte(furnish(t, config)))
			})
		}
	}
	require.NotEmpty(t, fences(documents(t)["docs/json.md"], "json"))
}

// exampleFiles are the Caddyfiles that are files of their own.
func exampleFiles(t *testing.T) map[string]string {
	t.Helper()
	texts := make(map[string]string)
	err := filepath.WalkDir(".", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() ||
			entry.Name() != "Caddyfile" && filepath.Ext(path) != ".Caddyfile" {
			return err
		}
		text, err := os.ReadFile(path)
		texts[filepath.ToSlash(path)] = string(text)
		return err
	})
	require.NoError(t, err)
	require.Contains(t, texts, "testdata/demo.Caddyfile")
	return texts
}

func TestEveryExampleCaddyfileIsValid(t *testing.T) {
	for file, text := range exampleFiles(t) {
		t.Run(file, func(t *testing.T) { requireCaddyfile(t, text) })
	}
}

// option is an option, as a row of a table has it.
type option struct {
	block   string // the subdirective whose block it stands in; none for the directive's own
	name    string
	initial string // what the column of defaults says
}

var (
	anyHeading     = regexp.MustCompile("^#+ (.*)$")
	optionsHeading = regexp.MustCompile("^Options of `(\\w+)`$")
	optionRow      = regexp.MustCompile("^\\| `([^`]+)` \\| (.*?) \\|")
)

// documentedOptions are the rows of the tables under "The directive" and
// "Options of …".
func documentedOptions(t *testing.T) []option {
	t.Helper()
	var options []option
	block, here := "", false
	for line := range strings.Lines(documents(t)[optionsPage]) {
		line = strings.TrimSpace(line)
		if heading := anyHeading.FindStringSubmatch(line); heading != nil {
			of := optionsHeading.FindStringSubmatch(heading[1])
			block, here = "", of != nil || heading[1] == "The directive"
			if of != nil {
				block = of[1]
			}
		}
		row := optionRow.FindStringSubmatch(line)
		if !here || row == nil || strings.HasPrefix(row[1], "<") { // the directive's own arguments
			continue
		}
		name := strings.Fields(row[1])[0]
		if strings.HasPrefix(row[1], "basic_auth plain") {
			name = "basic_auth plain"
		}
		options = append(options, option{block: block, name: name, initial: strings.Trim(row[2], "`")})
	}
	return options
}

// optionsByBlock groups the names of options as caddyfile.Options does.
func optionsByBlock(options []option) map[string][]string {
	names := make(map[string][]string)
	for _, option := range options {
		names[option.block] = append(names[option.block], option.name)
	}
	for _, block := range names {
		slices.Sort(block)
	}
	return names
}

func TestTheTablesHaveEveryOptionAndNoOther(t *testing.T) {
	require.Equal(t, caddyfile.Options(), optionsByBlock(documentedOptions(t)))
}

// grammarOf reads the names of options, by their block, from a grammar as
// options.md has it.
func grammarOf(text string) map[string][]string {
	names := make(map[string][]string)
	path := []string{} // the blocks around a line
	for line := range strings.Lines(text) {
		words := strings.Fields(line)
		opens := len(words) > 0 && words[len(words)-1] == "{"
		switch {
		case len(words) == 0:
			continue
		case words[0] == "}":
			path = path[:len(path)-1]
			continue
		case len(path) > 0 && !strings.HasPrefix(words[0], "<"):
			name, block := words[0], ""
			switch {
			case len(path) > 1:
				block = path[1]
			case path[0] == caddyfile.ConsoleDirective:
				block = path[0]
			}
			if name == "basic_auth" && words[1] == "plain" {
				name = "basic_auth plain"
			}
			if !slices.Contains(names[block], name) { // stream, and stream off
				names[block] = append(names[block], name)
			}
		}
		if opens {
			path = append(path, words[0])
		}
	}
	for _, block := range names {
		slices.Sort(block)
	}
	return names
}

func TestTheGrammarHasEveryOptionAndNoOther(t *testing.T) {
	texts := slices.Collect(maps.Values(fences(documents(t)[optionsPage], "text")))
	require.Len(t, texts, 2, "that of each directive")
	require.Equal(t, caddyfile.Options(), grammarOf(strings.Join(texts, "")))
}

// The defaults of `stream` are filled in when the handler is provisioned.
func TestTheTablesHaveTheDefaultsOfStreams(t *testing.T) {
	ctx, err := caddy.ProvisionContext(&caddy.Config{Admin: &caddy.AdminConfig{Disabled: true}})
	require.NoError(t, err)
	module, err := ctx.LoadModuleByID("http.handlers.deepgram_callback",
		json.RawMessage(`{"anonymous": true, "relay": {"upstreams": [{"dial": "127.0.0.1:9000"}]}}`))
	require.NoError(t, err)
	stream := module.(*handler.Handler).Stream
	defaults := map[string]any{
		"max_message":   stream.MaxMessage,
		"ping_interval": stream.PingInterval,
		"pong_timeout":  stream.PongTimeout,
		"write_timeout": stream.WriteTimeout,
		"close_timeout": stream.CloseTimeout,
		"drain":         stream.Drain,
	}
	compared := 0
	for _, option := range documentedOptions(t) {
		value, ok := defaults[option.name]
		if option.block != "stream" || !ok {
			continue
		}
		compared++
		if duration, ok := value.(caddy.Duration); ok {
			want, err := time.ParseDuration(option.initial)
			require.NoError(t, err)
			require.Equal(t, want, time.Duration(duration), option.name)
			continue
		}
		require.Equal(t, "1MiB", option.initial)
		require.EqualValues(t, 1<<20, value)
	}
	require.Equal(t, len(defaults), compared)
}

func TestXcaddyMdListsTheModules(t *testing.T) {
	modules := slices.DeleteFunc(caddy.Modules(), func(id string) bool {
		// These are imported by this test, and not by the gateway.
		return !strings.Contains(id, "deepgram") || strings.HasSuffix(id, "_simulator") ||
			id == "deepgram_callback.stores.postgres"
	})
	require.Contains(t, slices.Collect(maps.Values(fences(documents(t)["xcaddy.md"], "text"))),
		strings.Join(modules, "\n")+"\n")
}

var versionRow = regexp.MustCompile(`(?m)^\| (Caddy|Go) \| ([\d.]+) \|`)

func TestTheTestedVersionsAreThoseOfGoMod(t *testing.T) {
	requirements, err := os.ReadFile("go.mod")
	require.NoError(t, err)
	rows := versionRow.FindAllStringSubmatch(documents(t)["xcaddy.md"], -1)
	require.Len(t, rows, 2)
	for _, row := range rows {
		line := map[string]string{
			"Caddy": "github.com/caddyserver/caddy/v2 v",
			"Go":    "toolchain go",
		}[row[1]] + row[2]
		require.Regexp(t, `(?m)^\s*`+regexp.QuoteMeta(line)+`$`, string(requirements))
	}
}

// metric is a metric, as it is registered or as a row of a table has it.
type metric struct {
	name   string
	labels []string
}

// described matches how a prometheus.Desc prints itself, which is all that it exports.
var described = regexp.MustCompile(
	`fqName: "caddy_deepgram_callback_(\w+)".* variableLabels: \{([^}]*)\}`,
)

// registeredMetrics are the metrics that the module registers.
func registeredMetrics(t *testing.T) []metric {
	t.Helper()
	descriptions := make(chan *prometheus.Desc)
	go func() {
		defer close(descriptions)
		for _, collector := range app.Collectors() {
			collector.Describe(descriptions)
		}
	}()
	var metrics []metric
	for description := range descriptions {
		match := described.FindStringSubmatch(description.String())
		require.NotNil(t, match, description)
		metrics = append(metrics, metric{name: match[1], labels: strings.Split(match[2], ",")})
	}
	return metrics
}

var metricRow = regexp.MustCompile("^\\| ((?:`\\w+`(?:, )?)+) \\| ((?:`\\w+`(?:, )?)+) \\| ")

func TestTheTableHasEveryMetricWithItsLabels(t *testing.T) {
	_, section, found := strings.Cut(documents(t)[metricsPage], "\n## Metrics\n")
	require.True(t, found)
	section, _, _ = strings.Cut(section, "\n## ")
	list := func(cell string) []string {
		return strings.Split(strings.ReplaceAll(cell, "`", ""), ", ")
	}
	var documented []metric
	for line := range strings.Lines(section) {
		if row := metricRow.FindStringSubmatch(line); row != nil {
			for _, name := range list(row[1]) {
				documented = append(documented, metric{name: name, labels: list(row[2])})
			}
		}
	}
	require.ElementsMatch(t, registeredMetrics(t), documented)
}

var link = regexp.MustCompile(`\]\(([^)\s]+)\)`)

// anchor is the fragment by which a link names a heading.
func anchor(heading string) string {
	heading = strings.ToLower(strings.TrimSpace(strings.TrimLeft(heading, "#")))
	heading = regexp.MustCompile(`[^\w\- ]`).ReplaceAllString(heading, "")
	return strings.ReplaceAll(heading, " ", "-")
}

// anchorsOf are the anchors of a document's headings.
func anchorsOf(text string) []string {
	var anchors []string
	for line := range strings.Lines(fence.ReplaceAllString(text, "")) {
		if strings.HasPrefix(line, "#") {
			anchors = append(anchors, anchor(line))
		}
	}
	return anchors
}

func TestLinksLeadSomewhere(t *testing.T) {
	texts := documents(t)
	for file, text := range texts {
		for _, match := range link.FindAllStringSubmatch(text, -1) {
			target := match[1]
			if strings.Contains(target, "://") {
				continue
			}
			path, heading, _ := strings.Cut(target, "#")
			if path == "" {
				path = file
			} else {
				path = filepath.ToSlash(filepath.Join(filepath.Dir(file), path))
			}
			_, err := os.Stat(path)
			require.NotErrorIs(t, err, fs.ErrNotExist, "%s links to %s", file, target)
			if heading == "" {
				continue
			}
			require.True(t, slices.Contains(anchorsOf(texts[path]), heading), "%s links to %s", file, target)
		}
	}
}

package callback_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"

	"github.com/caddy-deepgram/deepgram-callback/relay/stream"
)

// The dashboard and the alert rules in deploy/ name only metrics that there are, and sections of
// the document that there are.

const (
	alertRules = "deploy/alerts.yml"
	alertTests = "deploy/alerts_test.yml"
	dashboard  = "deploy/grafana-dashboard.json"
)

func readFile(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	return string(text)
}

// dashboardExpressions are the PromQL of a dashboard's panels, by their titles.
func dashboardExpressions(t *testing.T) map[string][]string {
	t.Helper()
	var board struct {
		Panels []struct {
			ID                       int
			Type, Title, Description string
			Targets                  []struct{ Expr string }
		}
	}
	require.NoError(t, json.Unmarshal([]byte(readFile(t, dashboard)), &board))
	expressions := make(map[string][]string)
	var ids []int
	for _, panel := range board.Panels {
		require.NotContains(t, ids, panel.ID)
		ids = append(ids, panel.ID)
		if panel.Type == "row" {
			continue
		}
		require.NotEmpty(t, panel.Description, panel.Title)
		require.NotEmpty(t, panel.Targets, panel.Title)
		require.NotContains(t, expressions, panel.Title)
		for _, target := range panel.Targets {
			expressions[panel.Title] = append(expressions[panel.Title], target.Expr)
		}
	}
	require.NotEmpty(t, expressions)
	return expressions
}

var (
	usedMetric  = regexp.MustCompile(`caddy_deepgram_callback_(\w+)(?:\{([^}]*)\})?`)
	usedLabel   = regexp.MustCompile(`(\w+)\s*(?:=~|!~|!=|=)\s*"`)
	grouping    = regexp.MustCompile(`\bby \(([^)]*)\)`)
	ofHistogram = regexp.MustCompile(`_(?:bucket|sum|count)$`)
)

// ofScraping are labels that no metric of ours has: Prometheus adds the first
// two, and the third belongs to the buckets of a histogram.
var ofScraping = []string{"instance", "job", "le"}

// requireKnownMetrics requires that PromQL, or a text with some in it, names only registered
// metrics and their labels.
func requireKnownMetrics(t *testing.T, text string) {
	t.Helper()
	labels := make(map[string][]string)
	for _, metric := range registeredMetrics(t) {
		labels[metric.name] = metric.labels
	}
	groups := grouping.FindAllStringSubmatch(text, -1)
	for _, use := range usedMetric.FindAllStringSubmatch(text, -1) {
		known, found := labels[use[1]]
		base := ofHistogram.ReplaceAllString(use[1], "")
		if !found && strings.HasSuffix(base, "_seconds") {
			known, found = labels[base]
		}
		require.True(t, found, "no metric is called %s", use[1])
		for _, label := range usedLabel.FindAllStringSubmatch(use[2], -1) {
			require.Contains(t, slices.Concat(known, ofScraping), label[1], use[1])
		}
		for _, group := range groups {
			for _, label := range strings.Split(group[1], ", ") {
				require.Contains(t, slices.Concat(known, ofScraping), label, use[1])
			}
		}
	}
}

var valuesOf = regexp.MustCompile(`\breason(?:=~|!~)"([^"]*)"`)

// In PromQL, a misspelt value of a label matches nothing, without an error.
func TestReasonsAreThoseOfStreams(t *testing.T) {
	reasons := []string{stream.EndClosed, stream.EndDropped, stream.EndSilent, stream.EndStalled,
		stream.EndViolation,
		stream.EndRefused, stream.EndShutdown, stream.EndFault}
	texts := []string{readFile(t, alertRules)}
	for _, expressions := range dashboardExpressions(t) {
		texts = append(texts, expressions...)
	}
	uses := valuesOf.FindAllStringSubmatch(strings.Join(texts, "\n"), -1)
	require.NotEmpty(t, uses)
	for _, use := range uses {
		require.Subset(t, reasons, strings.Split(use[1], "|"))
	}
}

func TestTheDashboardHasOnlyMetricsThatThereAre(t *testing.T) {
	for title, expressions := range dashboardExpressions(t) {
		for _, expression := range expressions {
			require.Regexp(t, usedMetric, expression, title)
			requireKnownMetrics(t, expression)
		}
	}
}

func TestTheAlertRulesHaveOnlyMetricsThatThereAre(t *testing.T) {
	rules := strings.Split(readFile(t, alertRules), "- alert: ")
	require.Greater(t, len(rules), 5)
	for _, rule := range rules[1:] {
		require.Regexp(t, usedMetric, rule)
		requireKnownMetrics(t, rule)
	}
}

// Each alert has a section that says what to do, and each section says which alerts it is for.
func TestEveryAlertHasItsSection(t *testing.T) {
	const runbook = "https://github.com/caddy-deepgram/deepgram-callback/blob/main/"
	texts := documents(t)
	for _, rule := range strings.Split(readFile(t, alertRules), "- alert: ")[1:] {
		name, _, _ := strings.Cut(rule, "\n")
		_, link, found := strings.Cut(rule, "runbook_url: "+runbook)
		require.True(t, found, name)
		link, _, _ = strings.Cut(link, "\n")
		page, section, found := strings.Cut(link, "#")
		require.True(t, found, name)
		require.Equal(t, metricsPage, page)
		require.Contains(t, anchorsOf(texts[page]), section, name)
		require.Regexp(t, "(?m)^\\|.*`"+name+"`.*\\(#"+section+"\\) \\|$", texts[page])
		require.Contains(t, readFile(t, alertTests), "alertname: "+name+"\n",
			"no test has this alert come")
	}
}

// promtool is Prometheus's own tool for checking rules.
func promtool(t *testing.T, args ...string) {
	t.Helper()
	path, err := exec.LookPath("promtool")
	if err != nil {
		t.Skip("promtool is not installed; it is part of Prometheus")
	}
	output, err := exec.CommandContext(t.Context(), path, args...).CombinedOutput()
	require.NoError(t, err, string(output))
}

func TestPromtoolTakesTheAlertRules(t *testing.T) {
	promtool(t, "check", "rules", alertRules)
	promtool(t, "test", "rules", alertTests)
}

// The dashboard's expressions are made into rules, which promtool can check.
func TestPromtoolTakesTheDashboardsExpressions(t *testing.T) {
	type rule struct {
		Record string `json:"record"`
		Expr   string `json:"expr"`
	}
	var rules []rule
	for _, expressions := range dashboardExpressions(t) {
		for _, expression := range expressions {
			rules = append(rules, rule{
				Record: "a:b:c",
				Expr:   strings.ReplaceAll(expression, "$__rate_interval", "5m"),
			})
		}
	}
	slices.SortFunc(rules, func(a, b rule) int { return strings.Compare(a.Expr, b.Expr) })
	text, err := json.Marshal(map[string]any{
		"groups": []any{map[string]any{"name": "dashboard", "rules": rules}},
	})
	require.NoError(t, err)
	file := filepath.Join(t.TempDir(), "rules.yml") // JSON is YAML
	require.NoError(t, os.WriteFile(file, text, 0o600))
	promtool(t, "check", "rules", file)
}

// composed is what a test looks at of a compose file.
type composed struct {
	Services map[string]struct {
		Image       string
		Hostname    string
		Entrypoint  []string
		Build       struct{ Context, Dockerfile string }
		Environment map[string]string
		Volumes     []string
		DependsOn   []string `yaml:"depends_on"`
	}
	Volumes map[string]any
}

var (
	calledUpstream = regexp.MustCompile(`(?m)\b([a-z]+\d*):(?:8081|9000)\b`)
	calledDatabase = regexp.MustCompile(`host=([\w,]+) target_session_attrs=read-write user=(\w+) ` +
		`password=\{env\.(\w+)\} dbname=(\w+)`)
)

// What the gateways of the example call is there, and so is what it mounts and builds.
func TestTheExampleOfASharedInboxFitsTogether(t *testing.T) {
	const folder = "deploy/shared/"
	var compose composed
	require.NoError(t, yaml.Unmarshal([]byte(readFile(t, folder+"compose.yml")), &compose))
	config := readFile(t, folder+"Caddyfile")
	calls := calledUpstream.FindAllStringSubmatch(config+readFile(t, folder+"balancer.Caddyfile"), -1)
	require.Len(t, calls, 3)
	for _, call := range calls {
		require.Contains(t, compose.Services, call[1])
	}
	call := calledDatabase.FindStringSubmatch(config)
	require.NotNil(t, call)
	hosts := strings.Split(call[1], ",")
	require.Len(t, hosts, 2)
	for _, host := range hosts {
		require.Contains(t, compose.Services, host)
		database := compose.Services[host]
		require.Equal(t, host, database.Hostname, "by its name it knows whether it is the primary")
		require.Equal(t, "${PRIMARY:-"+hosts[0]+"}", database.Environment["PRIMARY"])
		require.Equal(t, call[2], database.Environment["POSTGRES_USER"])
		require.Equal(t, call[4], database.Environment["POSTGRES_DB"])
		require.Equal(t, "${"+call[3]+":?}", database.Environment["POSTGRES_PASSWORD"])
		started := database.Entrypoint[len(database.Entrypoint)-1]
		require.Contains(t, database.Volumes, "."+started+":"+started+":ro")
		require.Contains(t, database.Volumes, host+":/var/lib/postgresql/data", "it has its own")
	}

	for name, service := range compose.Services {
		for _, needed := range service.DependsOn {
			require.Contains(t, compose.Services, needed, name)
		}
		for _, volume := range service.Volumes {
			source, _, _ := strings.Cut(volume, ":")
			if strings.HasPrefix(source, "./") {
				require.FileExists(t, folder+source)
			} else {
				require.Contains(t, compose.Volumes, source)
			}
		}
		if strings.HasPrefix(name, "gateway") {
			require.FileExists(t, filepath.Join(folder, service.Build.Context, service.Build.Dockerfile))
			for _, variable := range fromEnvironment.FindAllStringSubmatch(config, -1) {
				require.Contains(t, service.Environment, variable[1], name)
			}
		}
	}
}

// What the scripts take from the environment the databases have, and a shell can read them.
func TestTheScriptsOfTheExampleAreSound(t *testing.T) {
	const folder = "deploy/shared/"
	var compose composed
	require.NoError(t, yaml.Unmarshal([]byte(readFile(t, folder+"compose.yml")), &compose))
	given := compose.Services["database1"].Environment
	scripts, err := filepath.Glob(folder + "*.sh")
	require.NoError(t, err)
	require.Len(t, scripts, 2)
	for _, script := range scripts {
		text := readFile(t, script)
		for _, use := range fromShell.FindAllStringSubmatch(text, -1) {
			if variable := use[1] + use[2]; variable != "PGDATA" { // which the image gives
				require.Contains(t, given, variable, script)
			}
		}
		require.NotContains(t, text, "$PGPASSWORD", "it would be in the list of processes")
		shell, err := exec.LookPath("sh")
		if err != nil {
			t.Skip("no sh")
		}
		output, err := exec.CommandContext(t.Context(), shell, "-n", script).CombinedOutput()
		require.NoError(t, err, string(output))
	}
}

var fromShell = regexp.MustCompile(`\$([A-Z_]+)|\\getenv \w+ ([A-Z_]+)`)

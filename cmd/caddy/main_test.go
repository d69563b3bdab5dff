package main

import (
	"go/build"
	"io"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-deepgram/deepgram-callback/internal/caddytest"
)

func TestMain(m *testing.M) { caddytest.Main(m) }

func TestNodemoLeavesOutWhatOnlyTheDemoNeeds(t *testing.T) {
	imports := func(tags ...string) []string {
		packaging := build.Default
		packaging.BuildTags = tags
		files, err := packaging.ImportDir(".", 0)
		require.NoError(t, err)
		return files.Imports
	}
	const module = "github.com/caddy-deepgram/deepgram-callback"
	for _, part := range []string{module + "/simulator", module + "/cmd/caddy/demo"} {
		require.Contains(t, imports(), part)
		require.NotContains(t, imports("nodemo"), part)
	}
	require.Contains(t, imports("nodemo"), module)
}

// A demo is a running demo, on other ports than its configuration names.
type demo struct {
	ports  *strings.Replacer // what stands in the documents, to what it is here
	log    *caddytest.Output
	errors *caddytest.Output
}

func startDemo(t *testing.T) *demo {
	t.Helper()
	ports := freePorts(t, 7)
	d := &demo{
		ports: strings.NewReplacer(":8080", ":"+ports[0], ":9000", ":"+ports[1], ":20190", ":"+ports[2],
			":8090", ":"+ports[3], ":8443", ":"+ports[4], ":9001", ":"+ports[5], ":9090", ":"+ports[6],
			"/tmp/deepgram_callback_demo", t.TempDir()),
	}

	original, err := os.ReadFile("../../testdata/demo.Caddyfile")
	require.NoError(t, err)
	config := d.ports.Replace(string(original))
	// The gateway takes callbacks on the ports that Deepgram calls, and the
	// simulator calls no others.
	config = strings.Replace(config, "max_body 1MiB", "max_body 1MiB\nports "+ports[0], 1)
	config = strings.Replace(config, "retry_delay 3s", "retry_delay 3s\nports any", 1)
	config = strings.Replace(config, ":"+ports[5]+" {\n\t\t", ":"+ports[5]+" {\nports "+ports[4]+"\n", 2)
	require.Equal(t, 4, strings.Count(config, "\nports "))
	process := start(t, config, ports[1])
	for _, port := range ports { // one listener is up before another
		caddytest.Await(t, "127.0.0.1:"+port, &process.Errors)
	}
	d.log, d.errors = &process.Out, &process.Errors
	return d
}

// start runs a Caddyfile until the test ends, and returns when somebody listens on port.
func start(t *testing.T, config, port string) *caddytest.Process {
	t.Helper()
	process := caddytest.StartProcess(t, []byte(config), nil)
	caddytest.Await(t, "127.0.0.1:"+port, &process.Errors)
	return process
}

func freePorts(t *testing.T, n int) []string {
	t.Helper()
	ports := make([]string, n)
	for i, port := range caddytest.FreePorts(t, n) {
		ports[i] = strconv.Itoa(port)
	}
	return ports
}

// awaitEndOfStreams returns when all streams of the service have ended.
func (d *demo) awaitEndOfStreams(t *testing.T) {
	t.Helper()
	require.Eventually(t, func() bool {
		log := d.log.String()
		return strings.Count(log, " opened on ") == strings.Count(log, " ended: ")
	}, 5*time.Second, 10*time.Millisecond)
}

// example is a command in the README and what it prints.
type example struct{ command, output string }

var consoleFence = regexp.MustCompile("(?s)\n```console\n\\$ ([^\n]*)\n(.*?)```\n")

func readmeExamples(t *testing.T) []example {
	t.Helper()
	readme, err := os.ReadFile("../../README.md")
	require.NoError(t, err)
	var examples []example
	for _, fence := range consoleFence.FindAllStringSubmatch(string(readme), -1) {
		examples = append(examples, example{command: fence[1], output: fence[2]})
	}
	return examples
}

// comparable removes from an output what differs from run to run.
func comparable(output string) string {
	output = strings.ReplaceAll(strings.ToValidUTF8(output, "\uFFFD"), "\r", "")
	for pattern, replacement := range map[string]string{
		`Date: .*`:          "Date: now",
		`\b\d\d:\d\d:\d\d `: "00:00:00 ",
		`curl/[\d.]+`:       "curl/8",
		`[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}`: "an-id",
		`after \d+ milliseconds`:                    "after 2000 milliseconds",
		`(127\.0\.0\.1|localhost):\d+`:              "$1:0",
	} {
		output = regexp.MustCompile(pattern).ReplaceAllString(output, replacement)
	}
	return strings.TrimSpace(output)
}

func TestTheReadmesExamplesPrintWhatItSays(t *testing.T) {
	for _, tool := range []string{"sh", "curl"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skip(tool + " is not installed")
		}
	}
	examples := readmeExamples(t)
	require.NotEmpty(t, examples)
	demo := startDemo(t)
	for _, e := range examples {
		demo.awaitEndOfStreams(t)
		ported := demo.ports.Replace(e.command)
		if !strings.Contains(ported, "curl -s ") {
			// Without -s, curl shows a progress bar where its output is not a terminal.
			ported = strings.Replace(ported, "curl ", "curl -sS ", 1)
		}
		c := exec.CommandContext(t.Context(), "sh", "-c", ported)
		c.Dir = "../.."
		output, err := c.CombinedOutput()
		if err != nil {
			// The command tells curl to hang up after a time.
			require.ErrorContains(t, err, "exit status 28", "%s\n%s", e.command, output)
		}
		require.Equal(t, comparable(e.output), comparable(string(output)), e.command)
	}

	for _, secret := range []string{"demo-secret", "demo-key-id"} {
		require.NotContains(t, demo.log.String(), secret)
		require.NotContains(t, demo.errors.String(), secret)
	}
}

// The same without curl, for machines that have none.
func TestTheDemoTakesWhatIsRightAndNothingElse(t *testing.T) {
	demo := startDemo(t)
	send := func(method, password, token, body string) int {
		request, err := http.NewRequestWithContext(t.Context(), method,
			demo.ports.Replace("http://127.0.0.1:8080/callback"), strings.NewReader(body))
		require.NoError(t, err)
		request.SetBasicAuth("deepgram", password)
		if token != "" {
			request.Header.Set("dg-token", token)
		}
		response, err := http.DefaultClient.Do(request)
		require.NoError(t, err)
		defer response.Body.Close()
		_, err = io.Copy(io.Discard, response.Body)
		require.NoError(t, err)
		return response.StatusCode
	}
	const password = "demo-secret-do-not-use-elsewhere"
	require.Equal(t, 200, send("POST", password, "",
		`{"results":{"channels":[{"alternatives":[{"transcript":"hello"}]}]}}`))
	require.Equal(t, 200, send("PUT", password, "demo-key-id", "{}"))
	require.Equal(t, 401, send("POST", password, "other-key-id", "{}"))
	require.Equal(t, 401, send("POST", "guess", "", "{}"))
	require.Equal(t, 405, send("DELETE", password, "", ""))
	require.Equal(t, 413, send("POST", password, "", strings.Repeat("x", 1<<20+1)))

	require.Eventually(t, func() bool {
		return strings.Contains(demo.log.String(), "callback 2: PUT")
	}, 5*time.Second, 10*time.Millisecond)
	require.Contains(t, demo.log.String(), `transcript: "hello"`)
	require.NotContains(t, demo.log.String(), "callback 3")
}

// get is what an address of the demo answers.
func (d *demo) get(t *testing.T, url string) string {
	t.Helper()
	response, err := http.Get(d.ports.Replace(url))
	require.NoError(t, err)
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	return string(body)
}

// The demo sends itself callbacks, which the console shows, and which do not get in the way of
// those that somebody sends with curl.
func TestTheDemoFeedsAnInboxForTheConsoleToShow(t *testing.T) {
	demo := startDemo(t)
	for _, shown := range []string{": POST /callback/", "transcript: ", " opened on /live",
		" says interim ", " POST /flaky/live", "Deepgram-Stream-Sequence: 2", "0 missing"} {
		require.Eventually(t, func() bool { return strings.Contains(demo.get(t, "http://127.0.0.1:9001/"), shown) },
			time.Minute, 10*time.Millisecond, shown)
	}
	require.Contains(t, demo.get(t, "http://127.0.0.1:9090/"), "<title>Deepgram callbacks</title>")
	require.Contains(t, demo.get(t, "http://127.0.0.1:9090/api/spool/messages?state=delivered"), `"route":"feed"`)
	require.NotContains(t, demo.log.String(), "/callback/")
	require.NotContains(t, demo.errors.String(), "demo-secret")
	require.NotContains(t, demo.errors.String(), "submitting failed")
}

func TestTheRecipesFilterKeepsCredentialsOutOfLogs(t *testing.T) {
	recipes, err := os.ReadFile("../../docs/recipes.md")
	require.NoError(t, err)
	_, section, found := strings.Cut(string(recipes), "\n## Keeping credentials out of Caddy's logs\n")
	require.True(t, found)
	_, config, found := strings.Cut(section, "\n```caddyfile\n")
	require.True(t, found)
	config, _, _ = strings.Cut(config, "```")

	ports := freePorts(t, 2)
	const keyID, secret = "the-key-identifier", "the-secret-of-the-query"
	t.Setenv("DEEPGRAM_KEY_ID", keyID)
	t.Setenv("DEEPGRAM_CALLBACK_SECRET", secret)
	config = strings.NewReplacer(
		"{\n\tlog {", "{\n\tadmin off\n\tdebug\n\tlog {",
		"callbacks.example.com", "http://127.0.0.1:"+ports[0],
		"127.0.0.1:9000 {", "127.0.0.1:"+ports[1]+" {\nports "+ports[0], // where nobody listens
	).Replace(config)
	log := &start(t, config, ports[0]).Errors

	url := "http://127.0.0.1:" + ports[0] + "/callback?a=1&token=" + secret
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url,
		strings.NewReader("{}"))
	require.NoError(t, err)
	request.Header.Set("dg-token", keyID)
	response, err := http.DefaultClient.Do(request)
	require.NoError(t, err)
	require.NoError(t, response.Body.Close())
	require.Equal(t, http.StatusBadGateway, response.StatusCode)

	require.Eventually(t, func() bool { return strings.Contains(log.String(), "http.log.access") },
		5*time.Second, 10*time.Millisecond)
	require.Contains(t, log.String(), "http.log.error")
	require.Contains(t, log.String(), "token=REDACTED")
	require.NotContains(t, log.String(), keyID)
	require.NotContains(t, log.String(), secret)
}

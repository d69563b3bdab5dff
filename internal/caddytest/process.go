// Caddy in a process of its own.

package caddytest

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// asCaddy is the environment variable that makes a test's binary run Caddy.
const asCaddy = "TEST_AS_CADDY"

// Command is the command `caddy` with arguments. It runs the test's own binary, with
// the modules that are in there, whose TestMain has to call [Main]. It is killed when
// the test ends.
func Command(t testing.TB, args ...string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	require.NoError(t, err)
	command := exec.CommandContext(t.Context(), self, args...)
	command.Env = append(os.Environ(), asCaddy+"=1")
	return command
}

// A Process is a Caddy in a process of its own.
type Process struct {
	*exec.Cmd
	Out, Errors Output // what it writes to its standard output and error

	ended chan struct{}
	err   error
}

// StartProcess runs a configuration, which is a Caddyfile or JSON, in a process of
// its own, which is killed when the test ends. If prepare is not nil, it may change
// the process before that starts.
func StartProcess(t testing.TB, config []byte, prepare func(*Process)) *Process {
	t.Helper()
	file := filepath.Join(t.TempDir(), "config")
	require.NoError(t, os.WriteFile(file, config, 0o600))
	args := []string{"run", "--config", file}
	if !bytes.HasPrefix(config, []byte(`{"`)) {
		args = append(args, "--adapter", "caddyfile")
	}

	p := &Process{Cmd: Command(t, args...), ended: make(chan struct{})}
	p.Stdout, p.Stderr = &p.Out, &p.Errors
	if prepare != nil {
		prepare(p)
	}
	require.NoError(t, p.Start())
	go func() {
		defer close(p.ended)
		p.err = p.Wait()
	}()
	t.Cleanup(func() {
		p.Kill()
		if t.Failed() {
			t.Logf("%s%s", &p.Out, &p.Errors)
		}
	})
	return p
}

// Ended is closed when the process is gone.
func (p *Process) Ended() <-chan struct{} { return p.ended }

// Err is the error with which the process has ended. It must be called only after
// Ended is closed.
func (p *Process) Err() error { return p.err }

// Kill kills the process, and waits for its end.
func (p *Process) Kill() {
	_ = p.Process.Kill()
	<-p.ended
}

// Output is what a process has written so far.
type Output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *Output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

func (o *Output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

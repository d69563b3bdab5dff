// Package caddytest runs Caddy for tests: in the test's own process or, where Caddy
// has to end or to be killed, in a process of its own. It imports no module of
// Caddy's: a test imports those that its configurations name.
//
//	caddytest.go  a package's TestMain; Caddy in the test's process
//	process.go    Caddy in a process of its own
//	log.go        what Caddy logs
package caddytest

import (
	"bufio"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

// Patience is how long a test waits for what has to happen.
const Patience = 20 * time.Second

// Main is for TestMain. It runs the tests of a package in a home directory of their
// own, so that Caddy neither finds nor leaves anything in the user's. In a process
// that [Command] has started, it runs Caddy instead. It does not return.
func Main(m *testing.M) { os.Exit(run(m.Run)) }

// MainWithoutLeaks is [Main], and fails if a goroutine is left at the end.
func MainWithoutLeaks(m *testing.M) {
	code := 0
	os.Exit(run(func() int {
		goleak.VerifyTestMain(m, goleak.Cleanup(func(c int) { code = c }))
		return code
	}))
}

func run(tests func() int) (code int) {
	if os.Getenv(asCaddy) != "" {
		caddycmd.Main()
		return 0
	}
	home, err := os.MkdirTemp("", "caddy-home-*")
	if err != nil {
		panic(err) // there is no test yet that could fail
	}
	defer func() { _ = os.RemoveAll(home) }()
	for _, name := range []string{"HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME", "AppData"} {
		if err := os.Setenv(name, home); err != nil {
			panic(err)
		}
	}
	return tests()
}

// Globals is a block of global options with which Caddy leaves no trace: it saves no
// configuration, cleans no storage, and opens no port for an admin endpoint or for
// redirects. More options stand behind those.
func Globals(more string) string {
	return "{\nadmin off\npersist_config off\nauto_https disable_redirects\n" +
		"storage_clean_interval off\n" + more + "\n}\n"
}

// Adapt turns a Caddyfile into JSON.
func Adapt(t testing.TB, caddyfile string) []byte {
	t.Helper()
	config, _, err := caddyconfig.GetAdapter("caddyfile").Adapt([]byte(caddyfile), nil)
	require.NoError(t, err)
	return config
}

// Start runs a configuration in this process until the test ends. There can be one
// Caddy in a process. If somebody else has taken a port that configure had found
// free, configure is called again.
func Start(t testing.TB, configure func() []byte) {
	t.Helper()
	for attempt := 0; ; attempt++ {
		err := caddy.Load(configure(), true)
		if errors.Is(err, syscall.EADDRINUSE) && attempt < 5 {
			continue
		}
		require.NoError(t, err)
		break
	}
	t.Cleanup(func() { Stop(t) })
}

// Stop stops the Caddy of this process, with its admin endpoint, which caddy.Stop
// leaves running.
func Stop(t testing.TB) {
	t.Helper()
	require.NoError(t, caddy.Stop())
	require.NoError(t, caddy.Load([]byte(`{
		"admin": {"disabled": true, "config": {"persist": false}},
		"logging": {"logs": {"default": {"writer": {"output": "discard"}}}}
	}`), true))
	require.NoError(t, caddy.Stop())
}

// Reload makes another configuration the running one. It returns when the servers of
// the old one accept no more connections at these addresses. Caddy itself does not
// wait for that, and some connections are reset while both servers listen.
func Reload(t testing.TB, config []byte, addrs ...string) {
	t.Helper()
	var old []net.Conn
	for _, addr := range addrs {
		if conn := idle(t, addr); conn != nil {
			old = append(old, conn)
		}
	}
	require.NoError(t, caddy.Load(config, true))
	for _, conn := range old {
		// A server that shuts down closes its listeners first, and idle
		// connections then.
		_, err := conn.Read(make([]byte, 1))
		require.ErrorIs(t, err, io.EOF)
		_ = conn.Close()
	}
}

// idle is an idle connection to a server. It has had one answer, to a request that
// net/http answers without calling a handler. It is nil where nobody listens.
func idle(t testing.TB, addr string) net.Conn {
	t.Helper()
	for _, dial := range []func() (net.Conn, error){
		func() (net.Conn, error) { return net.Dial("tcp", addr) },
		func() (net.Conn, error) { return tls.Dial("tcp", addr, &tls.Config{InsecureSkipVerify: true}) },
	} {
		conn, err := dial()
		if errors.Is(err, syscall.ECONNREFUSED) {
			return nil
		}
		require.NoError(t, err)
		t.Cleanup(func() { _ = conn.Close() })
		require.NoError(t, conn.SetDeadline(time.Now().Add(Patience)))
		_, err = io.WriteString(conn, "OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n")
		require.NoError(t, err)
		response, err := http.ReadResponse(bufio.NewReader(conn), nil)
		require.NoError(t, err)
		_, err = io.Copy(io.Discard, response.Body)
		require.NoError(t, err)
		if response.StatusCode == http.StatusOK {
			return conn
		}
	}
	require.FailNow(t, "neither HTTP nor HTTPS", addr)
	return nil
}

// FreePort is a port of 127.0.0.1 on which nobody listens.
func FreePort(t testing.TB) int {
	t.Helper()
	return FreePorts(t, 1)[0]
}

// FreePorts are different ports of 127.0.0.1 on which nobody listens.
func FreePorts(t testing.TB, n int) []int {
	t.Helper()
	ports := make([]int, n)
	for i := range ports {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		defer func() { _ = listener.Close() }()
		ports[i] = listener.Addr().(*net.TCPAddr).Port
	}
	return ports
}

// Addr is a port of 127.0.0.1 as host and port.
func Addr(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }

// FreeAddr is an address at which nobody listens.
func FreeAddr(t testing.TB) string {
	t.Helper()
	return Addr(FreePort(t))
}

// Await waits until somebody listens at an address. If nobody does, said is in the
// error.
func Await(t testing.TB, addr string, said ...fmt.Stringer) {
	t.Helper()
	listens := func() bool {
		conn, err := net.Dial("tcp", addr)
		return err == nil && conn.Close() == nil
	}
	for deadline := time.Now().Add(Patience); !listens(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			require.FailNow(t, "nobody listens at "+addr, "%v", said)
		}
	}
}

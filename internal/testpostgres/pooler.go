//go:build unix

// A pooler: what may stand between a gateway and its database.

package testpostgres

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// poolerConfig has transactions of all clients share very few connections.
const poolerConfig = `[databases]
postgres = host=127.0.0.1 port=%d user=postgres
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = %d
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = 3
`

// NewPooler starts a PgBouncer in transaction mode before a server, and returns a data source name
// for it. Where there is none, the test is skipped.
func NewPooler(t testing.TB, server *Server) string {
	t.Helper()
	path, err := exec.LookPath("pgbouncer")
	if err != nil {
		path = "/usr/sbin/pgbouncer" // where Debian has it, which is not in everybody's PATH
	}
	if _, err := os.Stat(path); err != nil {
		t.Skip("no PgBouncer; install one (Debian: pgbouncer)")
	}
	port, err := freePort()
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "pgbouncer-*")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	config := filepath.Join(dir, "pgbouncer.ini")
	err = os.WriteFile(config, fmt.Appendf(nil, poolerConfig, server.port, port), 0o644)
	if err == nil {
		err = os.Chmod(dir, 0o755) // for whoever the server runs as
	}
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(path, config)
	cmd.Dir = dir
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: server.as}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	address := net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
	for until := time.Now().Add(startTime); ; {
		conn, err := net.Dial("tcp", address)
		if err == nil {
			_ = conn.Close()
			break
		}
		if time.Now().After(until) {
			t.Fatalf("PgBouncer does not start: %v", err)
		}
		<-time.After(startPause)
	}
	return strings.Replace(server.DSN(), server.Address(), address, 1)
}

//go:build unix

package postgres

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-deepgram/deepgram-callback/internal/testpostgres"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
)

// pooler starts a PgBouncer in transaction mode before a server, with very few connections behind
// it, and returns a data source name for it.
func pooler(t *testing.T, server *testpostgres.Server) string {
	path, err := exec.LookPath("pgbouncer")
	if err != nil {
		if path = "/usr/sbin/pgbouncer"; os.Getenv("PATH") == "" {
			t.Skip("no PgBouncer")
		}
	}
	if _, err := os.Stat(path); err != nil {
		t.Skip("no PgBouncer; install one (Debian: pgbouncer)")
	}
	dir, err := os.MkdirTemp("", "pgbouncer-*")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	port := listener.Addr().(*net.TCPAddr).Port
	require.NoError(t, listener.Close())
	_, serverPort, err := net.SplitHostPort(server.Address())
	require.NoError(t, err)
	config := filepath.Join(dir, "pgbouncer.ini")
	require.NoError(t, os.WriteFile(config, fmt.Appendf(nil, `[databases]
postgres = host=127.0.0.1 port=%s user=postgres
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = %d
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = 3
`, serverPort, port), 0o644))
	require.NoError(t, os.Chmod(dir, 0o755))
	cmd := exec.Command(path, config)
	cmd.Dir = dir
	if os.Geteuid() == 0 { // it refuses to run as root
		nobody, err := user.Lookup("nobody")
		require.NoError(t, err)
		uid, _ := strconv.ParseUint(nobody.Uid, 10, 32)
		gid, _ := strconv.ParseUint(nobody.Gid, 10, 32)
		cmd.SysProcAttr = &syscall.SysProcAttr{
			Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)},
		}
	}
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	address := net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
	require.Eventually(t, func() bool {
		conn, err := net.Dial("tcp", address)
		if err == nil {
			_ = conn.Close()
		}
		return err == nil
	}, patience, 10*time.Millisecond)
	return strings.Replace(server.DSN(), server.Address(), address, 1)
}

func TestAPoolerMayStandBetween(t *testing.T) {
	dsn := pooler(t, testpostgres.New(t))
	ctx := context.Background()
	stores := []*Store{openTest(t, dsn, Options{}), openTest(t, dsn, Options{})}
	for _, s := range stores {
		require.NoError(t, s.health.ready())
		require.False(t, s.direct.Load(), "it is known that there is one")
	}
	acceptMany(t, stores, 300, 2000)
	large, err := put(ctx, stores[0], 5, strings.Repeat("large", 200_000))
	require.NoError(t, err)
	body, err := stores[1].Body(ctx, large.ID)
	require.NoError(t, err)
	require.Equal(t, int64(1_000_000), body.Size())
	again, err := put(ctx, stores[1], 5, strings.Repeat("large", 200_000))
	require.NoError(t, err)
	require.True(t, again.Duplicate)
	deliverMany(t, stores, 301, true)
	for _, s := range stores {
		counts, err := s.Counts(ctx)
		require.NoError(t, err)
		require.Equal(t, int64(301), counts.Routes["r"].Delivered)
	}
	n, _, _, err := stores[0].ReplayAll(ctx, spool.Filter{Limit: 50})
	require.NoError(t, err)
	require.Equal(t, 50, n)
	require.Eventually(
		t,
		func() bool { return len(leaseNow(t, stores[1])) > 0 },
		patience,
		10*time.Millisecond,
	)
	for _, s := range stores {
		s.tidy(ctx)
		require.NoError(t, s.Close(ctx))
	}
}

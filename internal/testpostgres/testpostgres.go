//go:build unix

// Package testpostgres gives tests a PostgreSQL: one of their own, made of the binaries that the
// machine has, or the one that the environment names.
package testpostgres

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// Environment names a database that is there already, as a data source name. Tests make schemas of
// their own in it.
const Environment = "DEEPGRAM_CALLBACK_TEST_POSTGRES"

// Required is the environment variable that has tests fail where there is no PostgreSQL, instead of
// being skipped.
const Required = "CI_REQUIRE_POSTGRES"

// missing skips a test, or fails it where none may be skipped.
func missing(t testing.TB, cause error, besides string) {
	t.Helper()
	if os.Getenv(Required) != "" {
		t.Fatalf("no PostgreSQL, and %s is set: %v", Required, cause)
	}
	t.Skipf("no PostgreSQL: %v; install one (Debian: postgresql), %s", cause, besides)
}

// Server is a PostgreSQL server that a test started, and may stop.
type Server struct {
	bin, data string
	port      int
	as        *syscall.Credential
	process   *exec.Cmd
	ended     chan struct{} // closed when the process is gone
}

var shared struct {
	sync.Mutex
	server *Server
	err    error
	tried  bool
}

// DSN returns a data source name of the server that all tests of the process share. Where there is
// none, the test is skipped, and says why. Main must have been called by TestMain.
func DSN(t testing.TB) string {
	t.Helper()
	if dsn := os.Getenv(Environment); dsn != "" {
		return dsn
	}
	shared.Lock()
	defer shared.Unlock()
	if !shared.tried {
		shared.tried = true
		shared.server, shared.err = Start()
	}
	if shared.err != nil {
		missing(t, shared.err, "or name a database in "+Environment)
	}
	return shared.server.DSN()
}

// Main runs the tests of a package and stops the server that they shared.
func Main(m *testing.M) {
	code := m.Run()
	shared.Lock()
	if shared.server != nil {
		shared.server.Remove()
	}
	shared.Unlock()
	os.Exit(code)
}

// New starts a server for one test, which may do to it what it likes.
func New(t testing.TB, settings ...string) *Server {
	t.Helper()
	s, err := Start(settings...)
	if err != nil {
		missing(t, err, "as the test stops it")
	}
	t.Cleanup(s.Remove)
	return s
}

// Execute runs SQL, which must succeed.
func Execute(t testing.TB, dsn, sql string) {
	t.Helper()
	connected(t, dsn, func(ctx context.Context, conn *pgx.Conn) error {
		_, err := conn.PgConn().Exec(ctx, sql).ReadAll()
		return err
	})
}

// connected does something with a connection of its own, which must succeed.
func connected(t testing.TB, dsn string, work func(context.Context, *pgx.Conn) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(ctx) }()
	if err := work(ctx, conn); err != nil {
		t.Fatal(err)
	}
}

// binaries returns the directory of the newest version that is installed.
func binaries() (string, error) {
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/postgres")
	slices.SortFunc(found, func(a, b string) int { return version(a) - version(b) })
	if len(found) > 0 {
		return filepath.Dir(found[len(found)-1]), nil
	}
	path, err := exec.LookPath("postgres")
	if err != nil {
		return "", errors.New("there are no binaries in /usr/lib/postgresql, nor in PATH")
	}
	return filepath.Dir(path), nil
}

func version(path string) int {
	n, _ := strconv.Atoi(filepath.Base(filepath.Dir(filepath.Dir(path))))
	return n
}

// Start makes a database in a directory of its own and starts a server for it. A setting is like
// "max_connections=20".
func Start(settings ...string) (*Server, error) {
	bin, err := binaries()
	if err != nil {
		return nil, err
	}
	s := &Server{bin: bin}
	if s.data, err = os.MkdirTemp("", "postgres-*"); err != nil {
		return nil, err
	}
	if err := s.initialise(settings); err != nil {
		s.Remove()
		return nil, err
	}
	return s, nil
}

func (s *Server) initialise(settings []string) error {
	if err := s.becomeSomebody(); err != nil {
		return err
	}
	initdb := s.command(
		"initdb",
		"-D",
		s.data,
		"-U",
		"postgres",
		"-A",
		"trust",
		"-E",
		"UTF8",
		"--locale=C",
		"-N",
	)
	if out, err := initdb.CombinedOutput(); err != nil {
		return fmt.Errorf("initdb: %w: %s", err, out)
	}
	var err error
	if s.port, err = freePort(); err != nil {
		return err
	}
	config := fmt.Sprintf(
		"listen_addresses = '127.0.0.1'\nport = %d\n"+
			"unix_socket_directories = ''\nlog_min_messages = warning\n",
		s.port,
	)
	for _, setting := range settings {
		config += strings.Replace(setting, "=", " = ", 1) + "\n"
	}
	if err := s.configure(config); err != nil {
		return err
	}
	return s.Start()
}

func freePort() (int, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	return listener.Addr().(*net.TCPAddr).Port, listener.Close()
}

// configure adds to the configuration, of which the last value of a setting holds.
func (s *Server) configure(config string) error {
	file, err := os.OpenFile(
		filepath.Join(s.data, "postgresql.conf"),
		os.O_APPEND|os.O_WRONLY,
		0o600,
	)
	if err != nil {
		return err
	}
	_, err = file.WriteString(config)
	return errors.Join(err, file.Close())
}

// becomeSomebody has the server run as nobody where the test is root, as which it refuses to run.
func (s *Server) becomeSomebody() error {
	if os.Geteuid() != 0 {
		return nil
	}
	nobody, err := user.Lookup("nobody")
	if err != nil {
		return err
	}
	uid, _ := strconv.ParseUint(nobody.Uid, 10, 32)
	gid, _ := strconv.ParseUint(nobody.Gid, 10, 32)
	s.as = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	return os.Chown(s.data, int(uid), int(gid))
}

func (s *Server) command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(s.bin, name), args...)
	cmd.Dir = s.data
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: s.as}
	return cmd
}

// DSN returns the data source name of the server.
func (s *Server) DSN() string {
	dsn := url.URL{
		Scheme: "postgres", User: url.User("postgres"), Host: s.Address(), Path: "postgres",
		RawQuery: "sslmode=disable",
	}
	return dsn.String()
}

// Address returns host and port.
func (s *Server) Address() string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(s.port)) }

// Start starts the server, and returns when it takes connections. Where one before was killed, it
// waits until all processes of that one are gone.
func (s *Server) Start() error {
	for until := time.Now().Add(startTime); ; {
		err := s.startOnce(until)
		if err == nil || !s.hasEnded() || time.Now().After(until) {
			return err
		}
		if said, _ := os.ReadFile(s.log()); !strings.Contains(string(said), stillInUse) {
			return err
		}
		<-time.After(startPause)
	}
}

const (
	startTime  = 2 * time.Minute
	startPause = 20 * time.Millisecond

	// stillInUse is what a server says that finds processes of the one before.
	stillInUse = "is still in use"
)

// log is beside the data, since all that is among them is copied to a standby.
func (s *Server) log() string { return s.data + ".log" }

func (s *Server) startOnce(until time.Time) error {
	log, err := os.OpenFile(s.log(), os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }()
	process, ended := s.command("postgres", "-D", s.data), make(chan struct{})
	process.Stdout, process.Stderr = log, log
	if err := process.Start(); err != nil {
		return err
	}
	go func() {
		defer close(ended)
		_ = process.Wait()
	}()
	s.process, s.ended = process, ended
	for !s.hasEnded() && time.Now().Before(until) {
		check := s.command("pg_isready", "-q", "-h", "127.0.0.1", "-p", strconv.Itoa(s.port))
		if check.Run() == nil {
			return nil
		}
		select {
		case <-ended:
		case <-time.After(startPause):
		}
	}
	text, _ := os.ReadFile(s.log())
	return fmt.Errorf("the server does not start: %s", text)
}

func (s *Server) hasEnded() bool {
	select {
	case <-s.ended:
		return true
	default:
		return false
	}
}

// Signal sends the server a signal: SIGTERM lets clients finish, SIGINT does not, SIGKILL is a
// crash.
func (s *Server) Signal(signal syscall.Signal) error { return s.process.Process.Signal(signal) }

// Abort ends the server at once, as an immediate shutdown does: it recovers when it is started
// again.
func (s *Server) Abort() { s.end(syscall.SIGQUIT) }

// Kill ends the server as a crash would. Its children notice a moment later.
func (s *Server) Kill() { s.end(syscall.SIGKILL) }

// Stop ends the server in an orderly way.
func (s *Server) Stop() { s.end(syscall.SIGINT) }

func (s *Server) end(signal syscall.Signal) {
	_ = s.Signal(signal)
	<-s.ended
}

// Remove stops the server and removes everything of it.
func (s *Server) Remove() {
	if s.process != nil && !s.hasEnded() {
		s.Stop()
	}
	_ = os.RemoveAll(s.data)
	_ = os.Remove(s.log())
}

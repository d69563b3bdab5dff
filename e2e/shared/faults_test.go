//go:build unix

package shared_test

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/caddy-deepgram/deepgram-callback/internal/caddytest"
	"github.com/caddy-deepgram/deepgram-callback/internal/testpostgres"
)

const (
	// faultsFor is the environment variable that has faults go on for a time, such as 5m, after each
	// was there once; faultsSeed the one that has what was random in another run come again.
	faultsFor  = "DEEPGRAM_CALLBACK_TEST_FAULTS_FOR"
	faultsSeed = "DEEPGRAM_CALLBACK_TEST_FAULTS_SEED"

	// recovery is how long it may take after a fault until everything goes on. A service or a
	// database that is away is looked for at pauses of a second, statements are given up after eight.
	recovery = 60 * time.Second

	// senderPatience is how long a sender waits for an answer, senderPause how long until it sends
	// what was not accepted again.
	senderPatience = 4 * time.Second
	senderPause    = 100 * time.Millisecond
)

// fleet is three gateways behind a balancer, with their inbox in a database that has a standby.
type fleet struct {
	t                *testing.T
	random           *rand.Rand
	ledger           *ledger
	gateways         []*gateway
	balancer         string // its address
	primary, standby *testpostgres.Server
	dsn              string
}

// faults are what happens to a fleet. When one returns, all that is needed is there again.
var faults = []struct {
	name    string
	happens func(*fleet)
}{
	{"a gateway is killed", (*fleet).killGateway},
	{"a gateway hangs for longer than its lease", (*fleet).stopGateway},
	{"the database crashes", (*fleet).crashDatabase},
	{"the database is shut down at once", (*fleet).abortDatabase},
	{"all connections are terminated", (*fleet).terminate},
	{"an administrator locks the tables", (*fleet).lock},
	{"the standby takes the place of the primary", (*fleet).failOver},
	{"it does while a gateway hangs", (*fleet).failOverWithoutOne},
}

// Whatever fails while callbacks come: each that was acknowledged is delivered, those of one request
// id in order, none is accepted twice, and nothing is left in limbo.
func TestCallbacksSurviveFaults(t *testing.T) {
	if testing.Short() {
		t.Skip("takes more than a minute")
	}
	f := newFleet(t)
	load := f.load()
	began := time.Now()
	happen := func() {
		for _, i := range f.random.Perm(len(faults)) {
			f.wait(time.Second)
			t.Logf("after %s %s", time.Since(began).Round(time.Millisecond), faults[i].name)
			faults[i].happens(f)
			f.t.Logf("  over after %s", time.Since(began).Round(time.Millisecond))
			f.requireRecovery(faults[i].name)
		}
	}
	happen()
	for limit := fromEnvironment(t, faultsFor, time.ParseDuration); time.Since(began) < limit; {
		happen()
	}
	load.stop()
	f.requireNothingLeft()
	t.Logf("%d acknowledgements, %d callbacks delivered", f.ledger.acknowledgements(),
		f.ledger.deliveries())
}

// fromEnvironment is what an environment variable says, zero if it is not there.
func fromEnvironment[T any](t testing.TB, name string, parse func(string) (T, error)) (value T) {
	t.Helper()
	if text := os.Getenv(name); text != "" {
		var err error
		value, err = parse(text)
		require.NoError(t, err, name)
	}
	return value
}

func newFleet(t *testing.T) *fleet {
	t.Helper()
	seed := fromEnvironment(t, faultsSeed, func(text string) (uint64, error) {
		return strconv.ParseUint(text, 10, 64)
	})
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("%s=%d has the same happen again", faultsSeed, seed)
	f := &fleet{t: t, random: rand.New(rand.NewPCG(seed, 0)), ledger: newLedger()}
	f.primary, f.standby = testpostgres.NewPair(t)
	f.dsn = testpostgres.PairDSN(f.primary, f.standby)
	s := newService(t, f.ledger.answer)
	for _, name := range []string{"one", "two", "three"} {
		f.gateways = append(f.gateways, newGateway(t, name, f.dsn, s))
	}
	f.startBalancer()
	return f
}

// startBalancer starts the balancer of the example, with other addresses.
func (f *fleet) startBalancer() {
	f.t.Helper()
	const example = "../../deploy/shared/balancer.Caddyfile"
	text, err := os.ReadFile(example)
	require.NoError(f.t, err)
	f.balancer = caddytest.FreeAddr(f.t)
	var addresses []string
	for _, g := range f.gateways {
		addresses = append(addresses, g.addr)
	}
	config := string(text)
	for from, to := range map[string]string{
		"callbacks.example.com":       "http://" + f.balancer,
		"gateway1:8081 gateway2:8081": strings.Join(addresses, " "),
	} {
		require.Contains(f.t, config, from)
		config = strings.Replace(config, from, to, 1)
	}
	config = strings.Replace(config, "http://127.0.0.1:", "http://:", 1)
	p := caddytest.StartProcess(f.t, []byte(caddytest.Globals("")+config), nil)
	caddytest.Await(f.t, f.balancer, &p.Errors)
}

// wait waits for a random time.
func (f *fleet) wait(most time.Duration) {
	<-time.After(time.Duration(f.random.Int64N(int64(most))))
}

func (f *fleet) anyGateway() *gateway { return f.gateways[f.random.IntN(len(f.gateways))] }

func (f *fleet) killGateway() {
	g := f.anyGateway()
	g.Kill()
	f.wait(time.Second)
	g.start()
}

// stopGateway stops a gateway while what it delivers is not answered. The answers that it finds when
// it goes on come too late, so they change nothing: there would be dead letters.
func (f *fleet) stopGateway() { f.without(func() {}) }

// without has something happen while a gateway is stopped, for longer than a lease.
func (f *fleet) without(happens func()) {
	g := f.anyGateway()
	f.ledger.hold(g.name)
	f.wait(200 * time.Millisecond)
	require.NoError(f.t, g.Process.Process.Signal(syscall.SIGSTOP))
	over := time.After(lease + 200*time.Millisecond)
	happens()
	<-over
	f.wait(time.Second)
	f.ledger.release()
	require.NoError(f.t, g.Process.Process.Signal(syscall.SIGCONT))
}

func (f *fleet) crashDatabase() {
	f.primary.Kill()
	f.wait(time.Second)
	require.NoError(f.t, f.primary.Start())
}

func (f *fleet) abortDatabase() {
	f.primary.Abort()
	f.wait(time.Second)
	require.NoError(f.t, f.primary.Start())
}

func (f *fleet) terminate() {
	for range 3 {
		f.wait(500 * time.Millisecond)
		f.execute(`SELECT pg_terminate_backend(pid) FROM pg_stat_activity
			WHERE pid <> pg_backend_pid() AND backend_type IN ('client backend', 'walsender')`)
	}
}

// lock locks the tables, in the order in which gateways do, for longer than a statement may take.
func (f *fleet) lock() {
	f.execute(`BEGIN; SET LOCAL search_path = deepgram_callback;
		LOCK TABLE uploads, lanes, fingerprints, messages, pieces, counts
			IN ACCESS EXCLUSIVE MODE;
		SELECT pg_sleep(10); COMMIT`)
}

// execute runs SQL until it succeeds: gateways may get in its way.
func (f *fleet) execute(sql string) {
	f.t.Helper()
	once := func() error {
		ctx, cancel := context.WithTimeout(f.t.Context(), recovery)
		defer cancel()
		conn, err := pgx.Connect(ctx, f.dsn)
		if err != nil {
			return err
		}
		defer func() { _ = conn.Close(ctx) }()
		_, err = conn.PgConn().Exec(ctx, sql).ReadAll()
		return err
	}
	var err error
	for range 10 {
		if err = once(); err == nil {
			return
		}
	}
	require.NoError(f.t, err)
}

// failOver has the standby take the place of a primary that crashed, and makes that one its standby.
// Everything goes on before that one is there.
func (f *fleet) failOver() {
	f.promote()
	f.requireRecovery("the standby takes the place of the primary")
	require.NoError(f.t, f.standby.Follow(f.primary))
}

func (f *fleet) promote() {
	f.primary.Kill()
	f.wait(time.Second)
	require.NoError(f.t, f.standby.Promote())
	f.primary, f.standby = f.standby, f.primary
}

func (f *fleet) failOverWithoutOne() {
	f.without(f.promote)
	f.requireRecovery("it does while a gateway hangs")
	require.NoError(f.t, f.standby.Follow(f.primary))
}

// A load is senders that send one callback after the other.
type load struct {
	f       *fleet
	ended   chan struct{}
	senders sync.WaitGroup
}

// load starts the senders: some of streams, and some of callbacks that have no order.
func (f *fleet) load() *load {
	l := &load{f: f, ended: make(chan struct{})}
	for n := range 8 {
		l.senders.Go(func() { l.send(callback{From: "s" + strconv.Itoa(n), Stream: true}) })
	}
	for n := range 3 {
		l.senders.Go(func() { l.send(callback{From: "w" + strconv.Itoa(n)}) })
	}
	return l
}

func (l *load) stop() {
	close(l.ended)
	l.senders.Wait()
}

func (l *load) send(c callback) {
	for {
		// A machine that is slow gets less to do; but what is never delivered does not end the load.
		for range 20 {
			select {
			case <-l.ended:
				return
			case <-time.After(50 * time.Millisecond):
			}
			if l.f.ledger.waitingOf(c.From) < 5 {
				break
			}
		}
		c.N++
		l.f.deliverAtLast(c)
		if rand.N(20) == 0 { // the answer was lost, or so it seems
			l.f.deliverAtLast(c)
		}
	}
}

// deliverAtLast sends a callback until it is accepted, as the vendor does.
func (f *fleet) deliverAtLast(c callback) {
	for until := time.Now().Add(recovery); time.Now().Before(until); <-time.After(senderPause) {
		webhook, status, err := f.call(c)
		switch {
		case err != nil:
		case status == http.StatusAccepted:
			f.ledger.acknowledge(c, webhook)
			return
		case status != http.StatusServiceUnavailable && status != http.StatusBadGateway:
			f.t.Errorf("%v was answered %d", c, status)
			return
		}
	}
	f.t.Errorf("%v was never accepted", c)
}

// senders are those that all senders share. No connection is used twice.
var senders = &http.Client{
	Timeout: senderPatience, Transport: &http.Transport{DisableKeepAlives: true},
}

func (f *fleet) call(c callback) (webhook string, status int, err error) {
	request, err := http.NewRequest(http.MethodPost, "http://"+f.balancer+"/callback",
		strings.NewReader(c.body()))
	if err != nil {
		return "", 0, err
	}
	request.Host = "callbacks.test"
	request.Header.Set("Content-Type", "application/json")
	response, err := senders.Do(request)
	if err != nil {
		return "", 0, err
	}
	defer response.Body.Close()
	if _, err := io.Copy(io.Discard, response.Body); err != nil {
		return "", 0, err
	}
	return response.Header.Get("Webhook-Id"), response.StatusCode, nil
}

// requireRecovery requires that callbacks are accepted again and that those that were acknowledged
// before are delivered, in order and once.
func (f *fleet) requireRecovery(after string) {
	f.t.Helper()
	began := time.Now()
	waiting, acknowledged := f.ledger.waiting(), f.ledger.acknowledgements()
	const some = 50
	require.Eventually(f.t, func() bool {
		return f.ledger.acknowledgements() >= acknowledged+some
	}, recovery, 10*time.Millisecond, "%s: callbacks are not accepted", after)
	accepts := time.Since(began)
	f.requireDelivered(waiting, after)
	require.Empty(f.t, f.ledger.complaints(), after)
	f.t.Logf("  accepted %d after %s, delivered the %d of before after %s", some,
		accepts.Round(time.Millisecond), len(waiting), time.Since(began).Round(time.Millisecond))
}

func (f *fleet) requireDelivered(ids []string, after string) {
	f.t.Helper()
	if !waitUntil(recovery, func() bool { return len(f.ledger.missing(ids)) == 0 }) {
		require.Empty(f.t, f.ledger.missing(ids), "%s: what was acknowledged is lost", after)
	}
}

func waitUntil(limit time.Duration, condition func() bool) bool {
	for until := time.Now().Add(limit); !condition(); <-time.After(10 * time.Millisecond) {
		if time.Now().After(until) {
			return false
		}
	}
	return true
}

// requireNothingLeft requires at the end that all gateways say that everything is delivered.
func (f *fleet) requireNothingLeft() {
	f.t.Helper()
	f.requireDelivered(f.ledger.waiting(), "at the end")
	for _, g := range f.gateways {
		var in inbox
		settled := waitUntil(recovery, func() bool {
			in = g.inbox()
			return in.Pending == 0 && in.InFlight == 0 && in.Delivered == f.ledger.deliveries()
		})
		require.True(f.t, settled, "%s says %+v, and the service took %d", g.name, in,
			f.ledger.deliveries())
		require.Zero(f.t, in.Dead, fmt.Sprint("a late answer changed something: ", in))
	}
	require.Empty(f.t, f.ledger.complaints())
}

package disk

import (
	"bufio"
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/disk/bodies"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/disk/internal/disktest"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/storetest"
)

// A child process accepts and delivers until it is killed, and says on its standard output what
// it has acknowledged and what its service took. Everything acknowledged must come out in the
// end, in order.

const (
	childVariable = "SPOOL_TEST_CHILD_DIR"
	childStart    = "SPOOL_TEST_CHILD_START"
	crashStreams  = 12
)

func isChild() bool { return os.Getenv(childVariable) != "" }

// runChild accepts on several streams, each in order, for ever.
func runChild() {
	in, err := openInbox(
		os.Getenv(childVariable),
		inboxOptions{Options: Options{segmentSize: 256 << 10}},
	)
	if err != nil {
		fmt.Println("error", err)
		os.Exit(1)
	}
	var mu sync.Mutex // a line is written as a whole or not at all
	say := func(kind string, stream, n int) {
		mu.Lock()
		defer mu.Unlock()
		_, _ = fmt.Fprintln(os.Stdout, kind, stream, n)
	}
	storetest.SetRoute(in, "r", spool.RouteConfig{
		RetryDelays: []time.Duration{5 * time.Millisecond},
		Deliver: func(_ context.Context, msg *spool.Message, body spool.Body) spool.Result {
			stream, n, err := parseCrashBody(msg, body)
			if err != nil {
				fmt.Println("error", err)
				os.Exit(1)
			}
			switch rand.IntN(40) {
			case 0:
				return spool.Result{Status: http.StatusInternalServerError}
			case 1:
				return spool.Result{Err: errConnect}
			}
			say("D", stream, n)
			return spool.Result{Status: http.StatusOK}
		},
	})
	var start int
	_, _ = fmt.Sscan(os.Getenv(childStart), &start)
	for stream := range crashStreams {
		go func() {
			for n := start; ; n++ {
				_, err := in.Accept(
					context.Background(),
					spool.Envelope{Route: "r", Method: "POST", URI: "/"},
					strings.NewReader(crashBody(stream, n)),
				)
				if err != nil {
					fmt.Println("error", err)
					os.Exit(1)
				}
				say("A", stream, n)
			}
		}()
	}
	select {}
}

// crashBody makes bodies of all sizes, a large one now and then.
func crashBody(stream, n int) string {
	size := (n * 7919) % 20000
	if n%50 == 49 {
		size = bodies.MaxSmall + 5000
	}
	return result(fmt.Sprint("stream", stream), fmt.Sprint(n)) + strings.Repeat(" ", size)
}

func parseCrashBody(msg *spool.Message, body spool.Body) (stream, n int, err error) {
	b := make([]byte, body.Size()+1)
	read := 0
	for read < len(b) {
		k, err := body.Read(b[read:])
		read += k
		if err != nil {
			break
		}
	}
	text := string(b[:read])
	if _, err := fmt.Sscanf(msg.RequestID, "stream%d", &stream); err != nil {
		return 0, 0, err
	}
	if _, err := fmt.Sscanf(text[strings.Index(text, `"text":`):], `"text":"%d"`, &n); err != nil {
		return 0, 0, err
	}
	if text != crashBody(stream, n) {
		return 0, 0, fmt.Errorf("body %d of stream %d is not what was accepted", n, stream)
	}
	return stream, n, nil
}

// crashLog is what is known of the streams over all rounds.
type crashLog struct {
	mu        sync.Mutex
	acked     [crashStreams]map[int]bool
	delivered [crashStreams]map[int]bool
	round     [crashStreams]int // the last one delivered in this round
	problems  []string
}

func newCrashLog() *crashLog {
	log := &crashLog{}
	for i := range crashStreams {
		log.acked[i], log.delivered[i] = make(map[int]bool), make(map[int]bool)
	}
	return log
}

func (l *crashLog) ack(stream, n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.acked[stream][n] = true
}

// deliver checks that everything acknowledged before n was delivered before, and that nothing goes
// back within a round.
func (l *crashLog) deliver(stream, n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if n <= l.round[stream] {
		l.problems = append(l.problems, fmt.Sprintf("stream %d: %d after %d", stream, n, l.round[stream]))
	}
	for before := range l.acked[stream] {
		if before < n && !l.delivered[stream][before] {
			l.problems = append(l.problems, fmt.Sprintf("stream %d: %d before %d", stream, n, before))
		}
	}
	l.round[stream] = n
	l.delivered[stream][n] = true
}

func (l *crashLog) newRound() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := range l.round {
		l.round[i] = -1
	}
}

func TestNothingAcknowledgedIsLostWhenTheProcessIsKilled(t *testing.T) {
	rounds := 8
	if testing.Short() {
		rounds = 3
	}
	dir := disktest.TempDir(t)
	log := newCrashLog()
	for round := range rounds {
		log.newRound()
		child := exec.Command(os.Args[0])
		child.Env = append(
			os.Environ(),
			childVariable+"="+dir,
			fmt.Sprint(childStart, "=", round*1_000_000),
		)
		output, err := child.StdoutPipe()
		require.NoError(t, err)
		child.Stderr = os.Stderr
		require.NoError(t, child.Start())

		kill := func() { _ = child.Process.Kill() }
		stuck := time.AfterFunc(time.Minute, kill)
		acks, enough := 0, 50+rand.IntN(1000) // so many before the end, however fast the machine is
		lines := bufio.NewScanner(output)
		for lines.Scan() {
			var kind string
			var stream, n int
			require.False(t, strings.HasPrefix(lines.Text(), "error"), lines.Text())
			if _, err := fmt.Sscan(lines.Text(), &kind, &stream, &n); err != nil {
				continue // cut off by the kill
			}
			switch kind {
			case "A":
				log.ack(stream, n)
				if acks++; acks == enough {
					time.AfterFunc(time.Duration(rand.IntN(20))*time.Millisecond, kill)
				}
			case "D":
				log.deliver(stream, n)
			}
		}
		_ = child.Wait()
		stuck.Stop()
	}

	log.newRound()
	in := openTestInbox(t, dir, inboxOptions{})
	var damaged atomic.Int64
	defer storetest.SetRoute(
		in,
		"r",
		spool.RouteConfig{
			Deliver: func(_ context.Context, msg *spool.Message, body spool.Body) spool.Result {
				stream, n, err := parseCrashBody(msg, body)
				if err != nil {
					damaged.Add(1)
					return spool.Result{Err: err}
				}
				log.deliver(stream, n)
				return spool.Result{Status: http.StatusOK}
			},
		},
	)(
		context.Background(),
	)
	requireNothingPending(t, in)
	require.Zero(t, damaged.Load())

	log.mu.Lock()
	defer log.mu.Unlock()
	require.Empty(t, log.problems)
	total := 0
	for stream, acked := range log.acked {
		total += len(acked)
		for n := range acked {
			require.True(
				t,
				log.delivered[stream][n],
				"%d of stream %d was acknowledged and is lost",
				n,
				stream,
			)
		}
	}
	require.Greater(t, total, 100)
	t.Logf("%d acknowledged over %d rounds", total, rounds)
}

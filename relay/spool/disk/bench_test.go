//go:build unix

package disk

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-deepgram/deepgram-callback/internal/race"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/disk/internal/disktest"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/seal"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/storetest"
)

// cpuTime returns the processor time that this process has used.
func cpuTime(tb testing.TB) time.Duration {
	var usage syscall.Rusage
	require.NoError(tb, syscall.Getrusage(syscall.RUSAGE_SELF, &usage))
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

const benchWriters = 32

// uniqueBody has the request id near its front, as results have, and is different each time.
type uniqueBody struct {
	text []byte
	read int
}

var benchHeader = http.Header{
	"Content-Type": {
		"application/json",
	}, "User-Agent": {"okhttp/4.9"}, "Accept-Encoding": {"gzip"}, "Accept": {"*/*"},
}

func newUniqueBody(size int, n uint64) *uniqueBody {
	text := make([]byte, 0, size)
	text = fmt.Appendf(
		text,
		`{"metadata":{"request_id":"%08x-0000-4000-8000-%012x"},"results":"`,
		n,
		n,
	)
	for len(text) < size-2 {
		text = append(text, "word "[len(text)%5])
	}
	return &uniqueBody{text: append(text, `"}`...)}
}

func (b *uniqueBody) number(n uint64) {
	copy(
		b.text[len(`{"metadata":{"request_id":"`):],
		fmt.Appendf(nil, `%08x-0000-4000-8000-%012x`, n>>32, n),
	)
	b.read = 0
}

func (b *uniqueBody) Read(p []byte) (int, error) {
	n := copy(p, b.text[b.read:])
	b.read += n
	if n == 0 {
		return 0, io.EOF
	}
	return n, nil
}

// acceptMany has writers accept bodies of a size, numbered from first on.
func acceptMany(tb testing.TB, in *spool.Inbox, first, count uint64, size int) {
	var next atomic.Uint64
	var writers sync.WaitGroup
	for range benchWriters {
		writers.Go(func() {
			body := newUniqueBody(size, 0)
			for {
				n := next.Add(1) - 1
				if n >= count {
					return
				}
				body.number(first + n)
				_, err := in.Accept(context.Background(), spool.Envelope{
					Route: "r", Method: "POST", URI: "/hook", Header: benchHeader, ContentLength: int64(size),
				}, body)
				if err != nil {
					tb.Error(err)
					return
				}
			}
		})
	}
	writers.Wait()
}

func reportCPU(b *testing.B, began time.Duration) {
	b.ReportMetric(float64((cpuTime(b)-began).Nanoseconds())/float64(b.N)/1e3, "µs-cpu/op")
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "ops/s")
}

func BenchmarkAccept(b *testing.B) {
	for _, size := range []int{1 << 10, 16 << 10} {
		for _, delay := range []time.Duration{
			-1, 300 * time.Microsecond, time.Millisecond, 3 * time.Millisecond,
		} {
			b.Run(fmt.Sprintf("%dK/%d writers/delay %s", size>>10, benchWriters, delay), func(b *testing.B) {
				var commits atomic.Int64
				in, err := openInbox(b.TempDir(), inboxOptions{Options: Options{
					CommitDelay: delay, Events: spool.StoreEvents{Synced: func(time.Duration) { commits.Add(1) }},
				}})
				require.NoError(b, err)
				b.ResetTimer()
				began := cpuTime(b)
				acceptMany(b, in, 0, uint64(b.N), size)
				b.StopTimer()
				reportCPU(b, began)
				b.ReportMetric(float64(b.N)/float64(commits.Load()), "accepts/commit")
				require.NoError(b, in.Close(context.Background()))
			})
		}
	}
}

// readBuffers are for reading bodies.
var readBuffers = sync.Pool{New: func() any { b := make([]byte, 32<<10); return &b }}

// deliverAll reads a body as a service does, and takes it.
func deliverAll(_ context.Context, _ *spool.Message, body spool.Body) spool.Result {
	buffer := readBuffers.Get().(*[]byte)
	defer readBuffers.Put(buffer)
	for {
		if _, err := body.Read(*buffer); err != nil {
			return spool.Result{Status: http.StatusOK}
		}
	}
}

// benchKeys are keys by which a benchmark encrypts.
func benchKeys(b *testing.B) *seal.Keys {
	keys, err := seal.NewKeys("YW55IHRoaXJ0eS10d28gYnl0ZXMgYXMgYSBrZXkhIS4=")
	require.NoError(b, err)
	return keys
}

func BenchmarkAcceptAndDeliver(b *testing.B) {
	for _, c := range []struct {
		name   string
		size   int
		config spool.RouteConfig
	}{
		{"1K", 1 << 10, spool.RouteConfig{}},
		{"16K", 16 << 10, spool.RouteConfig{}},
		{"16K/keep", 16 << 10, spool.RouteConfig{Keep: 24 * time.Hour}},
		{"16K/encrypt", 16 << 10, spool.RouteConfig{Encrypt: benchKeys(b)}},
	} {
		b.Run(fmt.Sprintf("%s/%d writers", c.name, benchWriters), func(b *testing.B) {
			in, err := openInbox(b.TempDir(), inboxOptions{})
			require.NoError(b, err)
			c.config.Deliver = deliverAll
			storetest.SetRoute(in, "r", c.config)
			b.ResetTimer()
			began := cpuTime(b)
			acceptMany(b, in, 0, uint64(b.N), c.size)
			for stats(b, in).Pending > 0 {
				require.NoError(b, in.Store().Flush(context.Background()))
				runtime.Gosched()
			}
			b.StopTimer()
			reportCPU(b, began)
			require.NoError(b, in.Close(context.Background()))
		})
	}
}

func BenchmarkAcceptEncrypted(b *testing.B) {
	for name, keys := range map[string]*seal.Keys{"plain": nil, "encrypted": benchKeys(b)} {
		b.Run(name, func(b *testing.B) {
			in, err := openInbox(b.TempDir(), inboxOptions{})
			require.NoError(b, err)
			never := func(ctx context.Context, _ *spool.Message, _ spool.Body) spool.Result {
				<-ctx.Done()
				return spool.Result{Err: ctx.Err()}
			}
			release := storetest.SetRoute(in, "r", spool.RouteConfig{Deliver: never, Encrypt: keys})
			b.ResetTimer()
			began := cpuTime(b)
			acceptMany(b, in, 0, uint64(b.N), 16<<10)
			b.StopTimer()
			reportCPU(b, began)
			ctx, cancel := context.WithCancel(context.Background())
			cancel()
			release(ctx)
			require.NoError(b, in.Close(ctx))
		})
	}
}

func residentMemory(tb testing.TB) (anonymous int64) {
	status, err := os.ReadFile("/proc/self/status")
	require.NoError(tb, err)
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, "RssAnon:"); ok {
			_, err := fmt.Sscan(rest, &anonymous)
			require.NoError(tb, err)
		}
	}
	return anonymous << 10
}

// TestAMillionPending measures what a backlog costs; it takes minutes, so only
//
//	SPOOL_PENDING=1000000 go test -run AMillionPending -v ./relay/spool
//
// runs it, with so many messages.
func TestAMillionPending(t *testing.T) {
	million, _ := strconv.ParseUint(os.Getenv("SPOOL_PENDING"), 10, 64)
	if million == 0 {
		t.Skip("set SPOOL_PENDING to run it")
	}
	const size = 1 << 10
	sample := million / 20
	dir := t.TempDir()
	rate := func(in *spool.Inbox, first uint64) float64 {
		began := time.Now()
		acceptMany(t, in, first, sample, size)
		return float64(sample) / time.Since(began).Seconds()
	}
	open := func() *spool.Inbox {
		began := time.Now()
		in, err := openInbox(dir, inboxOptions{})
		require.NoError(t, err)
		t.Logf("opened in %s", time.Since(began))
		return in
	}
	memory := func(when string) {
		var stats runtime.MemStats
		debug.FreeOSMemory()
		runtime.ReadMemStats(&stats)
		t.Logf("%s: heap %d MB, anonymous memory %d MB", when, stats.HeapAlloc>>20, residentMemory(t)>>20)
	}

	in := open()
	memory("empty")
	t.Logf("empty: %.0f accepts/s", rate(in, 0))
	began := time.Now()
	acceptMany(t, in, sample, million-sample, size)
	t.Logf("on the way: %.0f accepts/s", float64(million-sample)/time.Since(began).Seconds())
	t.Logf("with a million: %.0f accepts/s", rate(in, million))
	memory("with a million")
	t.Logf("%+v", stats(t, in).Totals)
	require.NoError(t, in.Close(context.Background()))

	t.Log("after a clean end")
	in = open()
	memory("opened")
	rate(in, 2*million) // so that the list of free pages is not on disk any more
	in.Store().(*Store).abandon()
	_ = in.Close(context.Background()) // of which the store knows nothing any more

	t.Log("after a crash")
	in = open()
	t.Logf("with a million: %.0f accepts/s", rate(in, 3*million))
	var delivered atomic.Int64
	began = time.Now()
	release := storetest.SetRoute(
		in,
		"r",
		spool.RouteConfig{Deliver: func(context.Context, *spool.Message, spool.Body) spool.Result {
			delivered.Add(1)
			return spool.Result{Status: 200}
		}},
	)
	first := time.Duration(0)
	for delivered.Load() < int64(million)/10 {
		if first == 0 && delivered.Load() > 0 {
			first = time.Since(began)
		}
		runtime.Gosched()
	}
	t.Logf("first delivery after %s, %d in %s", first, delivered.Load(), time.Since(began))
	memory("delivering")
	release(context.Background())
	require.NoError(t, in.Close(context.Background()))
}

// TestAMillionKept tells what a long history costs: nothing of it is on the way of what comes.
func TestAMillionKept(t *testing.T) {
	million, _ := strconv.ParseUint(os.Getenv("SPOOL_KEPT"), 10, 64)
	if million == 0 {
		t.Skip("set SPOOL_KEPT to run it")
	}
	const size = 1 << 10
	ctx := context.Background()
	dir := t.TempDir()
	open := func() *spool.Inbox {
		began := time.Now()
		in, err := openInbox(dir, inboxOptions{})
		require.NoError(t, err)
		t.Logf("opened in %s, %d MB", time.Since(began), residentMemory(t)>>20)
		return in
	}
	deliver := func(in *spool.Inbox, first, count uint64) {
		began, cpu := time.Now(), cpuTime(t)
		acceptMany(t, in, first, count, size)
		accepted, used := time.Since(began), cpuTime(t)-cpu
		for stats(t, in).Pending > 0 {
			require.NoError(t, in.Store().Flush(ctx))
		}
		t.Logf(
			"%d kept: %.0f accepts/s, %.1f µs of CPU each; delivered in %s",
			stats(t, in).Delivered,
			float64(
				count,
			)/accepted.Seconds(),
			float64(used.Microseconds())/float64(count),
			time.Since(began),
		)
	}
	in := open()
	route := spool.RouteConfig{Deliver: deliverAll, Keep: 24 * time.Hour}
	release := storetest.SetRoute(in, "r", route)
	sample := million / 20
	deliver(in, 0, sample)
	deliver(in, sample, million-sample)
	deliver(in, million, sample)

	look := func(what string, filter spool.Filter, want int) {
		for range 3 {
			began := time.Now()
			list, err := in.List(ctx, filter)
			took := time.Since(began)
			require.NoError(t, err)
			require.Len(t, list, want)
			t.Logf("%s: %s", what, took)
		}
	}
	n := million / 2
	look("one by its request id", spool.Filter{
		RequestID: fmt.Sprintf(`%08x-0000-4000-8000-%012x`, n>>32, n),
	}, 1)
	look("one that is not there", spool.Filter{RequestID: "none"}, 0)
	look("the newest hundred", spool.Filter{Newest: true}, 100)
	look("of a time", spool.Filter{Since: time.Now().Add(-time.Minute), Newest: true}, 100)

	// A replay of a tenth of them while others come, 200 a second.
	began := time.Now()
	var late []time.Duration
	var mu sync.Mutex
	release(ctx)
	route.Deliver = func(_ context.Context, msg *spool.Message, _ spool.Body) spool.Result {
		mu.Lock()
		defer mu.Unlock()
		if !msg.Replayed {
			late = append(late, time.Since(msg.ReceivedAt))
		}
		return spool.Result{Status: http.StatusOK}
	}
	release = storetest.SetRoute(in, "r", route)
	replaying := make(chan int, 1)
	go func() {
		filter := spool.Filter{State: spool.Delivered, Limit: 256}
		total := 0
		for done := false; !done && total < int(million)/10; {
			var n int
			var err error
			n, filter.After, done, err = in.Store().ReplayAll(ctx, filter)
			require.NoError(t, err)
			total += n
		}
		replaying <- total
	}()
	ticker := time.NewTicker(5 * time.Millisecond)
	defer ticker.Stop()
	for i := uint64(0); ; i++ {
		<-ticker.C
		acceptMany(t, in, 10*million+i, 1, size)
		if len(replaying) > 0 && stats(t, in).Pending < 10 {
			break
		}
	}
	took := time.Since(began)
	mu.Lock()
	slices.Sort(late)
	t.Logf(
		"%d replayed in %s; of %d that came meanwhile, half were delivered in %s, 99 %% in %s",
		<-replaying,
		took,
		len(late),
		late[len(late)/2],
		late[len(late)*99/100],
	)
	mu.Unlock()
	release(ctx)
	require.NoError(t, in.Close(ctx))
	in = open()
	require.NoError(t, in.Close(ctx))
}

// TestManyLargeBodiesAtOnceTakeLittleMemory has a large body arrive on many connections at the
// same time.
func TestManyLargeBodiesAtOnceTakeLittleMemory(t *testing.T) {
	size := 32 << 20
	if testing.Short() || race.Enabled {
		size = 1 << 20
	}
	in := openTestInbox(t, disktest.TempDir(t), inboxOptions{})
	debug.FreeOSMemory()
	before := residentMemory(t)
	var peak atomic.Int64
	var writers sync.WaitGroup
	for i := range 32 {
		writers.Go(func() {
			body := &largeBody{rest: size, seed: rand.NewPCG(uint64(i), 1)}
			_, err := in.Accept(
				context.Background(),
				spool.Envelope{Route: "r", URI: "/", ContentLength: int64(size)},
				body,
			)
			if err != nil {
				t.Error(err)
			}
			now := residentMemory(t)
			for seen := peak.Load(); now > seen && !peak.CompareAndSwap(seen, now); seen = peak.Load() {
			}
		})
	}
	writers.Wait()
	grown := peak.Load() - before
	t.Logf("%d MB more memory for 32 bodies of %d MB", grown>>20, size>>20)
	require.Less(t, grown, int64(64<<20))
	require.Equal(t, int64(32*size), stats(t, in).PendingBytes)
}

// largeBody is made while it is read.
type largeBody struct {
	rest int
	seed *rand.PCG
}

func (b *largeBody) Read(p []byte) (int, error) {
	if b.rest == 0 {
		return 0, io.EOF
	}
	n := min(len(p), b.rest)
	for i := 0; i+8 <= n; i += 8 {
		binary.LittleEndian.PutUint64(p[i:], b.seed.Uint64())
	}
	b.rest -= n
	return n, nil
}

//go:build unix

package postgres

import (
	"context"
	"crypto/rand"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/caddy-deepgram/deepgram-callback/internal/testpostgres"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool"
	"github.com/caddy-deepgram/deepgram-callback/relay/spool/postgres/record"
)

// cpuTime returns the processor time that this process has used, which is not that of the database.
func cpuTime(t testing.TB) time.Duration {
	var usage syscall.Rusage
	require.NoError(t, syscall.Getrusage(syscall.RUSAGE_SELF, &usage))
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

const benchSenders = 32

// acceptMany has senders accept bodies of a size, each with a request id of its own.
func acceptMany(t testing.TB, stores []*Store, count, size int) {
	ctx := context.Background()
	var next atomic.Int64
	var senders sync.WaitGroup
	for i := range benchSenders {
		s := stores[i%len(stores)]
		senders.Go(func() {
			content := make([]byte, size)
			for next.Add(1) <= int64(count) {
				id := uuid.New()
				_, _ = rand.Read(content[:min(64, size)])
				w, err := s.NewBody(ctx, int64(size))
				if err == nil {
					_, err = w.Write(content)
				}
				if err == nil {
					_, err = s.Accept(ctx, &spool.Message{
						Route: "r", Method: "POST", URI: "/hook", RequestID: id.String(),
						OrderKey: uint64(record.Tick(spool.ID(id))) | 1, Destination: 1,
						Header: http.Header{
							"Content-Type":    {"application/json"},
							"User-Agent":      {"okhttp/4.9"},
							"Accept-Encoding": {"gzip"},
							"Accept":          {"*/*"},
						},
					}, spool.Fingerprint(append(id[:], id[:]...)), time.Hour, w)
				}
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	senders.Wait()
}

// deliverMany has deliveries take what comes until there were so many.
func deliverMany(t testing.TB, stores []*Store, count int, keep bool) {
	ctx := context.Background()
	var left atomic.Int64
	left.Store(int64(count))
	var all sync.WaitGroup
	for _, s := range stores {
		woken := make(chan struct{}, 1)
		s.Watch(func(string) {
			select {
			case woken <- struct{}{}:
			default:
			}
		})
		all.Go(func() {
			for left.Load() > 0 {
				leased, err := s.Lease(ctx, spool.LeaseRequest{Route: "r", Max: 64})
				if err != nil {
					t.Error(err)
					return
				}
				for _, lease := range leased.Leases {
					if body, err := s.Body(ctx, lease.Message.ID); err != nil {
						t.Error(err)
					} else {
						_ = body.Close()
					}
					s.Settle(
						lease,
						spool.Settlement{
							Verdict: spool.Done,
							Keep:    keep,
							Attempt: spool.Attempt{At: time.Now(), Status: 200},
						},
					)
				}
				if left.Add(-int64(len(leased.Leases))); len(leased.Leases) > 0 {
					continue
				}
				select {
				case <-woken:
				case <-time.After(50 * time.Millisecond):
				}
			}
			require.NoError(t, s.Flush(ctx))
		})
	}
	all.Wait()
}

func report(b *testing.B, began time.Duration) {
	b.StopTimer()
	b.ReportMetric(float64((cpuTime(b)-began).Nanoseconds())/float64(b.N)/1e3, "µs-cpu/op")
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "ops/s")
}

func benchStores(b *testing.B, n int) (stores []*Store) {
	dsn := testpostgres.DSN(b)
	schema := testpostgres.NewSchema(b, dsn)
	for range n {
		s := openTest(b, dsn, Options{Schema: schema})
		b.Cleanup(func() { require.NoError(b, s.Close(context.Background())) })
		stores = append(stores, s)
	}
	return stores
}

func BenchmarkAccept(b *testing.B) {
	for _, size := range []int{1536, 16 << 10} {
		b.Run(fmt.Sprintf("%dB", size), func(b *testing.B) {
			stores := benchStores(b, 1)
			b.ResetTimer()
			began := cpuTime(b)
			acceptMany(b, stores, b.N, size)
			report(b, began)
		})
	}
}

func BenchmarkAcceptAndDeliver(b *testing.B) {
	for _, gateways := range []int{1, 2} {
		for _, keep := range []bool{false, true} {
			b.Run(fmt.Sprintf("16KB/gateways=%d/keep=%t", gateways, keep), func(b *testing.B) {
				stores := benchStores(b, gateways)
				b.ResetTimer()
				began := cpuTime(b)
				var both sync.WaitGroup
				both.Go(func() { acceptMany(b, stores, b.N, 16<<10) })
				both.Go(func() { deliverMany(b, stores, b.N, keep) })
				both.Wait()
				report(b, began)
			})
		}
	}
}

// TestAMillionPending measures what a backlog costs; it takes minutes, so only
//
//	POSTGRES_PENDING=1000000 go test -run AMillionPending -v ./relay/spool/postgres
//
// runs it, with so many messages.
func TestAMillionPending(t *testing.T) {
	million, _ := strconv.Atoi(os.Getenv("POSTGRES_PENDING"))
	if million == 0 {
		t.Skip("set POSTGRES_PENDING to run it")
	}
	const size = 1 << 10
	sample := million / 20
	dsn := testpostgres.DSN(t)
	schema := testpostgres.NewSchema(t, dsn)
	s := openTest(t, dsn, Options{Schema: schema})
	rate := func(what string, n int, f func()) {
		began, cpu := time.Now(), cpuTime(t)
		f()
		t.Logf(
			"%s: %.0f/s, %.0f µs of CPU",
			what,
			float64(n)/time.Since(began).Seconds(),
			float64((cpuTime(t)-cpu).Microseconds())/float64(n),
		)
	}
	measure := func(when string) {
		rate(when+": accept", sample, func() { acceptMany(t, []*Store{s}, sample, size) })
		rate(when+": lease", sample, func() { deliverMany(t, []*Store{s}, sample, false) })
	}
	measure("empty")
	rate("on the way", million, func() { acceptMany(t, []*Store{s}, million, size) })
	measure("with a million")
	for _, look := range []struct {
		what string
		f    func() error
	}{
		{"counts", func() error { _, err := s.Counts(context.Background()); return err }},
		{"list the newest", func() error {
			_, err := s.List(context.Background(), spool.Filter{Newest: true})
			return err
		}},
		{"find by request id", func() error {
			_, err := s.List(context.Background(), spool.Filter{RequestID: uuid.NewString()})
			return err
		}},
	} {
		var took []time.Duration
		for range 20 {
			began := time.Now()
			require.NoError(t, look.f())
			took = append(took, time.Since(began))
		}
		slices.Sort(took)
		t.Logf("%s: %s", look.what, took[len(took)/2])
	}
	require.NoError(t, s.Close(context.Background()))
}

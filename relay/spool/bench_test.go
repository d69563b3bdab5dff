package spool

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"net/http"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// cpuTime returns the processor time that this process has used.
func cpuTime(tb testing.TB) time.Duration {
	var usage syscall.Rusage
	require.NoError(tb, syscall.Getrusage(syscall.RUSAGE_SELF, &usage))
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

func BenchmarkStoreAccept16K(b *testing.B) {
	var commits atomic.Int64
	d, err := OpenDisk(b.TempDir(), DiskOptions{Synced: func(time.Duration) { commits.Add(1) }})
	require.NoError(b, err)
	body := make([]byte, 16<<10)
	_, _ = rand.Read(body)
	var n atomic.Uint64
	b.SetParallelism(16)
	b.ResetTimer()
	cpu := cpuTime(b)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			i := n.Add(1)
			var seed [8]byte
			binary.BigEndian.PutUint64(seed[:], i)
			w, err := d.NewBody(int64(len(body)))
			if err != nil {
				b.Error(err)
				return
			}
			_, _ = w.Write(body)
			now := time.Now()
			_, err = d.Accept(context.Background(), &Message{Route: "a", Method: "POST", URI: "/x", OrderKey: i, ReceivedAt: now, ScheduledFrom: now,
				Header: http.Header{"Content-Type": {"application/json"}, "User-Agent": {"x"}}}, sha256.Sum256(seed[:]), time.Hour, w)
			if err != nil {
				b.Error(err)
				return
			}
		}
	})
	b.StopTimer()
	b.ReportMetric(float64(cpuTime(b)-cpu)/float64(b.N)/1e3, "µs-cpu/op")
	b.ReportMetric(float64(b.N)/float64(commits.Load()), "accepts/commit")
	require.NoError(b, d.Close())
}
